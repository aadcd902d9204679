import type { CryptoProvider } from '../provider.js';
import { codeOf, type TestFramework } from './framework.js';
import { flipped, hex, inSharedMemory, pattern, unhex } from './hex.js';

const KEY = 'feffe9928665731c6d6a8f9467308308';
const IV = 'cafebabefacedbaddecaf888';
const AAD = 'feedfacedeadbeeffeedfacedeadbeefabaddad2';
const PLAINTEXT = `d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525
	b16aedf5aa0de657ba637b39`;

/** McGrew and Viega, The Galois/Counter Mode of Operation, Appendix B: key, IV, AAD, plaintext, ciphertext ‖ tag. */
const VECTORS = [
	['1', '00'.repeat(16), '00'.repeat(12), '', '', '58e2fccefa7e3061367f1d57a4e7455a'],
	[
		'2',
		'00'.repeat(16),
		'00'.repeat(12),
		'',
		'00'.repeat(16),
		'0388dace60b6a392f328c2b971b2fe78 ab6e47d42cec13bdf53a67b21257bddf',
	],
	[
		'4',
		KEY,
		IV,
		AAD,
		PLAINTEXT,
		`42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05
		1ba30b396a0aac973d58e091 5bc94fbc3221a5db94fae95ae7121a47`,
	],
	[
		'5',
		KEY,
		'cafebabefacedbad',
		AAD,
		PLAINTEXT,
		`61353b4c2806934a777ff51fa22a4755699b2a714fcdc6f83766e5f97b6c742373806900e49f24b22b097544d4896b42
		4989b5e1ebac0f07c23f4598 3612d2e79e3b0785561be14aaca2fccb`,
	],
	['13', '00'.repeat(32), '00'.repeat(12), '', '', '530f8afbc74536b9a963b4f1c4cb738b'],
	[
		'16',
		KEY + KEY,
		IV,
		AAD,
		PLAINTEXT,
		`522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838
		c5f61e6393ba7a0abcc9f662 76fc6ece0f4e1768cddf8853bb2d551b`,
	],
] as const;

