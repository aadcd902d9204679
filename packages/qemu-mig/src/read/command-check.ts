import { PAGE_SIZE } from '@cvm/layout';
import { COMMAND_RULES, Command, MAX_HELPER_MESSAGE } from '../abi/stream.js';
import { decodeCommand, discardFault } from '../command.js';
import type { DialectRules } from '../dialect.js';
import { hasHelper } from '../dialect.js';
import type { StreamFault } from '../error.js';
import { PostcopyState } from './options.js';

const NOT_PERMITTED = 'Operation not permitted';

/**
 * What a QEMU target accepts of commands, with its texts: numbers, lengths, whether a return path is open, the states of
 * postcopy. It stands for a target that has every capability and a transport with a reverse direction.
 *
 * Source: QEMU 7.2 migration/savevm.c `loadvm_process_command` and what it calls.
 */
export class CommandChecker {
	postcopy: PostcopyState;
	readonly #rules: DialectRules;
	#returnPath: boolean;
	/** Whether the stream announced this project's hand-over. */
	handover = false;

	constructor(rules: DialectRules, returnPath: boolean, postcopy: PostcopyState) {
		this.#rules = rules;
		this.#returnPath = returnPath;
		this.postcopy = postcopy;
	}

	/** What is wrong with number or length, which QEMU looks at before the data. */
	header(command: number, length: number): StreamFault | undefined {
		const rule = this.#exists(command) ? COMMAND_RULES.get(command) : undefined;
		if (rule === undefined) {
			const hex = command.toString(16);
			const qemu = [`MIG_CMD 0x${hex} unknown (len 0x${length.toString(16)})`];
			return { code: 'command', message: `command: expected a known one, got 0x${hex}`, qemu };
		}
		if (command === Command.helperMessage && length > MAX_HELPER_MESSAGE) {
			const message = `${rule.name}: expected at most ${MAX_HELPER_MESSAGE} bytes, got ${length}`;
			return { code: 'too-large', message, strerror: 'Numerical result out of range' };
		}
		if (rule.length === -1 || rule.length === length) return undefined;
		return {
			code: 'command',
			message: `${rule.name}: expected ${rule.length} bytes, got ${length}`,
			qemu: [`${rule.name} received with bad length - expecting ${rule.length}, got ${length}`],
			strerror: 'Numerical result out of range',
		};
	}

	#exists(command: number): boolean {
		if (command === Command.handoverCommit) return this.handover;
		if (command === Command.helperMessage) return this.handover && hasHelper(this.#rules);
		return command !== Command.switchoverStart || this.#rules.switchoverStart === true;
	}

	/** What is wrong with the data, or with the command at this time; otherwise the target's state changes. */
	data(command: number, data: Uint8Array): StreamFault | undefined {
		switch (command) {
			case Command.openReturnPath:
				this.#returnPath = true;
				return undefined;
			case Command.ping: {
				if (this.#returnPath) return undefined;
				const value = new DataView(data.buffer, data.byteOffset, 4).getUint32(0).toString(16);
				return refused('PING: expected an open return path, got none', [
					`CMD_PING (0x${value}) received with no return path`,
				]);
			}
			case Command.postcopyAdvise:
				return this.#advise(data);
			case Command.postcopyRamDiscard:
				return this.#enter('RAM_DISCARD', PostcopyState.discard, [PostcopyState.advise, PostcopyState.discard]);
			case Command.postcopyListen:
				return this.#enter('LISTEN', PostcopyState.listening, [PostcopyState.advise, PostcopyState.discard]);
			case Command.postcopyRun:
				return this.#enter('RUN', PostcopyState.running, [PostcopyState.listening]);
			case Command.recvBitmap:
				return badBitmapRequest(data);
			default:
				return undefined;
		}
	}

	#advise(data: Uint8Array): StreamFault | undefined {
		const wrongState = this.#enter('ADVISE', PostcopyState.advise, [PostcopyState.none]);
		if (wrongState !== undefined) return wrongState;
		const decoded = decodeCommand(Command.postcopyAdvise, data);
		if (decoded?.command !== Command.postcopyAdvise) {
			return {
				code: 'command',
				message: `POSTCOPY_ADVISE: expected 0 or 16 bytes, got ${data.length}`,
				qemu: [`CMD_POSTCOPY_ADVISE invalid length (${data.length})`],
			};
		}
		const size = decoded.targetPageSize;
		if (size === undefined || size === BigInt(PAGE_SIZE)) return undefined;
		return refused(`POSTCOPY_ADVISE: expected target pages of ${PAGE_SIZE} bytes, got ${size}`, [
			`Postcopy needs matching target page sizes (s=${BigInt.asIntN(32, size)} d=${PAGE_SIZE})`,
		]);
	}

	#enter(name: string, next: PostcopyState, allowed: readonly PostcopyState[]): StreamFault | undefined {
		const state = this.postcopy;
		if (allowed.includes(state)) {
			this.postcopy = next;
			return undefined;
		}
		return refused(`POSTCOPY_${name}: expected postcopy state ${allowed.join(' or ')}, got ${state}`, [
			`CMD_POSTCOPY_${name} in wrong postcopy state (${state})`,
		]);
	}
}

const refused = (message: string, qemu: readonly string[]): StreamFault => ({
	code: 'command',
	message,
	qemu,
	strerror: NOT_PERMITTED,
});

function badBitmapRequest(data: Uint8Array): StreamFault | undefined {
	const name = data[0] ?? 0;
	if (name > 0 && name === data.length - 1) return undefined;
	const what = name === 0 ? 'failed to read block name' : `invalid payload length (${data.length})`;
	return {
		code: 'command',
		message: `RECV_BITMAP: expected a block name that fills the data, got ${data.length} bytes`,
		qemu: [`loadvm_handle_recv_bitmap: ${what}`],
	};
}

/** POSTCOPY_RAM_DISCARD is decoded, so its form matters in any case. */
export function badDiscard(data: Uint8Array): StreamFault | undefined {
	const fault = discardFault(data);
	if (fault === undefined) return undefined;
	return refused(`POSTCOPY_RAM_DISCARD: expected version 0, a name and whole ranges, got ${data.length} bytes`, [
		`CMD_POSTCOPY_RAM_DISCARD ${fault}`,
	]);
}
