import type { CryptoProvider } from '@cvm/crypto';
import type { Block, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES, HelperGeometry, MAX_HELPERS } from '../../geometry.js';
import { HelperCommand, HelperStatus, MAX_HELPER_MESSAGE, MAX_IO_HEADER } from '../../mailbox/abi.js';
import { saveAreaProblem } from '../../resume/index.js';
import { createHelperCore, type HelperCore } from '../../session/index.js';
import {
	announceReady,
	finishCommand,
	giveBodies,
	giveHeader,
	inputLimit,
	isPosted,
	type Outcome,
	type PrivateCommand,
	setAsleep,
	takeAddresses,
	takeBodies,
	takeCommand,
	takeHeader,
} from './mailbox.js';
import { helperMemory, rdrandSource } from './memory.js';
import { enterHelperTables } from './paging.js';
import { type RecordedGuest, recordedGuest } from './record.js';

/** Looks at `go` within one block, and in a row before the helper sleeps. */
const POLLS = 64;
const POLLS_BEFORE_SLEEP = 8192;

/**
 * What a helper does without a command. `sleep`: after some thousand looks it halts until the next tick or until its host kicks it.
 * `spin`: it goes on looking, as the posted handler does; also for a processor on which HLT is intercepted (SEV-ES).
 */
export type IdlePolicy = 'sleep' | 'spin';

/** Offsets in the scratch page of a helper: a command that takes several blocks, as it was copied from the mailbox. */
const Pending = { nr: 0, count: 4, sequence: 8 } as const;
const NOTHING = new Uint8Array(0);
const scratchOf = (helper: number): number => HelperGeometry.scratch + PAGE_SIZE * helper;

/** What a thread keeps besides guest memory: the core, which is code and caches, and buffers that no block expects anything in. */
interface Engine {
	readonly core: HelperCore;
	readonly page: Uint8Array;
	readonly gpas: Float64Array;
	readonly header: Uint8Array;
	readonly bodies: Uint8Array;
}

/** The core over the memory that a vCPU reaches. */
export const coreOf = (cpu: GuestCpu, guest: RecordedGuest, provider: CryptoProvider): HelperCore =>
	createHelperCore({
		memory: helperMemory(cpu, guest),
		provider,
		random: rdrandSource(cpu),
		saveAreas: guest.saveAreas,
		isSaveArea: (page) => saveAreaProblem(page) === undefined,
	});

const failure = (status: number, detail = 0): Outcome => ({ status, detail, outputLength: 0 });

/** SAVE. Plain pages are read and sealed in private memory; only the record goes out. */
function save(cpu: GuestCpu, helper: number, command: PrivateCommand, engine: Engine): Outcome {
	const { core, gpas, header, bodies } = engine;
	const list = takeAddresses(command, gpas);
	if (list.status !== HelperStatus.success) return failure(list.status, list.detail);
	const sealed = core.seal(helper, gpas, command.count, { header, bodies });
	if (sealed.status !== HelperStatus.success) return failure(sealed.status, sealed.detail);
	const outputLength = sealed.bodies * PAGE_SIZE;
	giveBodies(cpu, helper, bodies.subarray(0, outputLength));
	giveHeader(cpu, helper, header.subarray(0, sealed.headerLength));
	return { status: sealed.status, detail: 0, outputLength };
}

/** RESTORE. The record is copied, then checked, then opened; only then is a page of the guest written. */
function restore(cpu: GuestCpu, helper: number, command: PrivateCommand, engine: Engine): Outcome {
	const { core, gpas, bodies } = engine;
	const list = takeAddresses(command, gpas);
	if (list.status !== HelperStatus.success) return failure(list.status, list.detail);
	const header = takeHeader(command);
	if (header === undefined) return failure(HelperStatus.length);
	const input = bodies.subarray(0, command.inputLength);
	takeBodies(cpu, helper, input);
	const opened = core.open(helper, gpas, command.count, header, input);
	return failure(opened.status, opened.detail);
}

/**
 * The loop of a helper on a vCPU of its own. RBX: index of the helper; R12: looks at `go` since the last command. Everything
 * else is in guest memory. `mh.hardened.main` wants long mode with the low 16 MiB mapped one to one and private.
 */
