import { ReturnMessage } from '../abi/return-path.js';

/** Name and fixed length of each message; -1 varies. QEMU 7.2 migration/migration.c `rp_cmd_args`. */
const RULES: ReadonlyMap<number, { readonly name: string; readonly length: number }> = new Map([
	[ReturnMessage.shut, { name: 'SHUT', length: 4 }],
	[ReturnMessage.pong, { name: 'PONG', length: 4 }],
	[ReturnMessage.reqPagesId, { name: 'REQ_PAGES_ID', length: -1 }],
	[ReturnMessage.reqPages, { name: 'REQ_PAGES', length: 12 }],
	[ReturnMessage.resumeAck, { name: 'RESUME_ACK', length: 4 }],
	[ReturnMessage.switchoverAck, { name: 'SWITCHOVER_ACK', length: 0 }],
]);

/** The reverse direction is malformed. Recognise it by `name` and `code`. */
export class ReturnPathError extends Error {
	override readonly name = 'ReturnPathError';
	/** `type`: unknown, or RECV_BITMAP, whose bitmap lies outside its length. `length`: not the type's. `truncated`: cut. */
	readonly code: 'type' | 'length' | 'truncated';

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

/** Reads the reverse direction, pushed in chunks of any size. */
export class ReturnPathReader {
	readonly #handle: (type: number, data: Uint8Array) => void;
	#rest: Uint8Array = new Uint8Array(0);

	/** `data` is valid during the call. */
	constructor(handle: (type: number, data: Uint8Array) => void) {
		this.#handle = handle;
	}

	/** @throws ReturnPathError */
	push(chunk: Uint8Array): void {
		const bytes = new Uint8Array(this.#rest.length + chunk.length);
		bytes.set(this.#rest);
		bytes.set(chunk, this.#rest.length);
		const view = new DataView(bytes.buffer);
		let at = 0;
		while (at + 4 <= bytes.length) {
			const type = view.getUint16(at);
			const length = view.getUint16(at + 2);
			checkMessage(type, length);
			if (at + 4 + length > bytes.length) break;
			this.#handle(type, bytes.subarray(at + 4, at + 4 + length));
			at += 4 + length;
		}
		this.#rest = bytes.slice(at);
	}

	/** @throws ReturnPathError if a message is cut */
	end(): void {
		if (this.#rest.length === 0) return;
		throw new ReturnPathError('truncated', `return path: expected a whole message, got ${this.#rest.length} bytes`);
	}
}

function checkMessage(type: number, length: number): void {
	const rule = RULES.get(type);
	if (rule === undefined) {
		throw new ReturnPathError('type', `return path: expected a known message, got type 0x${type.toString(16)}`);
	}
	if (rule.length !== -1 && rule.length !== length) {
		throw new ReturnPathError('length', `return path: expected ${rule.length} bytes in ${rule.name}, got ${length}`);
	}
}
