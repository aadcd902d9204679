import { seededRandom } from '@cvm/crypto';
import { fc, it } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { createTweak, TWEAK_CONSTANTS_SIZE } from './tweak.js';

const constants = seededRandom('tweak').bytes(TWEAK_CONSTANTS_SIZE);
const tweak = createTweak(constants);
const BLOCKS = 2 ** 40;

/** T of the block with a number (its address divided by 16). */
function t(block: number): number[] {
	const out = new Int32Array(4);
	tweak.whiten(new Int32Array(4), 0, out, 0, block * 16, 4);
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

	it.prop([block.map((n) => n % (BLOCKS - 600)), fc.integer({ min: 1, max: 600 })])(
		'of a run is that of its blocks, across page boundaries',
		(first, count) => {
			const src = Int32Array.from({ length: 4 * count + 3 }, (_, i) => Math.imul(i, 0x9e3779b9));
			const out = new Int32Array(4 * count + 5);
			tweak.whiten(src, 3, out, 5, first * 16, 4 * count);
			const expected = Array.from({ length: count }, (_, i) =>
				xor([...src.subarray(3 + 4 * i, 7 + 4 * i)], t(first + i)),
			);
			expect([...out]).toEqual([0, 0, 0, 0, 0, ...expected.flat()]);
		},
	);

	it('needs all of its constants', () => {
		expect(() => createTweak(new Uint8Array(16))).toThrow('tweak constants: expected 768 bytes, got 16');
	});
});
