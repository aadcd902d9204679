import { CryptoError } from './error.js';

/** AES block, and GCM tag, in bytes. */
export const BLOCK = 16;

/** The shortest and longest GCM nonce in bytes that every provider takes; 12 is the fast and usual one (SP 800-38D §8.2). */
const GCM_IV = { min: 8, max: 128 } as const;

/** @throws CryptoError unless the key is that of AES-128 or AES-256 */
export function requireAesKey(key: Uint8Array): void {
	if (key.length !== 16 && key.length !== 32) {
		throw new CryptoError('length', 'AES key', '16 or 32 bytes', `${key.length}`);
	}
}

/** @throws CryptoError for a GCM key or nonce of another length than the providers share */
export function requireGcmKeyAndIv(key: Uint8Array, iv: Uint8Array): void {
	requireAesKey(key);
	if (iv.length < GCM_IV.min || iv.length > GCM_IV.max) {
		throw new CryptoError('length', 'GCM IV', `${GCM_IV.min} to ${GCM_IV.max} bytes`, `${iv.length}`);
	}
}

/** @throws CryptoError unless `out` is as long as `src` and either the same bytes or disjoint from them */
export function requireInPlaceOrDisjoint(src: Uint8Array, out: Uint8Array): void {
	if (out.length !== src.length) {
		throw new CryptoError('length', 'output', `${src.length} bytes, as the input`, `${out.length}`);
	}
	if (src === out || src.buffer !== out.buffer) return;
	const shift = Math.abs(src.byteOffset - out.byteOffset);
	if (shift !== 0 && shift < src.length) {
		throw new CryptoError('overlap', 'output', 'the input itself or other bytes', `an overlap shifted by ${shift}`);
	}
}

/** @throws CryptoError unless the arguments of a GCM call that writes into `out` suit each other */
export function requireGcmInto(
	key: Uint8Array,
	iv: Uint8Array,
	src: Uint8Array,
	tag: Uint8Array,
	out: Uint8Array,
): void {
	requireGcmKeyAndIv(key, iv);
	if (tag.length !== BLOCK) throw new CryptoError('length', 'GCM tag', `${BLOCK} bytes`, `${tag.length}`);
	requireInPlaceOrDisjoint(src, out);
}

/** @throws CryptoError unless `src` is whole blocks and `out` suits it */
export function requireBlocks(src: Uint8Array, out: Uint8Array): void {
	if (src.length % BLOCK !== 0) {
		throw new CryptoError('length', 'AES input', `a multiple of ${BLOCK} bytes`, `${src.length}`);
	}
	requireInPlaceOrDisjoint(src, out);
}

/** What a wiped cipher throws. */
export const wipedCipher = (): CryptoError => new CryptoError('finished', 'block cipher', 'a key', 'a wiped one');

/** What a hash throws that already gave its digest. */
export const finishedHash = (): CryptoError =>
	new CryptoError('finished', 'hash', 'no call after digest()', 'one more call');
