import { createCipheriv } from 'node:crypto';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { bulkMemory, reserveBulk } from './bulk/shared.js';
import { ctr, ctrBatch } from './ctr.js';
import { nobleBlockCipher } from './noble/block-cipher.js';
import { nodeBlockCipher } from './node/block-cipher.js';
import type { BlockCipher } from './provider.js';
import { codeOf } from './testing/framework.js';
import { hex, inSharedMemory, pattern, unhex } from './testing/hex.js';

const KEY = unhex('000102030405060708090a0b0c0d0e0f');
const cipher = nobleBlockCipher(KEY);

/** OpenSSL's counter mode, which counts 128 bits. */
const reference = (iv: Uint8Array, data: Uint8Array): string =>
	createCipheriv('aes-128-ctr', KEY, iv).update(data).toString('hex');

const run = (iv: Uint8Array, data: Uint8Array, by: BlockCipher = cipher): string => {
	const out = new Uint8Array(data.length);
	ctr(by, iv, data, out);
	return hex(out);
};

/** IVs whose counter carries within a few blocks, over 1, 2, 3 or 4 words. */
const CARRIES = [
	'00000000000000000000000000000000',
	'000000000000000000000000fffffffe',
	'0000000000000000fffffffffffffffe',
	'00000000fffffffffffffffffffffffe',
	'fffffffffffffffffffffffffffffffe',
	'ffffffffffffffffffffffffffffffff',
	'00000000ffffffff00000000fffffffd',
	'7fffffffffffffff7fffffffffffffff',
];

describe('ctr', () => {
	for (const iv of CARRIES) {
		it(`counts 128 bits big-endian from ${iv}`, () => {
			expect(run(unhex(iv), pattern(100))).toBe(reference(unhex(iv), pattern(100)));
		});
	}

	it('goes on counting past the length of its buffer, with the carry there', () => {
		// 4096 blocks fill the buffer: the carry into the third word falls on the first block of the second piece.
		for (const iv of ['000000000000000000000000fffff000', '0102030405060708ffffffffffffefff']) {
			const data = pattern(2 * 65536 + 17);
			expect(run(unhex(iv), data, nodeBlockCipher(KEY))).toBe(reference(unhex(iv), data));
		}
	});

	test.prop([fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.uint8Array({ maxLength: 200 })], { numRuns: 60 })(
		'agrees with OpenSSL for any IV and length, in place too, and undoes itself',
		(iv, data) => {
			const expected = reference(iv, data);
			expect(run(iv, data)).toBe(expected);
			const copy = inSharedMemory(data);
			ctr(cipher, iv, copy, copy);
			expect(hex(copy)).toBe(expected);
			ctr(cipher, iv, copy, copy);
			expect(hex(copy)).toBe(hex(data));
		},
	);

	it('leaves the IV as it was', () => {
		const iv = unhex('fffffffffffffffffffffffffffffffe');
		run(iv, pattern(64));
		expect(hex(iv)).toBe('fffffffffffffffffffffffffffffffe');
	});

	it('refuses an IV that is not 16 bytes, another output length and a shifted overlap', () => {
		const memory = new Uint8Array(40);
		for (const length of [0, 12, 15, 17, 32]) {
			expect(codeOf(() => ctr(cipher, new Uint8Array(length), memory, memory))).toBe('length');
		}
		expect(codeOf(() => ctr(cipher, KEY, memory, new Uint8Array(39)))).toBe('length');
		expect(codeOf(() => ctr(cipher, KEY, memory, new Uint8Array(41)))).toBe('length');
		expect(codeOf(() => ctr(cipher, KEY, memory.subarray(0, 39), memory.subarray(1)))).toBe('overlap');
		expect(hex(memory)).toBe('00'.repeat(40));
	});
});

/** A cipher that counts its calls and remembers the buffer that it was given last. */
function observed(): BlockCipher & { readonly calls: number[]; last: Uint8Array } {
	const calls: number[] = [];
	return {
		calls,
		last: new Uint8Array(),
		encrypt(src, out) {
			calls.push(src.length);
			this.last = out;
			cipher.encrypt(src, out);
		},
		decrypt: cipher.decrypt,
		wipe: cipher.wipe,
	};
}

