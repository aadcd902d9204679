import type { RandomSource } from '@cvm/crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { HelperGeometry } from '../../src/geometry.js';
import { HelperCommand, HelperPhase, HelperStatus } from '../../src/mailbox/abi.js';
import { createHelperCore, MessageType, stateLayout, streamAddress, streamLayout } from '../../src/session/index.js';
import { sealMessage } from '../../src/session/message.js';
import type { HelperMemory, HelperPlatform } from '../../src/session/ports.js';
import { SessionState } from '../../src/session/state.js';
import { type PhaseName, SESSION_TABLE } from '../../src/session/transitions.js';
import { RECORD_SALT_BYTES } from '../../src/session/wire.js';
import { explore, ReplayError, replay } from './explore.js';
import type { MakeCore } from './machine.js';
import { publishedCore } from './published.js';
import { symbolicProvider } from './symbolic.js';
import { Rules, type Violation, type World } from './world.js';
import { rulesOf } from './worlds.js';

/*
 * An explorer that finds nothing may be blind. Here one rule at a time is broken on purpose, and it has to find what comes of that: the
 * shortest trace, which goes the same way again, and which the rule prevents where it is whole.
 */

const MOST = 300_000;
const [P, Q] = [0x1000000, 0x1001000] as const;
const A = { name: 'A', role: 'idle' } as const;
const B = { name: 'B', role: 'empty' } as const;
const C = { name: 'C', role: 'empty' } as const;
const once = { hellos: 1, accepts: 1, saves: 1, epochs: 0, writes: 0, shares: 0 } as const;
const pair: World = { name: 'pair', machines: [A, B], pages: [P], streams: 1, limits: once };

/** The table of transitions with one more in it, for the time of a test. */
type Next = Partial<Record<PhaseName, PhaseName>>;
const undo: (() => void)[] = [];
const allow = (command: keyof typeof SESSION_TABLE, from: PhaseName, to: PhaseName): void => {
	const next: Next = SESSION_TABLE[command].next;
	const before = next[from];
	next[from] = to;
	undo.push(() => {
		if (before === undefined) delete next[from];
		else next[from] = before;
	});
};
afterEach(() => {
	for (const each of undo.splice(0)) each();
});

/** Memory in which some writes do not happen, or some reads see something else. */
const memoryThat = (memory: HelperMemory, change: Partial<HelperMemory>): HelperMemory => ({
	ram: memory.ram,
	read: (gpa, out) => memory.read(gpa, out),
	write: (gpa, data) => memory.write(gpa, data),
	exchange: (gpa, value) => memory.exchange(gpa, value),
	...change,
});

const gateStaysOpen: MakeCore = (platform) => {
	const { memory } = platform;
	const write: HelperMemory['write'] = (gpa, data) => {
		if (gpa !== HelperGeometry.gate) memory.write(gpa, data);
	};
	const exchange: HelperMemory['exchange'] = (gpa, value) =>
		gpa === HelperGeometry.gate ? 0 : memory.exchange(gpa, value);
	return createHelperCore({ ...platform, memory: memoryThat(memory, { write, exchange }) });
};

/** The target takes its own digest for that of the manifest. */
const manifestNotCompared: MakeCore = (platform) => {
	const core = createHelperCore(platform);
	return {
		...core,
		control: (command, input, argument, stream) => {
			if (command === HelperCommand.verify) {
				const own = new Uint8Array(32);
				platform.memory.read(streamAddress(0) + streamLayout.offsetOf('digest'), own);
				if (phaseOf(platform) === HelperPhase.proving)
					platform.memory.write(HelperGeometry.state + stateLayout.offsetOf('expected'), own);
			}
			return core.control(command, input, argument, stream);
		},
	};
};

