import { ctr } from '../ctr.js';
import type { CryptoProvider } from '../provider.js';
import { codeOf, type TestFramework } from './framework.js';
import { hex, inSharedMemory, pattern, unhex } from './hex.js';

const FOUR_BLOCKS = `6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
	30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710`;
const KEY_128 = '2b7e151628aed2a6abf7158809cf4f3c';
const KEY_256 = '603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4';
const COUNTER = 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff';

/** key, plaintext, ciphertext */
const ECB = [
	[
		'FIPS 197 C.1',
		'000102030405060708090a0b0c0d0e0f',
		'00112233445566778899aabbccddeeff',
		'69c4e0d86a7b0430d8cdb78070b4c55a',
	],
	[
		'FIPS 197 C.3',
		'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f',
		'00112233445566778899aabbccddeeff',
		'8ea2b7ca516745bfeafc49904b496089',
	],
	[
		'SP 800-38A F.1.1',
		KEY_128,
		FOUR_BLOCKS,
		`3ad77bb40d7a3660a89ecaf32466ef97 f5d3d58503b9699de785895a96fdbaaf
		43b1cd7f598ece23881b00e3ed030688 7b0c785e27e8ad3f8223207104725dd4`,
	],
] as const;

/** key, ciphertext of the four blocks under the counter above */
const CTR = [
	[
		'SP 800-38A F.5.1',
		KEY_128,
		`874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff
		5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee`,
	],
	[
		'SP 800-38A F.5.5',
		KEY_256,
		`601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5
		2b0930daa23de94ce87017ba2d84988d dfc9c58db67aada613c2dd08457941a6`,
	],
] as const;

/** Longer than any chunk that a provider may cut its input into, and no multiple of one. */
const LONG = 3 * 65536 + 48;

