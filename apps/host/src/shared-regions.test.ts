import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { SharedRegions } from './shared-regions.js';

const FRAMES = 48;
const change = fc.record({ start: fc.nat(FRAMES - 1), pages: fc.nat(12), shared: fc.boolean() });

describe('SharedRegions', () => {
	test.prop([fc.array(change, { maxLength: 40 })])(
		'is the set of frames that were last said to be shared',
		(changes) => {
			const regions = new SharedRegions();
			const model = new Set<number>();
			for (const { start, pages, shared } of changes) {
				regions.set(start, pages, shared);
				for (let gfn = start; gfn < start + pages; gfn++) {
					if (shared) model.add(gfn);
					else model.delete(gfn);
				}
			}
			const frames = Array.from({ length: FRAMES + 16 }, (_, gfn) => gfn);
			expect(frames.filter((gfn) => regions.has(gfn))).toEqual(frames.filter((gfn) => model.has(gfn)));
			const listed = regions.list.flatMap((r) => frames.slice(r.gfnStart, r.gfnEnd));
			expect(listed).toEqual(frames.filter((gfn) => model.has(gfn)));
		},
	);

	test.prop([fc.array(change, { maxLength: 40 })])(
		'is written in one way only: sorted, disjoint, none empty, none that touch',
		(changes) => {
			const regions = new SharedRegions();
			for (const { start, pages, shared } of changes) regions.set(start, pages, shared);
			let end = -1;
			for (const { gfnStart, gfnEnd } of regions.list) {
				expect(gfnStart).toBeGreaterThan(end);
				expect(gfnEnd).toBeGreaterThan(gfnStart);
				end = gfnEnd;
			}
		},
	);

	test.prop([fc.array(change, { maxLength: 20 })])('arrives as it left, whatever the order', (changes) => {
		const [source, target] = [new SharedRegions(), new SharedRegions()];
		for (const { start, pages, shared } of changes) source.set(start, pages, shared);
		target.set(1, 3, true);
		target.replace([...source.list].reverse());
		expect(target.list).toEqual(source.list);
	});

	it('joins overlapping regions that a foreign source may list', () => {
		const regions = new SharedRegions();
		regions.replace([
			{ gfnStart: 8, gfnEnd: 12 },
			{ gfnStart: 2, gfnEnd: 9 },
			{ gfnStart: 20, gfnEnd: 20 },
		]);
		expect(regions.list).toEqual([{ gfnStart: 2, gfnEnd: 12 }]);
	});

	it('splits a region of which the middle becomes private again', () => {
		const regions = new SharedRegions();
		regions.set(10, 10, true);
		regions.set(14, 2, false);
		expect(regions.list).toEqual([
			{ gfnStart: 10, gfnEnd: 14 },
			{ gfnStart: 16, gfnEnd: 20 },
		]);
	});

	it('lists nothing that nobody shared', () => {
		const regions = new SharedRegions();
		expect([regions.list, regions.has(0)]).toEqual([[], false]);
	});
});
