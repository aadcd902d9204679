import { BLOCK, requireInPlaceOrDisjoint } from './argument-checks.js';
import { fillCounterBlocks } from './counter-blocks.js';
import { CryptoError } from './error.js';
import type { BlockCipher } from './provider.js';

/** Blocks per bulk ECB call. 64 KiB is where one `node:crypto` call is fastest per byte; more falls out of the cache. */
const KEYSTREAM_BLOCKS = 4096;

// One buffer for all calls: they run to completion, so no two of them use it at a time.
const keystream = new Uint8Array(KEYSTREAM_BLOCKS * BLOCK);
const keystreamView = new DataView(keystream.buffer);
const keystreamWords = new Int32Array(keystream.buffer);

/** Turns the counter blocks in the first `blocks` of the buffer into keystream. */
function encryptCounters(cipher: BlockCipher, blocks: number): void {
	const used = blocks === KEYSTREAM_BLOCKS ? keystream : keystream.subarray(0, blocks * BLOCK);
	cipher.encrypt(used, used);
}

/** Memory from some byte on, seen as bytes and, where that byte is aligned, as words. */
interface Region {
	readonly bytes: DataView;
	readonly words: Int32Array | undefined;
}

function regionOf(data: Uint8Array, at: number): Region {
	const start = data.byteOffset + at;
	const length = data.length - at;
	const words = start % 4 === 0 ? new Int32Array(data.buffer, start, length >> 2) : undefined;
	return { bytes: new DataView(data.buffer, start, length), words };
}

/** Four words at a time, which is half as fast again as one by one. */
function xorWords(src: Int32Array, from: number, out: Int32Array, to: number, key: number, count: number): void {
	for (let i = 0; i < count; i += 4) {
		out[to + i] = (src[from + i] ?? 0) ^ (keystreamWords[key + i] ?? 0);
		out[to + i + 1] = (src[from + i + 1] ?? 0) ^ (keystreamWords[key + i + 1] ?? 0);
		out[to + i + 2] = (src[from + i + 2] ?? 0) ^ (keystreamWords[key + i + 2] ?? 0);
		out[to + i + 3] = (src[from + i + 3] ?? 0) ^ (keystreamWords[key + i + 3] ?? 0);
	}
}

/** out = src XOR keystream over `length` bytes. */
function xor(src: Region, from: number, out: Region, to: number, key: number, length: number): void {
	if (src.words !== undefined && out.words !== undefined && length % 16 === 0 && ((from | to) & 3) === 0) {
		xorWords(src.words, from >> 2, out.words, to >> 2, key >> 2, length >> 2);
		return;
	}
	// A DataView takes words at any address.
	const whole = length & ~3;
	for (let i = 0; i < whole; i += 4) {
		const word = src.bytes.getUint32(from + i, true) ^ keystreamView.getUint32(key + i, true);
		out.bytes.setUint32(to + i, word, true);
	}
	for (let i = whole; i < length; i++) {
		out.bytes.setUint8(to + i, src.bytes.getUint8(from + i) ^ keystreamView.getUint8(key + i));
	}
}

/** Clears what a call that made `bytes` of keystream can have left: with the ciphertext it gives the plaintext. */
const forgetKeystream = (bytes: number): void => {
	keystream.fill(0, 0, Math.ceil(bytes / BLOCK) * BLOCK);
};

/** One message of any length, in pieces that fit the keystream buffer. */
function xorLong(
	cipher: BlockCipher,
	ivs: Uint8Array,
	ivAt: number,
	src: Region,
	from: number,
	out: Region,
	to: number,
	length: number,
): void {
	for (let done = 0; done < length; done += keystream.length) {
		const piece = Math.min(keystream.length, length - done);
		const blocks = Math.ceil(piece / BLOCK);
		fillCounterBlocks(keystreamView, 0, ivs, ivAt, done / BLOCK, blocks);
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
	xorLong(cipher, iv, 0, regionOf(src, 0), 0, regionOf(out, 0), 0, src.length);
	forgetKeystream(src.length);
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
	const source = regionOf(src, srcAt);
	const target = regionOf(out, outAt);
	const blocks = Math.ceil(length / BLOCK);
	const together = Math.floor(KEYSTREAM_BLOCKS / blocks);
	if (together === 0) {
		for (let i = 0; i < count; i++) {
			xorLong(cipher, ivs, i * BLOCK, source, i * srcStride, target, i * outStride, length);
		}
		forgetKeystream(length);
		return;
	}
	const keystreamStride = blocks * BLOCK;
	for (let from = 0; from < count; from += together) {
		const messages = Math.min(together, count - from);
		for (let i = 0; i < messages; i++) {
			fillCounterBlocks(keystreamView, i * keystreamStride, ivs, (from + i) * BLOCK, 0, blocks);
		}
		encryptCounters(cipher, messages * blocks);
		for (let i = 0; i < messages; i++) {
			const message = from + i;
			xor(source, message * srcStride, target, message * outStride, i * keystreamStride, length);
		}
	}
	forgetKeystream(Math.min(count, together) * keystreamStride);
}
