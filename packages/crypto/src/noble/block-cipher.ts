import { unsafe } from '@noble/ciphers/aes.js';
import { requireAesKey, requireBlocks, wipedCipher } from '../argument-checks.js';
import type { BlockCipher } from '../provider.js';

/** Up to here reading bytes costs less than making two views. */
const SMALL = 64;

type Rounds = typeof unsafe.encrypt;

/** A little-endian word of a block: noble's tables work on those. */
const word = (data: Uint8Array, at: number): number =>
	(data[at] ?? 0) | ((data[at + 1] ?? 0) << 8) | ((data[at + 2] ?? 0) << 16) | ((data[at + 3] ?? 0) << 24);

function putWord(out: Uint8Array, at: number, value: number): void {
	out[at] = value;
	out[at + 1] = value >>> 8;
	out[at + 2] = value >>> 16;
	out[at + 3] = value >>> 24;
}

function runSmall(rounds: Rounds, keys: Uint32Array, src: Uint8Array, out: Uint8Array): void {
	for (let at = 0; at < src.length; at += 16) {
		const b = rounds(keys, word(src, at), word(src, at + 4), word(src, at + 8), word(src, at + 12));
		putWord(out, at, b.s0);
		putWord(out, at + 4, b.s1);
		putWord(out, at + 8, b.s2);
		putWord(out, at + 12, b.s3);
	}
}

function runBulk(rounds: Rounds, keys: Uint32Array, src: Uint8Array, out: Uint8Array): void {
	const from = new DataView(src.buffer, src.byteOffset, src.length);
	const to = new DataView(out.buffer, out.byteOffset, out.length);
	for (let at = 0; at < src.length; at += 16) {
		const s0 = from.getUint32(at, true);
		const s1 = from.getUint32(at + 4, true);
		const s2 = from.getUint32(at + 8, true);
		const b = rounds(keys, s0, s1, s2, from.getUint32(at + 12, true));
		to.setUint32(at, b.s0, true);
		to.setUint32(at + 4, b.s1, true);
		to.setUint32(at + 8, b.s2, true);
		to.setUint32(at + 12, b.s3, true);
	}
}

/** AES in JavaScript, by noble's tables: not constant-time in the presence of caches. The key is expanded here, once. */
export function nobleBlockCipher(key: Uint8Array): BlockCipher {
	requireAesKey(key);
	const forward = unsafe.expandKeyLE(key);
	const inverse = unsafe.expandKeyDecLE(key);
	let wiped = false;

	const run = (rounds: Rounds, keys: Uint32Array, src: Uint8Array, out: Uint8Array): void => {
		if (wiped) throw wipedCipher();
		requireBlocks(src, out);
		if (src.length <= SMALL) runSmall(rounds, keys, src, out);
		else runBulk(rounds, keys, src, out);
	};
	return {
		encrypt: (src, out) => run(unsafe.encrypt, forward, src, out),
		decrypt: (src, out) => run(unsafe.decrypt, inverse, src, out),
		wipe() {
			wiped = true;
			forward.fill(0);
			inverse.fill(0);
		},
	};
}
