import { Command, MAX_HELPER_MESSAGE } from './abi/stream.js';
import type { ByteRange } from './events.js';
import { bytesToName, nameInto } from './latin1.js';

/** What the data of a command says. */
export type DecodedCommand =
	| { readonly command: typeof Command.openReturnPath }
	| { readonly command: typeof Command.ping; readonly value: number }
	/** Without sizes: only dirty bitmaps go by postcopy. `pageSizes` is the bitwise OR of all host page sizes. */
	| { readonly command: typeof Command.postcopyAdvise; readonly pageSizes?: bigint; readonly targetPageSize?: bigint }
	| { readonly command: typeof Command.postcopyListen }
	| { readonly command: typeof Command.postcopyRun }
	| {
			readonly command: typeof Command.postcopyRamDiscard;
			readonly block: string;
			readonly ranges: readonly ByteRange[];
	  }
	/** `length` bytes of elements follow the command. */
	| { readonly command: typeof Command.packaged; readonly length: number }
	| { readonly command: typeof Command.enableColo }
	| { readonly command: typeof Command.postcopyResume }
	| { readonly command: typeof Command.recvBitmap; readonly block: string }
	| { readonly command: typeof Command.switchoverStart }
	| { readonly command: typeof Command.handoverCommit }
	/** At most {@link MAX_HELPER_MESSAGE} bytes, a view of the data. */
	| { readonly command: typeof Command.helperMessage; readonly message: Uint8Array };

/** Most ranges QEMU puts into one POSTCOPY_RAM_DISCARD. QEMU 7.2 migration/postcopy-ram.c `MAX_DISCARDS_PER_COMMAND`. */
export const MAX_DISCARDS_PER_COMMAND = 12;

/** What the data of a command says; undefined for an unknown command, or data that are not of its form. */
export function decodeCommand(command: number, data: Uint8Array): DecodedCommand | undefined {
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	switch (command) {
		case Command.openReturnPath:
		case Command.postcopyListen:
		case Command.postcopyRun:
		case Command.enableColo:
		case Command.postcopyResume:
		case Command.switchoverStart:
		case Command.handoverCommit:
			return data.length === 0 ? { command } : undefined;
		case Command.helperMessage:
			return data.length <= MAX_HELPER_MESSAGE ? { command, message: data } : undefined;
		case Command.ping:
			return data.length === 4 ? { command, value: view.getUint32(0) } : undefined;
		case Command.packaged:
			return data.length === 4 ? { command, length: view.getUint32(0) } : undefined;
		case Command.postcopyAdvise:
			if (data.length === 0) return { command };
			if (data.length !== 16) return undefined;
			return { command, pageSizes: view.getBigUint64(0), targetPageSize: view.getBigUint64(8) };
		case Command.recvBitmap:
			if (data.length < 2 || data[0] !== data.length - 1) return undefined;
			return { command, block: bytesToName(data.subarray(1)) };
		case Command.postcopyRamDiscard: {
			if (discardFault(data) !== undefined) return undefined;
			const name = data[1] ?? 0;
			const ranges: ByteRange[] = [];
			for (let at = 3 + name; at < data.length; at += 16) {
				ranges.push({ start: view.getBigUint64(at), length: view.getBigUint64(at + 8) });
			}
			return { command, block: bytesToName(data.subarray(2, 2 + name)), ranges };
		}
		default:
			return undefined;
	}
}

/** The data of a command. @throws RangeError if a name, a list of ranges or a message does not fit */
export function encodeCommand(decoded: DecodedCommand): Uint8Array {
	switch (decoded.command) {
		case Command.ping:
			return word(decoded.value);
		case Command.packaged:
			return word(decoded.length);
		case Command.postcopyAdvise: {
			const { pageSizes, targetPageSize } = decoded;
			if (pageSizes === undefined || targetPageSize === undefined) return new Uint8Array(0);
			const out = new Uint8Array(16);
			const view = new DataView(out.buffer);
			view.setBigUint64(0, pageSizes);
			view.setBigUint64(8, targetPageSize);
			return out;
		}
		case Command.helperMessage:
			return checkedMessage(decoded.message);
		case Command.recvBitmap:
			return named(decoded.block, 0, 0);
		case Command.postcopyRamDiscard:
			return discard(decoded.block, decoded.ranges);
		default:
			return new Uint8Array(0);
	}
}

/** The message itself, uncopied. @throws RangeError if it is longer than {@link MAX_HELPER_MESSAGE} */
export function checkedMessage(message: Uint8Array): Uint8Array {
	if (message.length <= MAX_HELPER_MESSAGE) return message;
	throw new RangeError(`helper message: expected at most ${MAX_HELPER_MESSAGE} bytes, got ${message.length}`);
}

/** u8 0, cstr8 name, u8 0, and per range be64 start, be64 length. */
function discard(block: string, ranges: readonly ByteRange[]): Uint8Array {
	const out = named(block, 1, 1 + 16 * ranges.length);
	if (out.length > 0xffff) throw new RangeError(`discard: expected at most 65535 bytes, got ${out.length}`);
	const view = new DataView(out.buffer);
	let at = 3 + block.length;
	for (const { start, length } of ranges) {
		view.setBigUint64(at, start);
		view.setBigUint64(at + 8, length);
		at += 16;
	}
	return out;
}

/** `before` zero bytes, a cstr8, `after` zero bytes. */
function named(text: string, before: number, after: number): Uint8Array {
	if (text.length > 255) throw new RangeError(`name: expected at most 255 bytes, got ${text.length}`);
	const out = new Uint8Array(before + 1 + text.length + after);
	out[before] = text.length;
	nameInto(out, before + 1, text);
	return out;
}

function word(value: number): Uint8Array {
	const out = new Uint8Array(4);
	new DataView(out.buffer).setUint32(0, value);
	return out;
}

/** What is wrong with the data of POSTCOPY_RAM_DISCARD, in QEMU's words. QEMU 7.2 `loadvm_postcopy_ram_handle_discard`. */
export function discardFault(data: Uint8Array): string | undefined {
	if (data.length < 20) return `invalid length (${data.length})`;
	if (data[0] !== 0) return `invalid version (${data[0]})`;
	const name = data[1] ?? 0;
	// An empty name, or one longer than the data, which QEMU would read on into the stream.
	if (name === 0 || 3 + name > data.length) return 'Failed to read RAMBlock ID';
	if (data[2 + name] !== 0) return `missing nil (${data[2 + name]})`;
	const rest = data.length - 3 - name;
	return rest % 16 === 0 ? undefined : `invalid length (${rest})`;
}