export function gcmSuite(provider: CryptoProvider, { describe, it, expect }: TestFramework): void {
	const open = (key: Uint8Array, iv: Uint8Array, aad: Uint8Array, sealed: Uint8Array): string => {
		const plaintext = provider.gcmOpen(key, iv, aad, sealed);
		return plaintext === undefined ? 'refused' : hex(plaintext);
	};

	describe('GCM', () => {
		for (const [number, keyText, ivText, aadText, plaintext, sealed] of VECTORS) {
			it(`seals and opens test case ${number} of the GCM specification`, () => {
				const [key, iv, aad] = [unhex(keyText), unhex(ivText), unhex(aadText)];
				expect(hex(provider.gcmSeal(key, iv, aad, unhex(plaintext)))).toBe(hex(unhex(sealed)));
				expect(open(key, iv, aad, unhex(sealed))).toBe(hex(unhex(plaintext)));
			});
		}

		it('refuses a turned bit anywhere: ciphertext, tag, additional data, IV and key', () => {
			const [key, iv, aad] = [unhex(KEY), unhex(IV), unhex(AAD)];
			const sealed = provider.gcmSeal(key, iv, aad, unhex(PLAINTEXT));
			expect(open(key, iv, aad, sealed)).toBe(hex(unhex(PLAINTEXT)));
			for (let bit = 0; bit < 8 * sealed.length; bit += 5) {
				expect(open(key, iv, aad, flipped(sealed, bit))).toBe('refused');
			}
			for (let bit = 0; bit < 8 * aad.length; bit += 5) {
				expect(open(key, iv, flipped(aad, bit), sealed)).toBe('refused');
			}
			expect(open(flipped(key, 77), iv, aad, sealed)).toBe('refused');
			expect(open(key, flipped(iv, 95), aad, sealed)).toBe('refused');
			expect(open(key, iv, new Uint8Array(), sealed)).toBe('refused');
		});

		it('refuses every truncation, down to nothing', () => {
			const [key, iv, aad] = [unhex(KEY), unhex(IV), unhex(AAD)];
			const sealed = provider.gcmSeal(key, iv, aad, pattern(20));
			for (let length = 0; length < sealed.length; length++) {
				expect(open(key, iv, aad, sealed.subarray(0, length))).toBe('refused');
			}
		});

		it('takes long messages and memory that threads share', () => {
			const [key, iv, aad] = [unhex(KEY), unhex(IV), unhex(AAD)];
			const plaintext = pattern(2 * 131072 + 5);
			const sealed = provider.gcmSeal(key, iv, aad, plaintext);
			const shared = inSharedMemory(plaintext);
			expect(hex(provider.gcmSeal(inSharedMemory(key), inSharedMemory(iv), inSharedMemory(aad), shared))).toBe(
				hex(sealed),
			);
			expect(open(key, iv, aad, inSharedMemory(sealed))).toBe(hex(plaintext));
		});

		it('seals into a given buffer and opens out of one, in place too, with the same bytes', () => {
			const [key, iv, aad] = [unhex(KEY + KEY), unhex(IV), unhex(AAD)];
			for (const length of [0, 1, 20, 4096, 131072 + 5, 2 * 131072]) {
				const plaintext = pattern(length);
				const sealed = provider.gcmSeal(key, iv, aad, plaintext);
				const around = new Uint8Array(length + 32).fill(0xa5);
				const [out, tag] = [around.subarray(16, 16 + length), new Uint8Array(16)];
				provider.gcmSealInto(key, iv, aad, plaintext, out, tag);
				expect(hex(out) + hex(tag)).toBe(hex(sealed));
				expect(hex(plaintext)).toBe(hex(pattern(length)));
				expect(provider.gcmOpenInto(key, iv, aad, out, tag, out)).toBe(true);
				expect(hex(out)).toBe(hex(plaintext));
				provider.gcmSealInto(key, iv, aad, out, out, tag);
				expect(hex(out) + hex(tag)).toBe(hex(sealed));
				const opened = inSharedMemory(new Uint8Array(length));
				expect(provider.gcmOpenInto(key, iv, aad, inSharedMemory(out), inSharedMemory(tag), opened)).toBe(true);
				expect(hex(opened)).toBe(hex(plaintext));
				expect(hex(around.subarray(0, 16)) + hex(around.subarray(16 + length))).toBe('a5'.repeat(32));
			}
		});

		it('opens nothing into the buffer if a bit was turned: it is zeros then', () => {
			const [key, iv, aad] = [unhex(KEY), unhex(IV), unhex(AAD)];
			const [ciphertext, tag] = [new Uint8Array(40), new Uint8Array(16)];
			provider.gcmSealInto(key, iv, aad, pattern(40), ciphertext, tag);
			const refused = (a: Uint8Array, c: Uint8Array, t: Uint8Array): void => {
				const out = new Uint8Array(40).fill(0xff);
				expect(provider.gcmOpenInto(key, iv, a, c, t, out)).toBe(false);
				expect(hex(out)).toBe('00'.repeat(40));
			};
			for (let bit = 0; bit < 320; bit += 7) refused(aad, flipped(ciphertext, bit), tag);
			for (let bit = 0; bit < 128; bit++) refused(aad, ciphertext, flipped(tag, bit));
			refused(flipped(aad, 3), ciphertext, tag);
		});

		it('refuses buffers of other lengths and shifted overlaps', () => {
			const [key, iv, aad] = [unhex(KEY), unhex(IV), unhex(AAD)];
			const room = new Uint8Array(64);
			const [data, tag] = [room.subarray(0, 32), new Uint8Array(16)];
			for (const work of [
				(d: Uint8Array, out: Uint8Array, t: Uint8Array) => provider.gcmSealInto(key, iv, aad, d, out, t),
				(d: Uint8Array, out: Uint8Array, t: Uint8Array) => provider.gcmOpenInto(key, iv, aad, d, t, out),
			]) {
				expect(codeOf(() => work(data, new Uint8Array(31), tag))).toBe('length');
				expect(codeOf(() => work(data, new Uint8Array(33), tag))).toBe('length');
				expect(codeOf(() => work(data, new Uint8Array(32), tag.subarray(1)))).toBe('length');
				expect(codeOf(() => work(data, new Uint8Array(32), new Uint8Array(17)))).toBe('length');
				expect(codeOf(() => work(data, room.subarray(8, 40), tag))).toBe('overlap');
			}
		});

		it('refuses other lengths of key and IV, whether sealing or opening', () => {
			const nothing = new Uint8Array();
			for (const [keyLength, ivLength] of [
				[15, 12],
				[24, 12],
				[0, 12],
				[16, 0],
				[16, 7],
				[32, 129],
			] as const) {
				const [key, iv] = [new Uint8Array(keyLength), new Uint8Array(ivLength)];
				expect(codeOf(() => provider.gcmSeal(key, iv, nothing, nothing))).toBe('length');
				expect(codeOf(() => provider.gcmOpen(key, iv, nothing, new Uint8Array(16)))).toBe('length');
				const tag = new Uint8Array(16);
				expect(codeOf(() => provider.gcmSealInto(key, iv, nothing, nothing, nothing, tag))).toBe('length');
				expect(codeOf(() => provider.gcmOpenInto(key, iv, nothing, nothing, tag, nothing))).toBe('length');
			}
		});
	});
}
