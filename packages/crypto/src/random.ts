import { randomBytes } from '@noble/hashes/utils.js';
import { BLOCK } from './argument-checks.js';
import { fillCounterBlocks } from './counter-blocks.js';
import { CryptoError } from './error.js';
import { nobleProvider } from './noble/provider.js';
import type { CryptoProvider, RandomSource } from './provider.js';

/** What one call of the platform's generator gives at most (Web Cryptography API §10.1.1). */
const SYSTEM_CHUNK = 65536;

/** Bytes made at a time, for small draws from either source. */
const BUFFER_BYTES = 4096;

/** Draws above this size do not go through the buffer of the system source. */
const LARGE_DRAW = 256;

/** Text as ASCII bytes, other characters as percent-encoded UTF-8. */
const textBytes = (text: string): Uint8Array => Uint8Array.from(encodeURIComponent(text), (c) => c.charCodeAt(0));

/** Separates this use of a seed from any other. Part of the stream's definition: a change changes every stream. */
const DOMAIN = textBytes('cvm seeded random');

/** A reproducible source of bytes, of which independent sources can be made. */
export interface SeededRandom extends RandomSource {
	/**
	 * A source that depends on this one's seed and on `label`, not on how much was drawn: the same label gives the same
	 * stream at any time, and drawing from a fork never moves its parent.
	 */
	fork(label: string): SeededRandom;
}

/** A source whose `bytes` draws through `fill`. */
function sourceOf(fill: (out: Uint8Array) => void): RandomSource {
	return {
		fill,
		bytes(length) {
			if (!Number.isSafeInteger(length) || length < 0) {
				throw new CryptoError('length', 'random bytes', 'a length', `${length}`);
			}
			const out = new Uint8Array(length);
			fill(out);
			return out;
		},
	};
}

/**
 * A deterministic source: the AES-128-CTR keystream from counter 0 under the first half of
 * SHA-256(domain ‖ 0x00 ‖ seed). The stream is one sequence of bytes however it is drawn, so 64 draws of 16 bytes equal
 * one of 1024. For tests and reproducible runs: it is as secret as its seed.
 *
 * @param seed text is taken as percent-encoded UTF-8
 * @param provider makes the keystream, which is the same under every provider; `nodeProvider` for speed
 */
export function seededRandom(
	seed: string | Uint8Array,
	provider: Pick<CryptoProvider, 'digest' | 'blockCipher'> = nobleProvider,
): SeededRandom {
	const material = typeof seed === 'string' ? textBytes(seed) : seed;
	const root = provider.digest('sha256', DOMAIN, Uint8Array.of(0), material);
	const cipher = provider.blockCipher(root.subarray(0, 16));
	const counterZero = new Uint8Array(BLOCK);
	const buffer = new Uint8Array(BUFFER_BYTES);
	const view = new DataView(buffer.buffer);
	let block = 0;
	let used = BUFFER_BYTES;

	const refill = (): void => {
		fillCounterBlocks(view, 0, counterZero, 0, block, BUFFER_BYTES / BLOCK);
		cipher.encrypt(buffer, buffer);
		block += BUFFER_BYTES / BLOCK;
		used = 0;
	};
	const fill = (out: Uint8Array): void => {
		for (let at = 0; at < out.length; ) {
			if (used === BUFFER_BYTES) refill();
			const take = Math.min(out.length - at, BUFFER_BYTES - used);
			out.set(buffer.subarray(used, used + take), at);
			used += take;
			at += take;
		}
	};
	return {
		...sourceOf(fill),
		fork: (label) => seededRandom(provider.digest('sha256', root, textBytes(label)), provider),
	};
}

/**
 * The platform's cryptographic generator (`crypto.getRandomValues`). Small draws share one call to it; what was given out
 * is cleared.
 */
export function systemRandom(): RandomSource {
	const pool = new Uint8Array(BUFFER_BYTES);
	let used = BUFFER_BYTES;
	return sourceOf((out) => {
		if (out.length > LARGE_DRAW) {
			for (let at = 0; at < out.length; at += SYSTEM_CHUNK) {
				out.set(randomBytes(Math.min(SYSTEM_CHUNK, out.length - at)), at);
			}
			return;
		}
		if (used + out.length > BUFFER_BYTES) {
			pool.set(randomBytes(BUFFER_BYTES));
			used = 0;
		}
		out.set(pool.subarray(used, used + out.length));
		pool.fill(0, used, used + out.length);
		used += out.length;
	});
}