describe('ctrBatch', () => {
	test.prop(
		[
			fc.integer({ min: 0, max: 70 }),
			fc.integer({ min: 0, max: 12 }),
			fc.tuple(fc.nat(5), fc.nat(9), fc.nat(5), fc.nat(9)),
			fc.uint8Array({ minLength: 12 * 16, maxLength: 12 * 16 }),
		],
		{ numRuns: 80 },
	)('is ctr on each message, at any stride and alignment, and touches nothing else', (length, count, places, ivs) => {
		const [srcAt, srcGap, outAt, outGap] = places;
		const [srcStride, outStride] = [length + srcGap, length + outGap];
		const src = inSharedMemory(pattern(srcAt + count * srcStride));
		const out = new Uint8Array(outAt + count * outStride).fill(0xee);
		const expected = out.slice();
		for (let i = 0; i < count; i++) {
			const message = src.slice(srcAt + i * srcStride, srcAt + i * srcStride + length);
			expected.set(unhex(reference(ivs.subarray(16 * i, 16 * i + 16), message)), outAt + i * outStride);
		}
		ctrBatch(cipher, ivs, length, src, srcStride, srcAt, out, outStride, outAt, count);
		expect(hex(out)).toBe(hex(expected));
	});

	it('takes data that stands in the bulk memory where it is, aligned or not', () => {
		const at = reserveBulk(8192);
		const ivs = pattern(64);
		for (const [place, length] of [
			[at, 2048],
			[at + 16, 32],
			[at + 8, 32],
			[at, 33],
		] as const) {
			const data = bulkMemory.bytes.subarray(place, place + 4 * length);
			data.set(pattern(4 * length));
			const expected = [0, 1, 2, 3].map((i) =>
				reference(ivs.subarray(16 * i, 16 * i + 16), data.slice(i * length, (i + 1) * length)),
			);
			ctrBatch(cipher, ivs, length, data, length, 0, data, length, 0, 4);
			expect(hex(data)).toBe(expected.join(''));
			data.fill(0);
		}
	});

	it('is ctr on whole blocks whatever the alignment of either side', () => {
		const ivs = pattern(32);
		for (const [srcAt, outAt, stride] of [
			[0, 0, 32],
			[4, 8, 36],
			[0, 1, 32],
			[3, 0, 32],
			[0, 0, 33],
			[2, 2, 34],
		] as const) {
			const src = pattern(80);
			const out = new Uint8Array(80);
			ctrBatch(cipher, ivs, 32, src, stride, srcAt, out, stride, outAt, 2);
			const expected = new Uint8Array(80);
			for (const i of [0, 1]) {
				const message = src.subarray(srcAt + i * stride, srcAt + i * stride + 32);
				expected.set(unhex(reference(ivs.subarray(16 * i, 16 * i + 16), message)), outAt + i * stride);
			}
			expect(hex(out)).toBe(hex(expected));
		}
	});

	it('does nothing for no messages, wherever they would be', () => {
		const memory = pattern(16);
		ctrBatch(cipher, new Uint8Array(), 4096, memory, 4096, 100, memory, 4096, 100, 0);
		ctrBatch(cipher, new Uint8Array(16), 0, memory, 0, 0, memory, 0, 0, 1);
		expect(hex(memory)).toBe(hex(pattern(16)));
	});

	it('makes the keystream of 16 pages with one call, and that of 33 with three', () => {
		for (const [pages, calls] of [
			[16, [65536]],
			[33, [65536, 65536, 4096]],
		] as const) {
			const data = pattern(pages * 4096);
			const ivs = pattern(pages * 16);
			const by = observed();
			const out = new Uint8Array(data.length);
			ctrBatch(by, ivs, 4096, data, 4096, 0, out, 4096, 0, pages);
			expect(by.calls).toEqual(calls);
			for (let i = 0; i < pages; i++) {
				const expected = reference(ivs.subarray(16 * i, 16 * i + 16), data.subarray(4096 * i, 4096 * i + 4096));
				expect(hex(out.subarray(4096 * i, 4096 * i + 4096))).toBe(expected);
			}
		}
	});

	it('takes messages longer than its buffer', () => {
		const length = 65536 + 33;
		const data = pattern(2 * length);
		const ivs = unhex(`${CARRIES[2]}${CARRIES[4]}`);
		const expected = [0, 1].map((i) =>
			reference(ivs.subarray(16 * i, 16 * i + 16), data.subarray(i * length, (i + 1) * length)),
		);
		ctrBatch(nodeBlockCipher(KEY), ivs, length, data, length, 0, data, length, 0, 2);
		expect(hex(data)).toBe(expected.join(''));
	});

	it('leaves no keystream behind', () => {
		for (const [length, count] of [
			[4096, 3],
			[65536 + 1, 2],
			[5, 40],
		] as const) {
			const by = observed();
			const data = new Uint8Array(length * count);
			ctrBatch(by, pattern(16 * count), length, data, length, 0, data, length, 0, count);
			expect(new Set(new Uint8Array(by.last.buffer))).toEqual(new Set([0]));
		}
		const by = observed();
		ctr(by, KEY, new Uint8Array(100), new Uint8Array(100));
		expect(new Set(new Uint8Array(by.last.buffer))).toEqual(new Set([0]));
	});

	it('refuses what would reach outside the IVs, the input or the output, before writing anything', () => {
		const ivs = new Uint8Array(32);
		const memory = new Uint8Array(64);
		const batch = (length: number, srcStride: number, srcAt: number, outStride: number, outAt: number, count: number) =>
			codeOf(() => ctrBatch(cipher, ivs, length, memory, srcStride, srcAt, memory, outStride, outAt, count));
		expect(batch(16, 16, 0, 16, 0, 3)).toBe('length');
		expect(batch(32, 33, 0, 32, 0, 2)).toBe('length');
		expect(batch(32, 32, 1, 32, 0, 2)).toBe('length');
		expect(batch(32, 32, 0, 33, 0, 2)).toBe('length');
		expect(batch(32, 32, 0, 32, 1, 2)).toBe('length');
		for (const bad of [-1, 0.5, Number.NaN]) {
			expect(batch(bad, 16, 0, 16, 0, 1)).toBe('length');
			expect(batch(16, bad, 0, 16, 0, 1)).toBe('length');
			expect(batch(16, 16, bad, 16, 0, 1)).toBe('length');
			expect(batch(16, 16, 0, bad, 0, 1)).toBe('length');
			expect(batch(16, 16, 0, 16, bad, 1)).toBe('length');
			expect(batch(16, 16, 0, 16, 0, bad)).toBe('length');
		}
		expect(hex(memory)).toBe('00'.repeat(64));
		expect(batch(32, 32, 0, 32, 0, 2)).toBe('nothing thrown');
	});
});
