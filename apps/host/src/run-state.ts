import type { RunState } from '@cvm/qmp';

/**
 * Every move that is allowed; anything else is a bug of the host. A guest that was handed over leaves `postmigrate` only if its
 * target has proved that it will never run there.
 */
const MOVES: Readonly<Record<RunState, readonly RunState[]>> = {
	prelaunch: ['running', 'inmigrate', 'finish-migrate', 'postmigrate', 'paused', 'shutdown', 'internal-error'],
	inmigrate: ['running', 'paused', 'prelaunch', 'shutdown', 'internal-error', 'postmigrate', 'finish-migrate'],
	// To `inmigrate`: a target with a migration helper runs before its guest arrives.
	running: ['paused', 'finish-migrate', 'inmigrate', 'internal-error', 'shutdown'],
	paused: ['running', 'finish-migrate', 'postmigrate', 'shutdown'],
	'finish-migrate': ['postmigrate', 'running', 'paused', 'prelaunch', 'shutdown', 'internal-error'],
	postmigrate: ['running', 'paused', 'prelaunch', 'finish-migrate', 'shutdown'],
	'internal-error': ['shutdown', 'finish-migrate'],
	shutdown: [],
};

/** The state of the VM as QMP shows it. */
export class RunStateMachine {
	#state: RunState = 'prelaunch';

	get state(): RunState {
		return this.#state;
	}

	get running(): boolean {
		return this.#state === 'running';
	}

	/** @throws Error on a move that QEMU does not know */
	to(next: RunState): void {
		if (next === this.#state) return;
		if (!MOVES[this.#state].includes(next))
			throw new Error(`invalid run-state transition: '${this.#state}' -> '${next}'`);
		this.#state = next;
	}
}
