import { HelperGeometry, MAX_HELPERS } from '../geometry.js';
import { HelperPhase, HelperStatus, helperReport, ReportFlag } from '../mailbox/abi.js';
import { digest } from './digest.js';
import { GuestFrames } from './frames.js';
import { abort, abortSession, cancel, reset, retire, revive, run, start } from './handover.js';
import { accept, confirm, establish, hello } from './handshake.js';
import { MAX_MESSAGE } from './message.js';
import { DONE, type Handler, type Outcome, type SessionContext } from './outcome.js';
import type { ControlResult, HelperCore, HelperPlatform, SealResult } from './ports.js';
import { manifest, verify } from './proof.js';
import { RecordEngine } from './records.js';
import { epoch, freeze, nextEpoch, restoreVcpu, saveVcpu } from './rounds.js';
import { readMigrationSecret } from './secret.js';
import {
	releaseAbort,
	releaseAll,
	releaseStream,
	SessionState,
	STATE_MAGIC,
	StreamState,
	streamAddress,
	takeAbort,
	takeAll,
	takeStream,
} from './state.js';
import { type CommandName, commandName, nextPhase, SESSION_TABLE, type SessionRule } from './transitions.js';
import { Capability, HELPER_VERSIONS } from './wire.js';

type ControlName = Exclude<CommandName, 'save' | 'restore' | 'query'>;

const HANDLERS: Readonly<Record<ControlName, Handler>> = {
	...{ init: () => DONE, hello, accept, confirm, establish, epoch, nextEpoch, freeze, digest, saveVcpu, restoreVcpu },
	...{ manifest, verify, start, run, retire, cancel, abort, revive, reset },
};

const NOTHING = new Uint8Array();
const CLOSED = Uint8Array.of(1, 0, 0, 0);
const OPEN = new Uint8Array(4);

const refused = (status: HelperStatus): ControlResult => ({ status, output: NOTHING, more: false });
const notSealed = (status: HelperStatus): SealResult => ({ status, detail: 0, headerLength: 0, bodies: 0 });

/** Refusals that say "not you" or "not now": they end no session. */
const HARMLESS: ReadonlySet<number> = new Set([
	HelperStatus.success,
	HelperStatus.phase,
	HelperStatus.busy,
	HelperStatus.invalidFunction,
]);

const isStream = (stream: number): boolean => Number.isInteger(stream) && stream >= 0 && stream < MAX_HELPERS;

/** Whether as much came with the command as its rule wants. */
function isInput({ input }: SessionRule, { length }: Uint8Array): boolean {
	if (input === 'optional') return length <= MAX_MESSAGE;
	return input === 'none' ? length === 0 : length > 0 && length <= MAX_MESSAGE;
}

/**
 * The hardened helper of one guest. Several may stand over the same memory, one for each vCPU that runs a helper: streams work side by
 * side, a command for the whole guest finds `busy` while one is at work.
 */
