import { BLOCK, requireInPlaceOrDisjoint } from './argument-checks.js';
import { bulkMemory, reserveBulk } from './bulk/shared.js';
import { fillCounterBlocks } from './counter-blocks.js';
import { CryptoError } from './error.js';
import type { BlockCipher } from './provider.js';

/** Blocks per bulk ECB call. 64 KiB is where one `node:crypto` call is fastest per byte; more falls out of the cache. */
const KEYSTREAM_BLOCKS = 4096;
const SIZE = KEYSTREAM_BLOCKS * BLOCK;

// Places of the thread's memory, the same for all calls: they run to completion, so no two of them use it at a time.
const memory = bulkMemory;
const KEYSTREAM = reserveBulk(SIZE);
const TEXT = reserveBulk(SIZE);
const ZERO_BLOCK = reserveBulk(BLOCK);
const view = new DataView(memory.bytes.buffer);
const wholeKeystream = memory.bytes.subarray(KEYSTREAM, KEYSTREAM + SIZE);

/** Puts `count` counter blocks where keystream byte `at` will be: the IV plus `first`, and its successors. */
function putCounters(at: number, ivs: Uint8Array, ivAt: number, first: number, count: number): void {
	fillCounterBlocks(view, KEYSTREAM + at, ivs, ivAt, first, 1);
	memory.countUp(KEYSTREAM + at, count);
}

/** Turns the first counter blocks into keystream. */
function encryptCounters(cipher: BlockCipher, blocks: number): void {
	const used =
		blocks === KEYSTREAM_BLOCKS ? wholeKeystream : memory.bytes.subarray(KEYSTREAM, KEYSTREAM + blocks * BLOCK);
	cipher.encrypt(used, used);
}

/** out = src XOR keystream from byte `at`, over `length` bytes. */
function xor(src: Uint8Array, from: number, out: Uint8Array, to: number, at: number, length: number): void {
	const { bytes } = memory;
	if (src.buffer === bytes.buffer && out.buffer === bytes.buffer) {
		const [a, b] = [src.byteOffset + from, out.byteOffset + to];
		if ((a | b | length) % BLOCK === 0) {
			memory.mask(b, a, KEYSTREAM + at, ZERO_BLOCK, length);
			return;
		}
	}
	bytes.set(src.subarray(from, from + length), TEXT + at);
	memory.mask(TEXT + at, TEXT + at, KEYSTREAM + at, ZERO_BLOCK, Math.ceil(length / BLOCK) * BLOCK);
	out.set(bytes.subarray(TEXT + at, TEXT + at + length), to);
}

/** Clears what a call over `bytes` at a time can have left of keystream and text. */
const forget = (bytes: number): void => {
	const end = Math.ceil(bytes / BLOCK) * BLOCK;
	memory.bytes.fill(0, KEYSTREAM, KEYSTREAM + end);
	memory.bytes.fill(0, TEXT, TEXT + end);
};

/** One message of any length, in pieces that fit. */
function xorLong(
	cipher: BlockCipher,
	ivs: Uint8Array,
	ivAt: number,
	src: Uint8Array,
	from: number,
	out: Uint8Array,
	to: number,
	length: number,
): void {
	for (let done = 0; done < length; done += SIZE) {
		const piece = Math.min(SIZE, length - done);
		const blocks = Math.ceil(piece / BLOCK);
		putCounters(0, ivs, ivAt, done / BLOCK, blocks);
		encryptCounters(cipher, blocks);
		xor(src, from + done, out, to + done, 0, piece);
	}
}

/**
 * AES-CTR over one message, both directions: `iv` is the first counter block, counted up as a 128-bit big-endian integer
 * (NIST SP 800-38A §6.5). Any length; `out` is as long as `src` and may be `src` itself.
 *
 * @throws CryptoError for an IV that is not 16 bytes, another output length, or a shifted overlap
 */
export function ctr(cipher: BlockCipher, iv: Uint8Array, src: Uint8Array, out: Uint8Array): void {
	if (iv.length !== BLOCK) throw new CryptoError('length', 'CTR IV', `${BLOCK} bytes`, `${iv.length}`);
	requireInPlaceOrDisjoint(src, out);
	xorLong(cipher, iv, 0, src, 0, out, 0, src.length);
	forget(Math.min(SIZE, src.length));
}

/** @throws CryptoError unless `count` pieces of `length` bytes, `stride` apart from `at`, lie inside `size` bytes */
function requireInside(what: string, size: number, at: number, stride: number, length: number, count: number): void {
	const isCount = Number.isSafeInteger(at) && at >= 0 && Number.isSafeInteger(stride) && stride >= 0;
	const end = count === 0 ? 0 : at + (count - 1) * stride + length;
	if (!isCount || end > size) {
		const asked = `${count} × ${length} bytes from ${at} every ${stride}`;
		throw new CryptoError('length', what, asked, `${size} bytes`);
	}
}

/**
 * {@link ctr} over `count` messages of `length` bytes each, with the keystream of many messages made by one bulk call:
 * message i is read at `srcAt + i * srcStride`, written at `outAt + i * outStride` and has the IV `ivs[16i .. 16i+16]`.
 * Nothing is allocated per message. In place is allowed (same buffer, offset and stride); messages that overlap in
 * another way give an undefined result.
 *
 * @throws CryptoError if an IV or a message would lie outside its buffer
 */
export function ctrBatch(
	cipher: BlockCipher,
	ivs: Uint8Array,
	length: number,
	src: Uint8Array,
	srcStride: number,
	srcAt: number,
	out: Uint8Array,
	outStride: number,
	outAt: number,
	count: number,
): void {
	if (!Number.isSafeInteger(count) || count < 0) throw new CryptoError('length', 'CTR batch', 'a count', `${count}`);
	if (!Number.isSafeInteger(length) || length < 0)
		throw new CryptoError('length', 'CTR message', 'a length', `${length}`);
	requireInside('CTR IVs', ivs.length, 0, BLOCK, BLOCK, count);
	requireInside('CTR input', src.length, srcAt, srcStride, length, count);
	requireInside('CTR output', out.length, outAt, outStride, length, count);
	if (length === 0 || count === 0) return;
	const blocks = Math.ceil(length / BLOCK);
	const together = Math.floor(KEYSTREAM_BLOCKS / blocks);
	if (together === 0) {
		for (let i = 0; i < count; i++) {
			xorLong(cipher, ivs, i * BLOCK, src, srcAt + i * srcStride, out, outAt + i * outStride, length);
		}
		forget(SIZE);
		return;
	}
	const stride = blocks * BLOCK;
	for (let from = 0; from < count; from += together) {
		const messages = Math.min(together, count - from);
		for (let i = 0; i < messages; i++) putCounters(i * stride, ivs, (from + i) * BLOCK, 0, blocks);
		encryptCounters(cipher, messages * blocks);
		for (let i = 0; i < messages; i++) {
			xor(src, srcAt + (from + i) * srcStride, out, outAt + (from + i) * outStride, i * stride, length);
		}
	}
	forget(Math.min(count, together) * stride);
}
