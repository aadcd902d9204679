import { bytesToHex, hexToBytes } from '@noble/hashes/utils.js';

/** Bytes of hex text in which blanks may stand. */
export const unhex = (text: string): Uint8Array => hexToBytes(text.replace(/\s+/g, ''));

/** Lower-case hex. */
export const hex = (data: Uint8Array): string => bytesToHex(data);

/** Bytes of ASCII text. */
export const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** A copy with one bit turned. */
export function flipped(data: Uint8Array, bit: number): Uint8Array {
	const copy = data.slice();
	copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
	return copy;
}

/** `length` bytes that differ from block to block. */
export const pattern = (length: number): Uint8Array =>
	Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8) * 13 + 3) & 0xff);

/** The same bytes at an odd address, in memory that threads share. */
export function inSharedMemory(data: Uint8Array): Uint8Array {
	const view = new Uint8Array(new SharedArrayBuffer(data.length + 1), 1);
	view.set(data);
	return view;
}