export function blockCipherSuite(provider: CryptoProvider, { describe, it, expect }: TestFramework): void {
	describe('block cipher', () => {
		for (const [source, key, plaintext, ciphertext] of ECB) {
			it(`gives the ciphertext of ${source}, and back`, () => {
				const cipher = provider.blockCipher(unhex(key));
				const out = new Uint8Array(unhex(plaintext).length);
				cipher.encrypt(unhex(plaintext), out);
				expect(hex(out)).toBe(hex(unhex(ciphertext)));
				cipher.decrypt(out, out);
				expect(hex(out)).toBe(hex(unhex(plaintext)));
			});
		}

		for (const [source, key, ciphertext] of CTR) {
			it(`makes the counter mode of ${source}`, () => {
				const data = unhex(FOUR_BLOCKS);
				ctr(provider.blockCipher(unhex(key)), unhex(COUNTER), data, data);
				expect(hex(data)).toBe(hex(unhex(ciphertext)));
			});
		}

		it('gives a long input the blocks that each would have by itself', () => {
			const cipher = provider.blockCipher(unhex(KEY_256));
			const data = pattern(LONG);
			const whole = new Uint8Array(LONG);
			const single = new Uint8Array(LONG);
			for (const direction of ['encrypt', 'decrypt'] as const) {
				cipher[direction](data, whole);
				for (let at = 0; at < LONG; at += 16) {
					cipher[direction](data.subarray(at, at + 16), single.subarray(at, at + 16));
				}
				expect(hex(whole)).toBe(hex(single));
			}
		});

		it('keeps no state from one call to the next', () => {
			const cipher = provider.blockCipher(unhex(KEY_128));
			const first = new Uint8Array(128);
			const again = new Uint8Array(128);
			cipher.encrypt(pattern(128), first);
			cipher.decrypt(pattern(4096), new Uint8Array(4096));
			cipher.encrypt(new Uint8Array(16), new Uint8Array(16));
			cipher.encrypt(pattern(128), again);
			expect(hex(again)).toBe(hex(first));
		});

		it('works in place and at odd addresses in shared memory', () => {
			for (const length of [16, 4096, LONG]) {
				const cipher = provider.blockCipher(inSharedMemory(unhex(KEY_128)));
				const expected = new Uint8Array(length);
				cipher.encrypt(pattern(length), expected);
				const shared = inSharedMemory(pattern(length));
				cipher.encrypt(shared, shared);
				expect(hex(shared)).toBe(hex(expected));
				cipher.decrypt(shared, shared);
				expect(hex(shared)).toBe(hex(pattern(length)));
			}
		});

		it('writes beside its input in the same memory', () => {
			const memory = pattern(512);
			const [input, expected] = [memory.slice(0, 256), new Uint8Array(256)];
			const cipher = provider.blockCipher(unhex(KEY_128));
			cipher.encrypt(input, expected);
			cipher.encrypt(memory.subarray(0, 256), memory.subarray(256));
			expect(hex(memory)).toBe(hex(input) + hex(expected));
		});

		it('does not follow a later change of the key bytes', () => {
			const key = unhex(KEY_128);
			const [small, large] = [new Uint8Array(16), new Uint8Array(256)];
			const cipher = provider.blockCipher(key);
			key.fill(0);
			cipher.encrypt(unhex(FOUR_BLOCKS).subarray(0, 16), small);
			expect(hex(small)).toBe('3ad77bb40d7a3660a89ecaf32466ef97');
			cipher.decrypt(large.fill(0), large);
			const fresh = new Uint8Array(256);
			provider.blockCipher(unhex(KEY_128)).decrypt(fresh, fresh);
			expect(hex(large)).toBe(hex(fresh));
		});

		it('accepts no bytes at all', () => {
			const cipher = provider.blockCipher(unhex(KEY_128));
			expect(codeOf(() => cipher.encrypt(new Uint8Array(), new Uint8Array()))).toBe('nothing thrown');
		});

		it('refuses every key that is not of 16 or 32 bytes', () => {
			for (let length = 0; length <= 48; length++) {
				const expected = length === 16 || length === 32 ? 'nothing thrown' : 'length';
				expect(codeOf(() => provider.blockCipher(new Uint8Array(length)))).toBe(expected);
			}
		});

		for (const size of [16, 4096]) {
			it(`refuses parts of a block, another output length and a shifted overlap, at ${size} bytes`, () => {
				const cipher = provider.blockCipher(unhex(KEY_128));
				const memory = new Uint8Array(size + 16);
				for (const direction of ['encrypt', 'decrypt'] as const) {
					const run = (src: Uint8Array, out: Uint8Array) => codeOf(() => cipher[direction](src, out));
					expect(run(new Uint8Array(size + 1), new Uint8Array(size + 1))).toBe('length');
					expect(run(new Uint8Array(size - 1), new Uint8Array(size - 1))).toBe('length');
					expect(run(new Uint8Array(size), new Uint8Array(size + 16))).toBe('length');
					expect(run(new Uint8Array(size), new Uint8Array(size - 16))).toBe('length');
					expect(run(memory.subarray(0, size), memory.subarray(1, size + 1))).toBe('overlap');
					expect(run(memory.subarray(1, size + 1), memory.subarray(0, size))).toBe('overlap');
					expect(run(memory.subarray(0, size), memory.subarray(15, size + 15))).toBe('overlap');
					expect(run(memory.subarray(15, size + 15), memory.subarray(0, size))).toBe('overlap');
				}
				expect(hex(memory)).toBe('00'.repeat(size + 16));
			});

			it(`refuses to work after being wiped, at ${size} bytes, and can be wiped twice`, () => {
				const cipher = provider.blockCipher(unhex(KEY_128));
				cipher.wipe();
				cipher.wipe();
				const out = new Uint8Array(size);
				expect(codeOf(() => cipher.encrypt(pattern(size), out))).toBe('finished');
				expect(codeOf(() => cipher.decrypt(pattern(size), out))).toBe('finished');
				expect(hex(out)).toBe('00'.repeat(size));
			});
		}
	});
}
