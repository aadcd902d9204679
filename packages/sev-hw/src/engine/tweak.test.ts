import { seededRandom } from '@cvm/crypto';
import { fc, it } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { threadScratch as scratch } from './scratch.js';
import { createTweak, TWEAK_CONSTANTS_SIZE } from './tweak.js';

const constants = seededRandom('tweak').bytes(TWEAK_CONSTANTS_SIZE);
const tweak = createTweak(constants);
const BLOCKS = 2 ** 40;

/** T of the block with a number (its address divided by 16). */
function t(block: number): number[] {
	const out = new Int32Array(4);
	tweak.whitenBlock(out, block * 16);
	return [...out];
}

const xor = (a: readonly number[], b: readonly number[]) => a.map((v, i) => v ^ (b[i] ?? 0));
const block = fc.integer({ min: 0, max: BLOCKS - 1 });
const xorBlocks = (p: number, q: number) => Number(BigInt(p) ^ BigInt(q));

describe('the tweak', () => {
	it.prop([block, block])('is linear: T(p ⊕ q) = T(p) ⊕ T(q)', (p, q) => {
		expect(t(xorBlocks(p, q))).toEqual(xor(t(p), t(q)));
	});

	it('is zero at address 0', () => {
		expect(t(0)).toEqual([0, 0, 0, 0]);
	});

	it('is the constant of a bit at the address with only that bit', () => {
		const words = new Int32Array(constants.slice().buffer);
		for (let bit = 4; bit < 44; bit++) {
			expect(t(2 ** (bit - 4))).toEqual([...words.subarray(4 * (bit - 4), 4 * (bit - 3))]);
		}
	});

	it.prop([block.map((n) => n % (BLOCKS - 600)), fc.integer({ min: 0, max: 600 })])(
		'of a run is that of its blocks, across page boundaries',
		(first, count) => {
			const { data } = scratch;
			for (let i = 0; i < data.length; i += 5) data[i] = i;
			const before = data.slice();
			tweak.whiten(scratch, 48, first * 16, 16 * count);
			const expected = new Int32Array(before.buffer);
			for (let i = 0; i < count; i++) tweak.whitenBlock(expected.subarray(12 + 4 * i), (first + i) * 16);
			expect(Buffer.compare(data, before)).toBe(0);
		},
	);

	it('is its own, whoever used the scratch memory before', () => {
		const other = createTweak(seededRandom('other').bytes(TWEAK_CONSTANTS_SIZE));
		const seen = [tweak, other, tweak].map((each) => {
			scratch.data.fill(0);
			each.whiten(scratch, 0, 0x1010, 16);
			return [...new Int32Array(scratch.data.slice(0, 16).buffer)];
		});
		expect(seen[0]).toEqual(t(0x101));
		expect(seen[2]).toEqual(t(0x101));
		expect(seen[1]).not.toEqual(t(0x101));
	});

	it('needs all of its constants', () => {
		expect(() => createTweak(new Uint8Array(16))).toThrow('tweak constants: expected 768 bytes, got 16');
	});
});
