import { expect, it } from 'vitest';
import { describeReaders, measureReaders } from './readers.js';

it('holds what verify reads against a reader field by field, and against cat', async () => {
	const speeds = await measureReaders([
		{ what: 'raw pages', pages: 50, zero: false },
		{ what: 'zero pages', pages: 300, zero: true },
	]);
	expect(speeds.map(({ what, pages, bytes }) => [what, pages, bytes])).toEqual([
		['raw pages', 50, 50 * 4104 + 114],
		['zero pages', 300, 300 * 9 + 114],
	]);
	for (const { verify, interpreted, cat } of speeds) expect(Math.min(verify, interpreted, cat)).toBeGreaterThan(0);
	expect(describeReaders(speeds)[0]).toMatch(
		/^stream verify, raw pages: \d+ MB\/s, [\d.]+ million pages\/s; [\d.]+ × a reader field by field, [\d.]+ × cat \| wc -c$/,
	);
});
