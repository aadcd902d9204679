import { ReturnMessage } from '../abi/return-path.js';
import { MAX_HELPER_MESSAGE } from '../abi/stream.js';
import { ByteWindow } from '../read/window.js';
import { BITMAP_ENDING } from './return-message.js';

/** Name and fixed length of each message; -1 varies. QEMU 7.2 migration/migration.c `rp_cmd_args`. */
const RULES: ReadonlyMap<number, { readonly name: string; readonly length: number }> = new Map([
	[ReturnMessage.shut, { name: 'SHUT', length: 4 }],
	[ReturnMessage.pong, { name: 'PONG', length: 4 }],
	[ReturnMessage.reqPagesId, { name: 'REQ_PAGES_ID', length: -1 }],
	[ReturnMessage.reqPages, { name: 'REQ_PAGES', length: 12 }],
	[ReturnMessage.recvBitmap, { name: 'RECV_BITMAP', length: -1 }],
	[ReturnMessage.resumeAck, { name: 'RESUME_ACK', length: 4 }],
	[ReturnMessage.switchoverAck, { name: 'SWITCHOVER_ACK', length: 0 }],
	[ReturnMessage.helperMessage, { name: 'HELPER_MESSAGE', length: -1 }],
]);

/** The reverse direction is malformed. Recognise it by `name` and `code`. */
export class ReturnPathError extends Error {
	override readonly name = 'ReturnPathError';
	/**
	 * `type`: unknown, or RECV_BITMAP or a helper's message where none is taken. `length`: not the type's, or above the cap of a
	 * bitmap or of a helper's message. `bitmap`: a bitmap without its end mark. `truncated`: cut.
	 */
	readonly code: 'type' | 'length' | 'bitmap' | 'truncated';

	constructor(code: ReturnPathError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

/** A message from target to source: be16 type, be16 length, payload. */
export function encodeReturnMessage(type: number, data: Uint8Array): Uint8Array {
	const out = new Uint8Array(4 + data.length);
	const view = new DataView(out.buffer);
	view.setUint16(0, type);
	view.setUint16(2, data.length);
	out.set(data, 4);
	return out;
}

/** A message whose payload is one be32: SHUT, PONG, RESUME_ACK. */
export function encodeReturnWord(type: number, value: number): Uint8Array {
	const data = new Uint8Array(4);
	new DataView(data.buffer).setUint32(0, value);
	return encodeReturnMessage(type, data);
}

/** Options of {@link ReturnPathReader}. */
export interface ReturnPathOptions {
	/** Whether RECV_BITMAP, which only a recovery asks for, is taken. Default false. */
	readonly bitmaps?: boolean;
	/** Whether messages of the target's in-guest helper are taken. Default false. */
	readonly helperMessages?: boolean;
	/** Bytes of one bitmap. Default 16 MiB: a block of 512 GiB. */
	readonly bitmapLimit?: number;
}

/** Receives a message: its type, its payload and, for RECV_BITMAP, the bitmap behind it. Both are valid during the call. */
export type ReturnHandler = (type: number, data: Uint8Array, bitmap?: Uint8Array) => void;

/** Reads the reverse direction, pushed in chunks of any size. */
export class ReturnPathReader {
	readonly #handle: ReturnHandler;
	readonly #window = new ByteWindow();
	/** Types that are not taken. */
	readonly #refused: readonly number[];
	readonly #bitmapLimit: number;

	/** `data` is valid during the call. */
	constructor(handle: ReturnHandler, options: ReturnPathOptions = {}) {
		this.#handle = handle;
		const { recvBitmap, helperMessage } = ReturnMessage;
		this.#refused = [...(options.bitmaps ? [] : [recvBitmap]), ...(options.helperMessages ? [] : [helperMessage])];
		this.#bitmapLimit = options.bitmapLimit ?? 16 * 1024 * 1024;
	}

	/** @throws ReturnPathError */
	push(chunk: Uint8Array): void {
		this.#window.feed(chunk);
		while (this.#message());
	}

	/** @throws ReturnPathError if a message is cut */
	end(): void {
		const left = this.#window.end - this.#window.at;
		if (left === 0) return;
		throw new ReturnPathError('truncated', `return path: expected a whole message, got ${left} bytes`);
	}

	/** Takes one message, if it is there. */
	#message(): boolean {
		const window = this.#window;
		if (!this.#reach(4)) return false;
		const type = window.view.getUint16(window.at);
		const length = window.view.getUint16(window.at + 2);
		this.#check(type, length);
		if (!this.#reach(4 + length)) return false;
		if (type === ReturnMessage.recvBitmap) return this.#bitmap(length);
		this.#deliver(type, length, 4 + length);
		return true;
	}

	/** be64 size, as many bytes and an end mark, behind the payload and not in its length. */
	#bitmap(length: number): boolean {
		const window = this.#window;
		if (!this.#reach(12 + length)) return false;
		const size = window.view.getBigUint64(window.at + 4 + length);
		if (size > BigInt(this.#bitmapLimit)) {
			const message = `RECV_BITMAP: expected at most ${this.#bitmapLimit} bytes, got ${size}`;
			throw new ReturnPathError('length', `return path: ${message}`);
		}
		const total = 12 + length + Number(size) + 8;
		if (!this.#reach(total)) return false;
		const ending = window.view.getBigUint64(window.at + total - 8);
		if (ending !== BITMAP_ENDING) {
			const message = `RECV_BITMAP: expected the mark 0x${BITMAP_ENDING.toString(16)}, got 0x${ending.toString(16)}`;
			throw new ReturnPathError('bitmap', `return path: ${message}`);
		}
		const at = window.at + 12 + length;
		const bitmap = window.bytes.subarray(at, at + Number(size));
		this.#deliver(ReturnMessage.recvBitmap, length, total, bitmap);
		return true;
	}

	#deliver(type: number, length: number, total: number, bitmap?: Uint8Array): void {
		const window = this.#window;
		const data = window.bytes.subarray(window.at + 4, window.at + 4 + length);
		window.at += total;
		this.#handle(type, data, bitmap);
	}

	#reach(count: number): boolean {
		while (this.#window.end - this.#window.at < count) if (!this.#window.pull(count)) return false;
		return true;
	}

	#check(type: number, length: number): void {
		const rule = this.#refused.includes(type) ? undefined : RULES.get(type);
		if (rule === undefined) {
			throw new ReturnPathError('type', `return path: expected a known message, got type 0x${type.toString(16)}`);
		}
		if (rule.length !== -1 && rule.length !== length) {
			throw new ReturnPathError('length', `return path: expected ${rule.length} bytes in ${rule.name}, got ${length}`);
		}
		if (type !== ReturnMessage.helperMessage || length <= MAX_HELPER_MESSAGE) return;
		const most = `at most ${MAX_HELPER_MESSAGE} bytes`;
		throw new ReturnPathError('length', `return path: expected ${most} in ${rule.name}, got ${length}`);
	}
}
