import { PAGE_SIZE } from '@cvm/layout';
import type { GpaRange } from '../../src/geometry.js';
import { HelperPhase, HelperStatus } from '../../src/mailbox/abi.js';
import { Machine, type MakeCore, type Message, type Outcome, type Surroundings } from './machine.js';
import { Interned, PageStore } from './memory.js';

/** A small world: a few machines, a few pages, and how often things may happen. */
export interface World {
	readonly name: string;
	/** Exactly one is `idle`: the guest runs there. */
	readonly machines: readonly {
		readonly name: string;
		readonly role: 'idle' | 'empty';
		readonly makeCore?: MakeCore;
	}[];
	/** Private pages of RAM, nothing else. */
	readonly pages: readonly number[];
	readonly streams: number;
	readonly limits: Surroundings['limits'];
	/** Also every message into every command, and altered messages. */
	readonly anyInput?: boolean;
	/** Other commands come between the slices of long work. */
	readonly inSlices?: boolean;
	readonly saveAreas?: readonly number[];
}

/** Everything at one moment. The network is what the hosts know: they may give it to any helper, at any time, or never. */
export interface State {
	/** By machine. */
	readonly locals: readonly number[];
	/** Number of a set of messages. */
	readonly known: number;
	/** What the guest had when it last ran. */
	readonly truth: number;
	readonly writes: number;
	readonly shares: number;
}

export interface Step {
	readonly machine: number;
	readonly outcome: Outcome;
	/** Number of the message given, −1: none. */
	readonly message: number;
}

/** What must never be. */
export type Violation =
	| 'two copies run'
	| 'stale memory runs'
	| 'the source runs with other memory'
	| 'no copy can run'
	| 'the hand-over has no end in which one copy runs'
	| 'key and IV used twice';

export const keyOf = (state: State): string =>
	`${state.locals.join()};${state.known};${state.truth};${state.writes};${state.shares}`;

const WAITING: readonly number[] = [HelperPhase.frozen, HelperPhase.proven];

/** What may happen in a world, and what must not. */
export class Rules {
	readonly world: World;
	readonly machines: readonly Machine[];
	readonly messages = new Interned<Message>();
	readonly start: State;
	private readonly known = new Interned<readonly number[]>();
	private readonly additions = new Map<string, { known: number; isReused: boolean }>();
	private readonly endings = new Map<string, boolean>();

	constructor(world: World, makeCore: MakeCore, prepare: (write: (gpa: number, data: Uint8Array) => void) => void) {
		this.world = world;
		const { pages, streams, limits, anyInput = false, inSlices = false, saveAreas = [] } = world;
		const ram: GpaRange[] = [...pages, ...saveAreas]
			.sort((a, b) => a - b)
			.map((gpa) => ({ start: gpa, end: gpa + PAGE_SIZE }));
		const contents = new Interned<string>();
		const shared = { store: new PageStore(), messages: this.messages, contents };
		const surroundings = { ...shared, ram, pages, streams, limits, anyInput, inSlices, saveAreas };
		this.machines = world.machines.map(
			(m) => new Machine(m.name, m.role, surroundings, m.makeCore ?? makeCore, prepare),
		);
		const runs = world.machines.findIndex(({ role }) => role === 'idle');
		const locals = this.machines.map((machine) => machine.start);
		const truth = this.machines[runs]?.view(locals[runs] ?? 0).content ?? 0;
		this.start = { locals, known: this.setNumber([]), truth, writes: 0, shares: 0 };
	}

	/** Every step out of a state. */
	*steps(state: State): Generator<Step> {
		const known = this.known.at(state.known);
		for (const [m, machine] of this.machines.entries()) {
			const local = state.locals[m] ?? 0;
			for (const outcome of machine.free(local)) yield { machine: m, outcome, message: -1 };
			for (const outcome of machine.guest(local, state.writes, state.shares)) {
				yield { machine: m, outcome, message: -1 };
			}
			for (const message of known) {
				for (const outcome of machine.given(local, message)) yield { machine: m, outcome, message };
			}
		}
	}

