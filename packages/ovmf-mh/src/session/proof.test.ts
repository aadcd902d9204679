import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { mapOfRanges, sharedRanges } from './proof.js';

const ranges = (...runs: readonly (readonly [number, number])[]) =>
	new Uint8Array(Uint32Array.from(runs.flat()).buffer);

describe('runs of shared frames', () => {
	it('are said in one way', () => {
		const map = Uint8Array.of(0b1000_0001, 0xff, 0xff, 0b0000_0001, 0, 0b0001_0000);
		const said = sharedRanges(map);
		expect(said).toEqual(ranges([0, 1], [7, 18], [44, 1]));
		expect(mapOfRanges(said ?? new Uint8Array(), map.length)).toEqual(map);
	});

	it.each<[string, Uint8Array]>([
		['empty', ranges([3, 0])],
		['beyond the map', ranges([40, 9])],
		['far beyond it', ranges([0xffffffff, 0xffffffff])],
		['side by side', ranges([0, 4], [4, 4])],
		['overlapping', ranges([0, 4], [3, 4])],
		['descending', ranges([20, 4], [3, 4])],
	])('are refused if %s', (_, given) => {
		expect(mapOfRanges(given, 6)).toBeUndefined();
	});

	test.prop([fc.array(fc.constantFrom(0, 0, 0xff, 0xff, 1, 0x80, 0x18, 0xaa), { maxLength: 64 })], { numRuns: 300 })(
		'become the map that they came from',
		(bytes) => {
			const map = Uint8Array.from(bytes);
			expect(mapOfRanges(sharedRanges(map) ?? new Uint8Array(), map.length)).toEqual(map);
		},
	);

	it('are too many from 2049 on', () => {
		expect(sharedRanges(new Uint8Array(512).fill(0x55))?.length).toBe(2048 * 8);
		expect(sharedRanges(new Uint8Array(513).fill(0x55))).toBeUndefined();
	});
});
