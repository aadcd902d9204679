import { ReturnMessage } from '../abi/return-path.js';
import { MAX_HELPER_MESSAGE } from '../abi/stream.js';
import { checkedMessage } from '../command.js';
import { bytesToName, nameInto } from '../latin1.js';

/** What a message from target to source says. QEMU 7.2 migration/migration.h `enum mig_rp_message_type`. */
export type DecodedReturn =
	/** 0: the target runs; anything else: it failed. */
	| { readonly type: typeof ReturnMessage.shut; readonly value: number }
	| { readonly type: typeof ReturnMessage.pong; readonly value: number }
	/** Bytes of a host page that the guest waits for; without `block` in that of the request before. */
	| {
			readonly type: typeof ReturnMessage.reqPagesId;
			readonly start: bigint;
			readonly length: number;
			readonly block: string;
	  }
	| { readonly type: typeof ReturnMessage.reqPages; readonly start: bigint; readonly length: number }
	/** Bit i of byte i>>3: page i was received. A multiple of 8 bytes. */
	| { readonly type: typeof ReturnMessage.recvBitmap; readonly block: string; readonly bitmap: Uint8Array }
	/** 1. */
	| { readonly type: typeof ReturnMessage.resumeAck; readonly value: number }
	| { readonly type: typeof ReturnMessage.switchoverAck }
	/** From the target's in-guest helper, a view of the payload. */
	| { readonly type: typeof ReturnMessage.helperMessage; readonly message: Uint8Array };

/** be64 after the bitmap of RECV_BITMAP. QEMU 7.2 migration/ram.c `RAMBLOCK_RECV_BITMAP_ENDING`. */
export const BITMAP_ENDING = 0x0123456789abcdefn;

/**
 * What the payload of a message says; `bitmap` is what follows RECV_BITMAP. Undefined for an unknown type, or a payload
 * that is not of its form.
 */
export function decodeReturn(type: number, data: Uint8Array, bitmap?: Uint8Array): DecodedReturn | undefined {
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	switch (type) {
		case ReturnMessage.shut:
		case ReturnMessage.pong:
		case ReturnMessage.resumeAck:
			return data.length === 4 ? { type, value: view.getUint32(0) } : undefined;
		case ReturnMessage.reqPages:
			return data.length === 12 ? { type, start: view.getBigUint64(0), length: view.getUint32(8) } : undefined;
		case ReturnMessage.reqPagesId: {
			const block = data.length < 13 ? undefined : nameOf(data.subarray(12));
			if (block === undefined) return undefined;
			return { type, start: view.getBigUint64(0), length: view.getUint32(8), block };
		}
		case ReturnMessage.recvBitmap: {
			const block = nameOf(data);
			return block === undefined || bitmap === undefined ? undefined : { type, block, bitmap };
		}
		case ReturnMessage.switchoverAck:
			return data.length === 0 ? { type } : undefined;
		case ReturnMessage.helperMessage:
			return data.length <= MAX_HELPER_MESSAGE ? { type, message: data } : undefined;
		default:
			return undefined;
	}
}

/** The bytes of a message, with what follows RECV_BITMAP. @throws RangeError if a name or a helper's message does not fit */
export function encodeReturn(message: DecodedReturn): Uint8Array {
	switch (message.type) {
		case ReturnMessage.shut:
		case ReturnMessage.pong:
		case ReturnMessage.resumeAck: {
			const { out, view } = framed(message.type, 4);
			view.setUint32(4, message.value);
			return out;
		}
		case ReturnMessage.reqPages:
		case ReturnMessage.reqPagesId: {
			const block = message.type === ReturnMessage.reqPagesId ? message.block : undefined;
			const { out, view } = framed(message.type, 12 + (block === undefined ? 0 : 1 + block.length));
			view.setBigUint64(4, message.start);
			view.setUint32(12, message.length);
			if (block !== undefined) putName(out, 16, block);
			return out;
		}
		case ReturnMessage.recvBitmap: {
			const { block, bitmap } = message;
			const { out, view } = framed(message.type, 1 + block.length, 16 + bitmap.length);
			putName(out, 4, block);
			const at = 5 + block.length;
			view.setBigUint64(at, BigInt(bitmap.length));
			out.set(bitmap, at + 8);
			view.setBigUint64(at + 8 + bitmap.length, BITMAP_ENDING);
			return out;
		}
		case ReturnMessage.helperMessage: {
			const { out } = framed(message.type, checkedMessage(message.message).length);
			out.set(message.message, 4);
			return out;
		}
		default:
			return framed(message.type, 0).out;
	}
}

function framed(type: number, length: number, after = 0): { readonly out: Uint8Array; readonly view: DataView } {
	const out = new Uint8Array(4 + length + after);
	const view = new DataView(out.buffer);
	view.setUint16(0, type);
	view.setUint16(2, length);
	return { out, view };
}

/** A cstr8 that fills its bytes. */
const nameOf = (data: Uint8Array): string | undefined =>
	data.length > 0 && data[0] === data.length - 1 ? bytesToName(data.subarray(1)) : undefined;

function putName(out: Uint8Array, at: number, text: string): void {
	if (text.length > 255) throw new RangeError(`name: expected at most 255 bytes, got ${text.length}`);
	out[at] = text.length;
	nameInto(out, at + 1, text);
}
