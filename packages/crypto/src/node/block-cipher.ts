import { type Cipher, createCipheriv, createDecipheriv, type Decipher } from 'node:crypto';
import { requireAesKey, requireBlocks, wipedCipher } from '../argument-checks.js';
import { nobleBlockCipher } from '../noble/block-cipher.js';
import type { BlockCipher } from '../provider.js';

/** One call's share of a long input: larger results leave the cache and cost more per byte. */
const CHUNK = 65536;

/** Up to here the call into OpenSSL costs more than the work in JavaScript. */
const SMALL = 64;

/** More than any result of `update`, less than the 32 MiB from which glibc learns nothing. */
const LARGE = 31 << 20;
let isHeapSettled = false;

/**
 * Every `update` allocates its result, and each collection of garbage frees many. glibc then gives the top of its heap
 * back to the system, and the next results fault it in again, page by page, which can cost twice as much as AES itself.
 * Its threshold for that rises to twice the largest block of pages that was ever freed: so one is, never touched, which
 * costs no memory (mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD). Elsewhere this does nothing.
 */
export function settleHeap(): void {
	if (isHeapSettled) return;
	isHeapSettled = true;
	Buffer.allocUnsafeSlow(LARGE);
}

/** `update` always makes its own result, so one copy into `out` is needed; a chunk is copied before the next is made. */
function feed(cipher: Cipher | Decipher, src: Uint8Array, out: Uint8Array): void {
	if (src.length <= CHUNK) {
		out.set(cipher.update(src));
		return;
	}
	for (let at = 0; at < src.length; at += CHUNK) out.set(cipher.update(src.subarray(at, at + CHUNK)), at);
}

/**
 * AES by OpenSSL, with one cipher object for each direction kept alive: in ECB without padding it holds nothing back, and
 * making one costs more than a page. Inputs and outputs may be views of a SharedArrayBuffer.
 */
export function nodeBlockCipher(key: Uint8Array): BlockCipher {
	requireAesKey(key);
	settleHeap();
	const algorithm = key.length === 16 ? 'aes-128-ecb' : 'aes-256-ecb';
	const small = nobleBlockCipher(key);
	const forward = createCipheriv(algorithm, key, null).setAutoPadding(false);
	const inverse = createDecipheriv(algorithm, key, null).setAutoPadding(false);
	let wiped = false;
	return {
		encrypt(src, out) {
			if (src.length <= SMALL) return small.encrypt(src, out);
			if (wiped) throw wipedCipher();
			requireBlocks(src, out);
			feed(forward, src, out);
		},
		decrypt(src, out) {
			if (src.length <= SMALL) return small.decrypt(src, out);
			if (wiped) throw wipedCipher();
			requireBlocks(src, out);
			feed(inverse, src, out);
		},
		wipe() {
			if (wiped) return;
			wiped = true;
			small.wipe();
			// Ending the operation frees OpenSSL's context, which clears the key schedule.
			forward.final();
			inverse.final();
		},
	};
}
