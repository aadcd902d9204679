import { HelperCommand, HelperPhase } from '../mailbox/abi.js';

/** What a command needs and does. */
export interface SessionRule {
	/** Bytes that come with it: none, a message, or either. */
	readonly input: 'none' | 'message' | 'optional';
	/** By which helper: the first one for the whole guest, or each for its stream. */
	readonly by: 'first' | 'each';
	/** From a phase to that after success. A phase that is not named refuses the command with `phase`, and nothing happens. */
	readonly next: Readonly<Partial<Record<PhaseName, PhaseName>>>;
	/** Any refusal but `phase`, `busy` and `stream` ends the session: the phase becomes `aborted`, the keys are wiped. */
	readonly fatal?: true;
}

export type PhaseName = keyof typeof HelperPhase;
export type CommandName = keyof typeof HelperCommand;

const everywhere = Object.fromEntries(Object.keys(HelperPhase).map((name) => [name, name])) as SessionRule['next'];

/**
 * The state machine of the hardened helper: the code dispatches by it, docs/helper-states.md is made from it. PROJECT, after the start
 * and abort tokens of the TDX module: before START the source can take its guest back alone, afterwards only with the target's
 * ABORT, and a target that made ABORT never runs.
 */
export const SESSION_TABLE: Readonly<Record<CommandName, SessionRule>> = {
	init: { input: 'none', by: 'first', next: everywhere },
	query: { input: 'none', by: 'each', next: everywhere },
	hello: { input: 'none', by: 'first', next: { idle: 'offered' } },
	accept: { input: 'message', by: 'first', next: { empty: 'answered', aborted: 'answered' } },
	confirm: { input: 'message', by: 'first', next: { offered: 'sending' } },
	establish: { input: 'message', by: 'first', next: { answered: 'receiving' } },
	save: { input: 'none', by: 'each', next: { sending: 'sending', frozen: 'frozen' } },
	restore: { input: 'message', by: 'each', next: { receiving: 'receiving' }, fatal: true },
	epoch: { input: 'none', by: 'first', next: { sending: 'sending' } },
	nextEpoch: { input: 'message', by: 'first', next: { receiving: 'receiving' }, fatal: true },
	freeze: { input: 'none', by: 'first', next: { sending: 'frozen' } },
	digest: { input: 'none', by: 'each', next: { frozen: 'frozen', proving: 'proving' } },
	saveVcpu: { input: 'none', by: 'first', next: { frozen: 'frozen' } },
	restoreVcpu: { input: 'message', by: 'first', next: { receiving: 'receiving' }, fatal: true },
	manifest: { input: 'none', by: 'first', next: { frozen: 'proven' } },
	verify: { input: 'optional', by: 'first', next: { receiving: 'proving', proving: 'verified' }, fatal: true },
	start: { input: 'optional', by: 'first', next: { proven: 'committed', committed: 'committed' } },
	run: { input: 'message', by: 'first', next: { verified: 'idle', idle: 'idle' } },
	retire: { input: 'optional', by: 'first', next: { committed: 'retired', retired: 'retired' } },
	cancel: {
		input: 'none',
		by: 'first',
		next: { offered: 'idle', sending: 'idle', frozen: 'idle', proven: 'idle' },
	},
	abort: {
		input: 'none',
		by: 'first',
		next: {
			...{ empty: 'empty', answered: 'aborted', receiving: 'aborted', proving: 'aborted' },
			...{ verified: 'aborted', aborted: 'aborted' },
		},
	},
	revive: { input: 'message', by: 'first', next: { committed: 'idle' } },
	reset: {
		input: 'none',
		by: 'first',
		next: {
			...{ idle: 'idle', offered: 'idle', sending: 'idle', frozen: 'idle', proven: 'idle' },
			...{ empty: 'empty', answered: 'aborted', receiving: 'aborted', proving: 'aborted' },
			...{ verified: 'aborted', aborted: 'aborted' },
		},
	},
};

const PHASE_NAMES = new Map<number, PhaseName>(
	Object.entries(HelperPhase).map(([name, value]) => [value, name as PhaseName]),
);
const COMMAND_NAMES = new Map<number, CommandName>(
	Object.entries(HelperCommand).map(([name, value]) => [value, name as CommandName]),
);

/** The name of a command's number, if there is one. */
export const commandName = (command: number): CommandName | undefined => COMMAND_NAMES.get(command);
/** The name of a phase's number, if there is one. */
export const phaseName = (phase: number): PhaseName | undefined => PHASE_NAMES.get(phase);

/** The phase after success of `command` in `phase`, or `undefined` where it is refused. */
export function nextPhase(command: CommandName, phase: number): number | undefined {
	const from = PHASE_NAMES.get(phase);
	const to = from === undefined ? undefined : SESSION_TABLE[command].next[from];
	return to === undefined ? undefined : HelperPhase[to];
}