/** The source writes itself the READY that it waits for: it has all keys for that. */
const readyNotAwaited: MakeCore = (platform) => {
	const core = createHelperCore(platform);
	return {
		...core,
		control: (command, input, argument, stream) => {
			if (command !== HelperCommand.manifest) return core.control(command, input, argument, stream);
			const result = core.control(command, input, argument, stream);
			if (result.status !== HelperStatus.success) return result;
			const state = new SessionState();
			state.load(platform.memory);
			const answers = state.bytes('answers').slice();
			state.bytes('outKey').set(state.bytes('inKey'));
			state.setNum('sent', state.num('taken'));
			const ready = sealMessage(unwatched, state, MessageType.ready, { answers });
			core.control(HelperCommand.start, ready, 0);
			return result;
		},
	};
};

/** Neither end knows what was sealed or opened in an epoch. */
const duplicatesAllowed: MakeCore = (platform) => {
	const { memory } = platform;
	const read: HelperMemory['read'] = (gpa, out) => {
		memory.read(gpa, out);
		if (gpa >= HelperGeometry.epochMap && gpa < HelperGeometry.epochMap + HelperGeometry.mapBytes) out.fill(0);
	};
	return createHelperCore({ ...platform, memory: memoryThat(memory, { read }) });
};

const unwatched = symbolicProvider();

const phaseOf = ({ memory }: HelperPlatform): number => {
	const word = new Uint8Array(4);
	memory.read(HelperGeometry.state + stateLayout.offsetOf('phase'), word);
	return word[0] ?? 0;
};

/** Every record begins at the same IV: what a host does that puts old ciphertext of the counters back. */
const ivRestarts: MakeCore = (platform) => {
	const core = createHelperCore(platform);
	return {
		...core,
		seal: (stream, gpas, count, out) => {
			platform.memory.write(streamAddress(stream) + streamLayout.offsetOf('ivCounter'), new Uint8Array(8));
			return core.seal(stream, gpas, count, out);
		},
	};
};

/** The same, with one salt for all records. */
const saltRepeats: MakeCore = (platform) => {
	const { random } = platform;
	const fill: RandomSource['fill'] = (out) => (out.length === RECORD_SALT_BYTES ? void out.fill(1) : random.fill(out));
	return ivRestarts({ ...platform, random: { fill, bytes: (length) => random.bytes(length) } });
};

/** A generator that starts again with each session: what a host could do to a guest that took its word for random numbers. */
const randomRepeats: MakeCore = (platform) => {
	const bytes = (length: number): Uint8Array => new Uint8Array(length).fill(0x5e);
	const random: RandomSource = {
		bytes: (length) => {
			platform.random.bytes(1);
			return bytes(length);
		},
		fill: (out) => out.set(platform.random.bytes(1).length === 1 ? bytes(out.length) : out),
	};
	return createHelperCore({ ...platform, random });
};

const cases: readonly {
	readonly rule: string;
	readonly world: World;
	readonly finds: Violation;
	/** What else comes of it, sooner. */
	readonly ignores?: readonly Violation[];
	readonly makeCore?: MakeCore;
	readonly breakIt?: () => void;
}[] = [
	{
		rule: 'after START a source goes on only with ABORT',
		world: pair,
		finds: 'two copies run',
		breakIt: () => allow('cancel', 'committed', 'idle'),
	},
	{
		rule: 'a source that is committed begins no other session: one START for one target',
		world: { ...pair, machines: [A, B, C], limits: { ...once, hellos: 2 } },
		finds: 'two copies run',
		ignores: ['no copy can run', 'the hand-over has no end in which one copy runs'],
		breakIt: () => {
			allow('hello', 'committed', 'offered');
			allow('confirm', 'offered', 'sending');
		},
	},
	{
		rule: 'freeze closes the gate',
		world: { ...pair, limits: { ...once, writes: 1 } },
		finds: 'two copies run',
		makeCore: gateStaysOpen,
	},
	{
		rule: 'the target compares its memory with the manifest',
		world: { ...pair, pages: [P, Q] },
		finds: 'stale memory runs',
		ignores: ['the hand-over has no end in which one copy runs'],
		makeCore: manifestNotCompared,
	},
	{
		rule: 'the source commits itself to a target that is ready, and to no other',
		world: pair,
		finds: 'the hand-over has no end in which one copy runs',
		makeCore: readyNotAwaited,
	},
	{
		rule: 'each record has a key of its own, made of a random salt, should its counter go back',
		world: { ...pair, limits: { ...once, saves: 2, epochs: 1 } },
		finds: 'key and IV used twice',
		makeCore: saltRepeats,
	},
	{
		rule: 'each session has keys of its own',
		world: { ...pair, limits: { ...once, hellos: 2, accepts: 2 } },
		finds: 'key and IV used twice',
		makeCore: randomRepeats,
	},
];

