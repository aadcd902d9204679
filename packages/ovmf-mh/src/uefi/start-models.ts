/**
 * Who runs the handler. `applicationProcessor`: an extra processor of the VM, started by MP services (edk2-devel, March 2021).
 * `mirrorVcpu`: a vCPU of a VM that shares the guest's memory and key (August 2021). `kernelPolled`: no processor of its own; the OS
 * looks at the mailbox at intervals and calls the firmware when a command waits, as the review of March 2021 proposed.
 */
export type StartModel = 'applicationProcessor' | 'mirrorVcpu' | 'kernelPolled';

/**
 * What a handler with a processor of its own does without a command. `spin`: PAUSE for ever, as posted. `hostDescheduled`: the same, but
 * the host runs it only while it migrates. `hltExit`: it executes HLT and so gives the processor back; each command then needs a run
 * request (qemu-devel, Bonzini's reply of March 2021).
 */
export type IdlePolicy = 'spin' | 'hostDescheduled' | 'hltExit';

export interface HelperServiceOptions {
	readonly model: StartModel;
	/** Not for `kernelPolled`. Default `spin`. */
	readonly idle?: IdlePolicy;
	/** `kernelPolled`: milliseconds between two looks at the mailbox. Default 10. */
	readonly pollMs?: number;
}

/** What the guest's own processors do: `stopped` by the host, or `hung`, as an OS that schedules nothing any more. */
export type MainVcpus = 'running' | 'stopped' | 'hung';

/** A handler and its mailbox over time, in whole milliseconds. */
export interface HelperService {
	/** Writes `go`. @throws RangeError while a command waits */
	post(): void;
	/** Asks for the handler's processor to be run. A request that comes while it still runs is kept, so that no command is lost. */
	requestRun(): void;
	/** The host takes the handler's processor off its CPU: `hostDescheduled`. */
	suspend(): void;
	setMainVcpus(state: MainVcpus): void;
	/** Lets time pass. */
	advance(ms: number): void;
	/** Whether a command waits. */
	isPending(): boolean;
	/** Milliseconds from `go` to `done`, by command. */
	readonly latencies: readonly number[];
	/** Milliseconds that the handler's processor ran without a command: what a host pays for waiting. */
	idleMs(): number;
}

/**
 * Shows which start models answer when, and at what cost. A command takes less than a millisecond.
 *
 * @throws RangeError for a poll interval below 1 ms
 */
export function createHelperService({ model, idle = 'spin', pollMs = 10 }: HelperServiceOptions): HelperService {
	if (!Number.isSafeInteger(pollMs) || pollMs < 1) throw new RangeError(`pollMs: expected at least 1, got ${pollMs}`);
	const latencies: number[] = [];
	let now = 0;
	let postedAt: number | undefined;
	let main: MainVcpus = 'running';
	let wanted = false;
	let runs = model !== 'kernelPolled' && idle === 'spin';
	let idleTime = 0;

	const serve = (): void => {
		if (postedAt !== undefined) latencies.push(now - postedAt);
		postedAt = undefined;
	};
	const tick = (): void => {
		now++;
		if (model === 'kernelPolled') {
			if (main === 'running' && now % pollMs === 0) serve();
			return;
		}
		// An extra processor and a mirror both go on while the others are stopped: pause_all_vcpus_except_aux in the first design.
		if (wanted) runs = true;
		wanted = false;
		if (!runs) return;
		if (postedAt === undefined) idleTime++;
		else serve();
		if (idle === 'hltExit') runs = false;
	};
	return {
		latencies,
		post: () => {
			if (postedAt !== undefined) throw new RangeError('mailbox: expected it to be free, got a command that waits');
			postedAt = now;
		},
		requestRun: () => {
			wanted = true;
		},
		suspend: () => {
			if (idle !== 'hostDescheduled') throw new RangeError(`suspend: expected policy hostDescheduled, got ${idle}`);
			runs = false;
			wanted = false;
		},
		setMainVcpus: (state) => {
			main = state;
		},
		advance: (ms) => {
			for (let i = 0; i < ms; i++) tick();
		},
		isPending: () => postedAt !== undefined,
		idleMs: () => idleTime,
	};
}