export function serveBlocks(provider: CryptoProvider, idlePolicy: IdlePolicy): Record<string, Block> {
	const engines = new WeakMap<GuestCpu, Engine>();
	const engineOf = (cpu: GuestCpu): Engine | undefined => {
		const known = engines.get(cpu);
		if (known !== undefined) return known;
		const guest = recordedGuest(cpu);
		if (guest === undefined) return undefined;
		const engine: Engine = {
			core: coreOf(cpu, guest, provider),
			page: new Uint8Array(PAGE_SIZE),
			gpas: new Float64Array(BATCH_PAGES),
			header: new Uint8Array(MAX_IO_HEADER),
			bodies: new Uint8Array(BATCH_PAGES * PAGE_SIZE),
		};
		engines.set(cpu, engine);
		return engine;
	};
	/** With the index of the helper, or nowhere: without SEV-ES the host can write registers. */
	const withHelper =
		(run: (cpu: GuestCpu, helper: number) => Next): Block =>
		(cpu) =>
			cpu.reg('rbx') < MAX_HELPERS ? run(cpu, cpu.num('rbx')) : cpu.jump('mh.hardened.dead');
	/** The same with the engine, or nowhere if the firmware set none up. */
	const withEngine = (run: (cpu: GuestCpu, engine: Engine, helper: number) => Next): Block =>
		withHelper((cpu, helper) => {
			const engine = engineOf(cpu);
			return engine === undefined ? cpu.jump('mh.hardened.dead') : run(cpu, engine, helper);
		});

	const idle = (cpu: GuestCpu): Next => {
		cpu.setNum('r12', 0);
		return cpu.jump('mh.hardened.poll');
	};
	const finish = (cpu: GuestCpu, helper: number, sequence: number, outcome: Outcome): Next => {
		finishCommand(cpu, helper, sequence, outcome);
		return idle(cpu);
	};

	/** One piece of a control command. @returns `undefined` if there are more */
	const control = (
		cpu: GuestCpu,
		engine: Engine,
		helper: number,
		{ nr, count }: Pick<PrivateCommand, 'nr' | 'count'>,
		input: Uint8Array,
	): Outcome | undefined => {
		const { status, output, more } = engine.core.control(nr, input, count, helper);
		if (more) return undefined;
		if (output.length > MAX_HELPER_MESSAGE) return failure(HelperStatus.limit);
		giveBodies(cpu, helper, output);
		return { status, detail: 0, outputLength: output.length };
	};

	return {
		'mh.hardened.main': withHelper((cpu, helper) => {
			const guest = recordedGuest(cpu);
			if (guest === undefined) return cpu.jump('mh.hardened.dead');
			enterHelperTables(cpu, guest.cBit);
			cpu.setNum('rsp', HelperGeometry.stacks + PAGE_SIZE * (helper + 1));
			engines.delete(cpu);
			announceReady(cpu, helper);
			return idle(cpu);
		}),
		'mh.hardened.poll': withHelper((cpu, helper) => {
			for (let i = 0; i < POLLS; i++) if (isPosted(cpu, helper)) return cpu.jump('mh.hardened.take');
			if (idlePolicy === 'spin') return cpu.jump('mh.hardened.poll');
			const polls = (cpu.reg('r12') & 0xffffffffn) + BigInt(POLLS);
			cpu.setReg('r12', polls);
			return cpu.jump(polls < POLLS_BEFORE_SLEEP ? 'mh.hardened.poll' : 'mh.hardened.doze');
		}),
		// Either the helper sees `go` here, or the host sees `asleep` after it stored `go` and kicks.
		'mh.hardened.doze': withHelper((cpu, helper) => {
			setAsleep(cpu, helper, 1);
			return isPosted(cpu, helper) ? cpu.jump('mh.hardened.awake') : cpu.hlt('mh.hardened.woken');
		}),
		'mh.hardened.woken': withHelper((cpu, helper) =>
			isPosted(cpu, helper) ? cpu.jump('mh.hardened.awake') : cpu.hlt('mh.hardened.woken'),
		),
		'mh.hardened.awake': withHelper((cpu, helper) => {
			setAsleep(cpu, helper, 0);
			return cpu.jump('mh.hardened.take');
		}),

		'mh.hardened.take': withEngine((cpu, engine, helper) => {
			const command = takeCommand(cpu, helper, engine.page);
			const { nr, count, sequence, inputLength } = command;
			if (inputLength > inputLimit(nr)) return finish(cpu, helper, sequence, failure(HelperStatus.length));
			if (nr === HelperCommand.save) return finish(cpu, helper, sequence, save(cpu, helper, command, engine));
			if (nr === HelperCommand.restore) return finish(cpu, helper, sequence, restore(cpu, helper, command, engine));
			const input = new Uint8Array(inputLength);
			takeBodies(cpu, helper, input);
			const outcome = control(cpu, engine, helper, command, input);
			if (outcome !== undefined) return finish(cpu, helper, sequence, outcome);
			const at = scratchOf(helper);
			cpu.storeU32(at + Pending.nr, nr);
			cpu.storeU32(at + Pending.count, count);
			cpu.storeU32(at + Pending.sequence, sequence);
			return cpu.jump('mh.hardened.slice');
		}),
		// What is left of a long command: digests, wiping. A block each, so that the host gets its vCPU back in between.
		'mh.hardened.slice': withEngine((cpu, engine, helper) => {
			const at = scratchOf(helper);
			const command = { nr: cpu.loadU32(at + Pending.nr), count: cpu.loadU32(at + Pending.count) };
			const outcome = control(cpu, engine, helper, command, NOTHING);
			if (outcome === undefined) return cpu.jump('mh.hardened.slice');
			return finish(cpu, helper, cpu.loadU32(at + Pending.sequence), outcome);
		}),

		// No helper was set up, or there are not as many.
		'mh.hardened.dead': (cpu) => cpu.hlt('mh.hardened.dead'),
	};
}
