import { ReturnMessage } from '../abi/return-path.js';
import { Command } from '../abi/stream.js';
import { decodeCommand } from '../command.js';
import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { Place } from '../events.js';
import { encodeReturn } from '../handover/return-message.js';
import type { PostcopyTarget } from '../postcopy/target.js';
import type { LoadAnswers } from './answers.js';

/** What commands make the loader do. */
export interface CommandActions {
	/** HANDOVER_COMMIT. */
	commit(at: Place): void;
	/** HELPER_MESSAGE; the data are valid during the call. */
	message(data: Uint8Array, at: Place): void;
	/** POSTCOPY_RUN. */
	run(): void;
	/** POSTCOPY_RESUME; false if nothing is being recovered. */
	resume(): boolean;
}

/**
 * Carries out commands, whose form and order the reader has checked. QEMU 7.2 migration/savevm.c `loadvm_process_command`.
 */
export class LoadCommands {
	readonly #answers: LoadAnswers;
	readonly #postcopy: PostcopyTarget | undefined;
	readonly #actions: CommandActions;
	readonly #warnings: string[];

	constructor(answers: LoadAnswers, postcopy: PostcopyTarget | undefined, actions: CommandActions, warnings: string[]) {
		this.#answers = answers;
		this.#postcopy = postcopy;
		this.#actions = actions;
		this.#warnings = warnings;
	}

	carryOut(number: number, data: Uint8Array, at: Place): void {
		const decoded = decodeCommand(number, data);
		switch (decoded?.command) {
			case Command.openReturnPath:
				this.#openReturnPath(at);
				return;
			case Command.ping:
				this.#answers.send(encodeReturn({ type: ReturnMessage.pong, value: decoded.value }));
				return;
			case Command.handoverCommit:
				this.#actions.commit(at);
				return;
			case Command.helperMessage:
				this.#actions.message(decoded.message, at);
				return;
			case Command.postcopyAdvise:
				this.#advised(decoded.pageSizes, at);
				return;
			case Command.postcopyListen:
				this.#needPostcopy('POSTCOPY_LISTEN', at).listen();
				return;
			case Command.postcopyRun:
				this.#needPostcopy('POSTCOPY_RUN', at);
				this.#actions.run();
				return;
			case Command.recvBitmap:
				this.#needPostcopy('RECV_BITMAP', at).sendBitmap(decoded.block, at);
				return;
			case Command.postcopyResume:
				this.#resume();
				return;
			case Command.postcopyRamDiscard:
				this.#needPostcopy('POSTCOPY_RAM_DISCARD', at).discard(decoded.block, decoded.ranges, at);
				return;
			case Command.packaged:
			case Command.switchoverStart:
				return;
			default:
				throw unsupported('ENABLE_COLO', at);
		}
	}

	#openReturnPath(at: Place): void {
		if (!this.#answers.possible) {
			const message = 'OPEN_RETURN_PATH: expected a transport with a reverse direction, got none';
			throw refused({ code: 'command', message, qemu: ['CMD_OPEN_RETURN_PATH failed'] }, at);
		}
		if (this.#answers.open) this.#warnings.push('CMD_OPEN_RETURN_PATH called when RP already open');
		this.#answers.open = true;
	}

	#advised(pageSizes: bigint | undefined, at: Place): void {
		const fault = this.#postcopy?.advised(pageSizes);
		if (fault !== undefined) throw new StreamError(fault, at);
		if (this.#postcopy !== undefined || pageSizes === undefined) return;
		const message = 'POSTCOPY_ADVISE: expected none for RAM on a host without postcopy, got one';
		const qemu = ['RAM postcopy is disabled but have 16 byte advise'];
		throw new StreamError({ code: 'unsupported', message, qemu }, at);
	}

	#resume(): void {
		if (!this.#actions.resume()) {
			this.#warnings.push('loadvm_postcopy_handle_resume: illegal resume received');
			return;
		}
		this.#answers.send(encodeReturn({ type: ReturnMessage.resumeAck, value: 1 }));
		this.#postcopy?.resumed();
	}

	#needPostcopy(name: string, at: Place): PostcopyTarget {
		if (this.#postcopy === undefined) throw unsupported(name, at);
		return this.#postcopy;
	}
}

const refused = (fault: StreamFault, at: Place): StreamError =>
	new StreamError({ ...fault, strerror: 'Operation not permitted' }, at);

const unsupported = (name: string, at: Place): StreamError =>
	new StreamError({ code: 'unsupported', message: `command: expected none of postcopy or COLO, got ${name}` }, at);
