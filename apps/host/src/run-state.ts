import type { RunState } from '@cvm/qmp';

/** Every move that is allowed; anything else is a bug of the host. A guest never leaves `postmigrate` once it was handed over. */
const MOVES: Readonly<Record<RunState, readonly RunState[]>> = {
	prelaunch: ['running', 'inmigrate', 'finish-migrate', 'postmigrate', 'paused', 'shutdown', 'internal-error'],
	inmigrate: ['running', 'paused', 'prelaunch', 'shutdown', 'internal-error', 'postmigrate', 'finish-migrate'],
	running: ['paused', 'finish-migrate', 'internal-error', 'shutdown'],
	paused: ['running', 'finish-migrate', 'postmigrate', 'shutdown'],
	'finish-migrate': ['postmigrate', 'running', 'paused', 'prelaunch', 'shutdown', 'internal-error'],
	postmigrate: ['running', 'finish-migrate', 'shutdown'],
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