	/** The state after a step, and what is wrong with the step itself. */
	apply(state: State, { machine: m, outcome }: Step): { next: State; violations: readonly Violation[] } {
		const locals = state.locals.with(m, outcome.next);
		const machine = this.at(m);
		const before = machine.view(state.locals[m] ?? 0);
		const after = machine.view(outcome.next);
		let { truth, writes, shares } = state;
		if (outcome.label.startsWith('write')) {
			writes += 1;
			truth = after.content;
		} else if (outcome.label.startsWith('share')) {
			shares += 1;
			truth = after.content;
		}
		const added = this.add(state.known, outcome);
		const next = { locals, known: added.known, truth, writes, shares };
		const violations: Violation[] = [];
		if (added.isReused) violations.push('key and IV used twice');
		if (after.canRun && after.content !== truth && !(before.canRun && before.content === after.content)) {
			const isTarget = before.phase >= HelperPhase.empty;
			violations.push(isTarget ? 'stale memory runs' : 'the source runs with other memory');
		}
		return { next, violations };
	}

	/** What is wrong with a state. */
	check(state: State): readonly Violation[] {
		let running = 0;
		for (const [m, machine] of this.machines.entries()) if (machine.view(state.locals[m] ?? 0).canRun) running += 1;
		if (running > 1) return ['two copies run'];
		if (running === 1) return [];
		const phases = this.machines.map((machine, m) => machine.view(state.locals[m] ?? 0).phase);
		const waiting = phases.findIndex((phase) => WAITING.includes(phase));
		if (waiting >= 0) return this.canCancel(waiting, state) ? [] : ['no copy can run'];
		if (!phases.includes(HelperPhase.committed)) return ['no copy can run'];
		return this.hasEnding(state) ? [] : ['the hand-over has no end in which one copy runs'];
	}

	/** The state has a target that runs. */
	isHandedOver(state: State): boolean {
		return this.machines.some((machine, m) => machine.view(state.locals[m] ?? 0).phase === HelperPhase.retired);
	}

	isCommitted(state: State): boolean {
		return this.machines.some((machine, m) => machine.view(state.locals[m] ?? 0).phase === HelperPhase.committed);
	}

	private canCancel(m: number, state: State): boolean {
		const machine = this.at(m);
		const { status, next } = machine.control(state.locals[m] ?? 0, 'cancel');
		const view = machine.view(next);
		return (
			status === HelperStatus.success && view.phase === HelperPhase.idle && view.canRun && view.content === state.truth
		);
	}

	/**
	 * Hosts that mean well give every START that they know to every target; if none runs by that, they ask all targets to abort,
	 * and give every ABORT that they then know to the source. After that exactly one copy runs.
	 */
	private hasEnding(state: State): boolean {
		const key = `${state.locals.join()};${state.known}`;
		let result = this.endings.get(key);
		if (result === undefined) {
			result = this.findEnding(state);
			this.endings.set(key, result);
		}
		return result;
	}

	private findEnding(state: State): boolean {
		const locals = [...state.locals];
		let { known } = state;
		const each = (command: 'run' | 'abort' | 'revive', kind?: string): void => {
			for (const [m, machine] of this.machines.entries()) {
				const inputs = kind === undefined ? [undefined] : this.known.at(known);
				for (const message of inputs) {
					if (message !== undefined && this.messages.at(message).kind !== kind) continue;
					const outcome = machine.control(locals[m] ?? 0, command, message);
					if (outcome.status !== HelperStatus.success) continue;
					locals[m] = outcome.next;
					known = this.add(known, outcome).known;
				}
			}
		};
		const running = (): number =>
			this.machines.filter((machine, m) => {
				const view = machine.view(locals[m] ?? 0);
				return view.canRun && view.content === state.truth;
			}).length;
		each('run', 'START');
		if (running() === 1) return true;
		each('abort');
		each('revive', 'ABORT');
		return running() === 1;
	}

	private at(m: number): Machine {
		const machine = this.machines[m];
		if (machine === undefined) throw new Error(`machine: expected below ${this.machines.length}, got ${m}`);
		return machine;
	}

	private setNumber(set: readonly number[]): number {
		return this.known.number(set.join(), () => set);
	}

	/** What is known after a step; whether it sealed with a key and IV that an earlier seal had. */
	private add(known: number, { output, seals }: Outcome): { known: number; isReused: boolean } {
		if (output < 0 && seals.length === 0) return { known, isReused: false };
		const key = `${known}/${output}`;
		let result = this.additions.get(key);
		if (result === undefined) {
			const set = this.known.at(known);
			const used = new Set(set.flatMap((message) => this.messages.at(message).seals));
			const isReused = seals.some((seal) => used.has(seal)) || new Set(seals).size < seals.length;
			const isNew = output >= 0 && !set.includes(output);
			result = { known: isNew ? this.setNumber([...set, output].sort((a, b) => a - b)) : known, isReused };
			this.additions.set(key, result);
		}
		return result;
	}
}