describe('with one rule broken, the explorer finds what it is for', () => {
	for (const { rule, world, finds, ignores, makeCore, breakIt } of cases) {
		it(rule, () => {
			const broken = (): Rules => rulesOf(world, makeCore);
			breakIt?.();
			const { counterexample, states } = explore(broken(), MOST, ignores);
			expect(counterexample?.violation, `in ${states} states`).toBe(finds);
			const trace = counterexample?.trace ?? [];
			expect(replay(broken(), trace, ignores)).toBe(finds);
			expect(replay(broken(), trace.slice(0, -1), ignores), 'its last step is what does it').toBeUndefined();
			for (const each of undo.splice(0)) each();
			expect(
				isPrevented(() => replay(rulesOf(world), trace)),
				'the whole rule prevents it',
			).toBe(true);
		});
	}
});

it('A3: a page twice in an epoch is the one rule that nothing hangs on: order and manifest do without it', () => {
	const world: World = { ...pair, limits: { ...once, saves: 3, writes: 1 } };
	const broken = explore(rulesOf(world, duplicatesAllowed), MOST);
	expect(broken.counterexample).toBeUndefined();
	expect(broken.isComplete).toBe(true);
	expect(broken.states, 'more can happen').toBeGreaterThan(explore(rulesOf(world), MOST).states);
});

it('A12: counters that are put back give no key and IV twice', () => {
	const world: World = { ...pair, limits: { ...once, saves: 2, epochs: 1 } };
	const found = explore(rulesOf(world, ivRestarts), MOST);
	expect(found.counterexample).toBeUndefined();
	expect(found.isComplete).toBe(true);
});

/** Either a step of it is not possible any more, or nothing comes of it. */
const isPrevented = (act: () => Violation | undefined): boolean => {
	try {
		return act() === undefined;
	} catch (error) {
		if (error instanceof ReplayError) return true;
		throw error;
	}
};

describe('the published design, in which the hosts decide', () => {
	const world: World = { ...pair, pages: [P, Q], limits: { ...once, saves: 2, writes: 1 } };
	const rules = () => new Rules(world, publishedCore, () => {});
	const all: readonly Violation[] = [
		...(['two copies run', 'stale memory runs', 'the source runs with other memory'] as const),
		...(['no copy can run', 'the hand-over has no end in which one copy runs'] as const),
	];
	const without = (wanted: Violation) => all.filter((each) => each !== wanted);
	const trace = (wanted: Violation) => explore(rules(), 50_000, without(wanted)).counterexample;

	it('A2: a source takes back pages that are not its own', () => {
		expect(trace('the source runs with other memory')).toEqual({
			violation: 'the source runs with other memory',
			trace: ['1: B.save/0[0]', '2: A.restore(1)'],
		});
	});

	it('A5: a target runs without pages', () => {
		const found = trace('stale memory runs');
		expect(found).toEqual({ violation: 'stale memory runs', trace: ['1: B.cancel'] });
	});

	it('A7: a target runs beside its source', () => {
		const found = trace('two copies run');
		expect(found?.violation).toBe('two copies run');
		expect(replay(rules(), found?.trace ?? [], without('two copies run'))).toBe('two copies run');
	});
});