export function createHelperCore(platform: HelperPlatform): HelperCore {
	const { memory, provider, random, saveAreas } = platform;
	const context: SessionContext = {
		...{ memory, provider, random, saveAreas },
		isSaveArea: platform.isSaveArea ?? (() => true),
		versions: platform.versions ?? HELPER_VERSIONS,
		capabilities: platform.capabilities ?? Capability.zeroPages | (saveAreas.length > 0 ? Capability.vcpuStates : 0),
		frames: new GuestFrames(memory),
		state: new SessionState(),
		stream: new StreamState(),
	};
	const { state } = context;
	let engine: RecordEngine | undefined;

	const gate = (word: Uint8Array): void => memory.write(HelperGeometry.gate, word);

	/** Loads the state and gives the phase after success of `name`, if it is a command of the phase that we are in. */
	const enter = (name: CommandName): number | undefined => {
		state.load(memory);
		if (state.num('magic') !== STATE_MAGIC || !state.isCurrent(memory)) return undefined;
		return nextPhase(name, state.num('phase'));
	};

	/** Ends the session if the command is one whose failure does. What the handler changed in the copy is dropped. */
	const fail = (name: CommandName, status: HelperStatus): void => {
		if (!SESSION_TABLE[name].fatal || HARMLESS.has(status) || !takeAbort(memory)) return;
		try {
			// Two streams may fail at a time: the first one ends the session, and its ABORT is the one that counts.
			if (enter(name) === undefined) return;
			abortSession(context);
			state.storePhaseFirst(memory);
		} finally {
			releaseAbort(memory);
		}
	};

	const carryOut = (name: ControlName, input: Uint8Array, argument: number, stream: number): ControlResult => {
		const rule = SESSION_TABLE[name];
		const next = enter(name);
		if (next === undefined) return refused(HelperStatus.phase);
		const outcome: Outcome = isInput(rule, input)
			? HANDLERS[name](context, { input, argument, stream })
			: { status: HelperStatus.length };
		if (outcome.status !== HelperStatus.success) {
			fail(name, outcome.status);
			return refused(outcome.status);
		}
		if (outcome.gate === 'close') gate(CLOSED);
		// A command of each helper changes its stream's state only: the rest is not its to write.
		if (rule.by === 'first') {
			state.setNum('phase', next);
			state.store(memory);
		}
		if (outcome.gate === 'open') gate(OPEN);
		return { status: outcome.status, output: outcome.output ?? NOTHING, more: outcome.more ?? false };
	};

	const hasSecret = (): boolean => {
		const found = readMigrationSecret(memory);
		found?.secret.fill(0);
		return found !== undefined;
	};

	const query = (): ControlResult => {
		const isInstalled = enter('query') !== undefined;
		const { versions, capabilities, stream } = context;
		const totals = { records: 0, pages: 0, zeroPages: 0 };
		for (let i = 0; isInstalled && i < state.num('streams'); i++) {
			stream.load(memory, i);
			totals.records += stream.records;
			totals.pages += stream.pages;
			totals.zeroPages += stream.zeroPages;
		}
		if (!isInstalled) return refused(HelperStatus.phase);
		const output = helperReport.encode({
			...{ phase: state.num('phase'), streams: state.num('streams'), epoch: state.num('epoch') },
			...{ versionMin: versions.min, versionMax: versions.max, capabilities },
			flags: hasSecret() ? ReportFlag.hasSecret : 0,
			...{ records: BigInt(totals.records), pages: BigInt(totals.pages), zeroPages: BigInt(totals.zeroPages) },
		});
		return { status: HelperStatus.success, output, more: false };
	};

	return {
		install(role) {
			for (let i = 0; i < MAX_HELPERS; i++) memory.write(streamAddress(i), new Uint8Array(0xa0));
			releaseAbort(memory);
			state.wipe();
			state.setNum('magic', STATE_MAGIC);
			state.setNum('phase', HelperPhase[role]);
			state.store(memory);
			context.frames.clearEpoch();
			gate(role === 'idle' ? OPEN : CLOSED);
		},

		control(command, input, argument, stream = 0) {
			const name = commandName(command);
			if (name === undefined || name === 'save' || name === 'restore') return refused(HelperStatus.invalidFunction);
			const isFirst = SESSION_TABLE[name].by === 'first';
			if (!isStream(stream) || (isFirst && stream !== 0)) return refused(HelperStatus.stream);
			if (name === 'query') {
				try {
					return query();
				} finally {
					state.wipe();
				}
			}
			if (!(isFirst ? takeAll(memory) : takeStream(memory, stream))) return refused(HelperStatus.busy);
			try {
				return carryOut(name, input, argument, stream);
			} finally {
				state.wipe();
				if (isFirst) releaseAll(memory);
				else releaseStream(memory, stream);
			}
		},

		seal(stream, gpas, count, out) {
			if (!isStream(stream)) return notSealed(HelperStatus.stream);
			if (!takeStream(memory, stream)) return notSealed(HelperStatus.busy);
			try {
				if (enter('save') === undefined) return notSealed(HelperStatus.phase);
				if (stream >= state.num('streams')) return notSealed(HelperStatus.stream);
				engine ??= new RecordEngine();
				return engine.seal(context, stream, gpas, count, out);
			} finally {
				state.wipe();
				releaseStream(memory, stream);
			}
		},

		open(stream, gpas, count, header, bodies) {
			if (!isStream(stream)) return { status: HelperStatus.stream, detail: 0 };
			if (!takeStream(memory, stream)) return { status: HelperStatus.busy, detail: 0 };
			try {
				if (enter('restore') === undefined) return { status: HelperStatus.phase, detail: 0 };
				engine ??= new RecordEngine();
				const result =
					stream < state.num('streams')
						? engine.open(context, stream, gpas, count, header, bodies)
						: { status: HelperStatus.stream, detail: 0 };
				fail('restore', result.status);
				return result;
			} finally {
				state.wipe();
				releaseStream(memory, stream);
			}
		},
	};
}
