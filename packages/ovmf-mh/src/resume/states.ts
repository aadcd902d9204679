/**
 * A vCPU of the target on its way into the guest that arrived (§ phases of the demonstrator, PROJECT as a table):
 *
 * ```text
 * launched ─ready→ mhReady ─handshake→ receiving ─converged→ converged ─enter→ trampoline ─switched→ waitDevices
 *                                                                                │                      │ devices
 *                                                                                │                      ↓
 *                                                     running ←iret─ restoreRegisters ←─────────────────┘
 * any but running ─check fails→ failed                failed: for good
 * trampoline, before CR3 is the guest's: ─interrupt→ converged     after: ─interrupt→ failed
 * ```
 */
export const ResumeState = {
	launched: 0,
	/** The helper takes commands; the vCPU is parked in memory that survives. */
	mhReady: 1,
	receiving: 2,
	/** All of memory is here, and the helper says so. */
	converged: 3,
	/** Phases 1, 2 and 3a. */
	trampoline: 4,
	/** Phase 3b. */
	waitDevices: 5,
	/** Phases 3c and 3d. */
	restoreRegisters: 6,
	running: 7,
	failed: 8,
} as const;
export type ResumeState = (typeof ResumeState)[keyof typeof ResumeState];
export type ResumeStateName = keyof typeof ResumeState;

/** What happens to it. `interrupt`: it does not go on where it was, as when its host takes it out for good or an exception comes. */
export type ResumeEvent =
	| 'ready'
	| 'handshake'
	| 'converged'
	| 'enter'
	| 'switched'
	| 'devices'
	| 'iret'
	| 'interrupt'
	| 'fail';

const failing = { fail: 'failed' } as const;

/** State and event → next state. What is not there fails: a state machine that is used wrongly must not end in `running`. */
export const RESUME_TABLE: Readonly<Record<ResumeStateName, Readonly<Partial<Record<ResumeEvent, ResumeStateName>>>>> =
	{
		launched: { ready: 'mhReady', interrupt: 'launched', ...failing },
		mhReady: { handshake: 'receiving', interrupt: 'mhReady', ...failing },
		receiving: { converged: 'converged', interrupt: 'receiving', ...failing },
		converged: { enter: 'trampoline', interrupt: 'converged', ...failing },
		// Phase 3a makes the CPU one of the guest's; until then it can begin anew. `switched` is its end.
		trampoline: { switched: 'waitDevices', interrupt: 'converged', ...failing },
		waitDevices: { devices: 'restoreRegisters', ...failing },
		restoreRegisters: { iret: 'running', ...failing },
		running: { interrupt: 'running' },
		failed: {},
	};

/** The next state. */
export const nextResumeState = (state: ResumeStateName, event: ResumeEvent): ResumeStateName =>
	RESUME_TABLE[state][event] ?? (state === 'running' ? 'running' : 'failed');

/** Why a vCPU is `failed`; 0 is none. */
export const ResumeProblem = {
	none: 0,
	/** No blob, or a save area that is none: see what the checks say. */
	state: 1,
	/** A mode that the trampoline cannot go to: not 64-bit, or an address that is not canonical. */
	mode: 2,
	/** The source's page tables do not map a page of the trampoline where it is told, privately and writably. */
	notMapped: 3,
	/** The task segment's descriptor is busy, or another than the state says. */
	taskSegment: 4,
	/** No memory was recorded, or no such vCPU. */
	vcpu: 5,
} as const;
export type ResumeProblem = (typeof ResumeProblem)[keyof typeof ResumeProblem];
