import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createRamPageStatus } from './ram-status.js';
import { createSharedPages, decodeRanges, encodeRanges, type SharedPages } from './shared-pages.js';

const FRAMES = 48;
const change = fc.record({ start: fc.nat(FRAMES - 1), pages: fc.nat(12), shared: fc.boolean() });
type Change = { readonly start: number; readonly pages: number; readonly shared: boolean };
const ALL = Array.from({ length: FRAMES + 16 }, (_, gfn) => gfn);

const apply = (pages: SharedPages, changes: readonly Change[]): SharedPages => {
	for (const { start, pages: n, shared } of changes) pages.set(start, n, shared);
	return pages;
};
const modelOf = (changes: readonly Change[]): number[] => {
	const model = new Set<number>();
	for (const { start, pages, shared } of changes) {
		for (let gfn = start; gfn < start + pages; gfn++) {
			if (shared) model.add(gfn);
			else model.delete(gfn);
		}
	}
	return ALL.filter((gfn) => model.has(gfn));
};
const listed = (pages: SharedPages): number[] => pages.ranges.flatMap((r) => ALL.slice(r.gfnStart, r.gfnEnd));
const range = (gfnStart: number, gfnEnd: number) => ({ gfnStart, gfnEnd });

describe('the list of shared pages', () => {
	test.prop([fc.array(change, { maxLength: 40 })])(
		'is the set of frames that were last said to be shared',
		(changes) => {
			const pages = apply(createSharedPages(), changes);
			expect(ALL.filter((gfn) => pages.has(gfn))).toEqual(modelOf(changes));
			expect(listed(pages)).toEqual(modelOf(changes));
		},
	);

	test.prop([fc.array(change, { maxLength: 40 })])(
		'is written in one way only: sorted, disjoint, none empty, none that touch',
		(changes) => {
			let end = -1;
			for (const { gfnStart, gfnEnd } of apply(createSharedPages(), changes).ranges) {
				expect(gfnStart).toBeGreaterThan(end);
				expect(gfnEnd).toBeGreaterThan(gfnStart);
				end = gfnEnd;
			}
		},
	);

	test.prop([fc.array(change, { maxLength: 20 })])('arrives as it left, whatever the order', (changes) => {
		const source = apply(createSharedPages(), changes);
		const target = apply(createSharedPages(), [{ start: 1, pages: 3, shared: true }]);
		expect(target.replace([...decodeRanges(encodeRanges(source.ranges))].reverse())).toBe(true);
		expect(target.ranges).toEqual(source.ranges);
	});

	it('joins overlapping ranges that a foreign source may list', () => {
		const pages = createSharedPages();
		pages.replace([range(8, 12), range(2, 9), range(20, 20)]);
		expect(pages.ranges).toEqual([range(2, 12)]);
	});

	it('splits a range of which the middle becomes private again', () => {
		const pages = createSharedPages();
		pages.set(10, 10, true);
		pages.set(14, 2, false);
		expect(pages.ranges).toEqual([range(10, 14), range(16, 20)]);
	});

	it('lists nothing that nobody shared, and nothing after a reset', () => {
		const pages = createSharedPages();
		expect([pages.ranges, pages.has(0)]).toEqual([[], false]);
		pages.set(3, 2, true);
		pages.clear();
		expect([pages.ranges, pages.has(3)]).toEqual([[], false]);
	});

	it('refuses to grow beyond its limit, by adding or by splitting, and may shrink there', () => {
		const pages = createSharedPages({ limit: 2 });
		expect([pages.set(0, 3, true), pages.set(10, 3, true), pages.set(20, 1, true)]).toEqual([true, true, false]);
		expect(pages.set(11, 1, false)).toBe(false);
		expect(pages.ranges).toEqual([range(0, 3), range(10, 13)]);
		expect([pages.set(3, 7, true), pages.ranges]).toEqual([true, [range(0, 13)]]);
		expect(pages.replace([range(0, 1), range(2, 3), range(4, 5)])).toBe(false);
		expect(pages.ranges).toEqual([range(0, 13)]);
	});

	it('takes frames up to 2^52', () => {
		const pages = createSharedPages();
		pages.set(2 ** 52 - 1, 1, true);
		expect([pages.has(2 ** 52 - 1), pages.has(2 ** 52)]).toEqual([true, false]);
	});
});

describe('pairs of u64s', () => {
	it('are little-endian, the end behind the last frame', () => {
		const bytes = encodeRanges([range(0x102, 0x30000000000)]);
		expect([...bytes]).toEqual([2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]);
	});

	it('are refused if one is cut short, or too large for a frame', () => {
		expect(() => decodeRanges(new Uint8Array(15))).toThrow('shared pages: expected a multiple of 16 bytes, got 15');
		expect(() => decodeRanges(new Uint8Array(16).fill(0xff))).toThrow('expected frames below 2^53');
	});
});

describe('the list of the QEMU branches', () => {
	const qemu = () => createSharedPages({ form: 'qemu' });

	it('drops a range inside an entry, and moves the end of an entry that it begins in', () => {
		const pages = qemu();
		pages.set(10, 10, true);
		pages.set(12, 3, true);
		expect(pages.ranges).toEqual([range(10, 20)]);
		pages.set(20, 5, true);
		expect(pages.ranges).toEqual([range(10, 25)]);
	});

	it('trap: entries may overlap', () => {
		const pages = qemu();
		pages.set(10, 5, true);
		pages.set(20, 5, true);
		pages.set(12, 12, true);
		expect(pages.ranges).toEqual([range(10, 24), range(20, 25)]);
		pages.set(5, 8, true);
		expect(pages.ranges).toEqual([range(5, 13), range(10, 24), range(20, 25)]);
	});

	it('trap: a removed range may stay listed in part', () => {
		const pages = qemu();
		pages.set(10, 5, true);
		pages.set(20, 5, true);
		pages.set(12, 12, true);
		pages.set(20, 3, false);
		expect(pages.ranges).toEqual([range(10, 20), range(23, 24), range(20, 25)]);
		expect(pages.has(21)).toBe(true);
	});

	test.prop([fc.array(change, { maxLength: 30 })])('never misses a page that is shared', (changes) => {
		const pages = apply(qemu(), changes);
		// What is too much in it comes from removing; adding alone is right.
		const added = changes.filter((c) => c.shared);
		const only = apply(qemu(), added);
		expect(ALL.filter((gfn) => only.has(gfn))).toEqual(modelOf(added));
		for (const gfn of modelOf(changes)) expect(pages.has(gfn)).toBe(true);
	});

	it('cuts, splits and unlinks while entries are disjoint', () => {
		const pages = qemu();
		pages.replace([range(0, 4), range(6, 8), range(10, 20)]);
		pages.set(3, 9, false);
		expect(pages.ranges).toEqual([range(0, 3), range(12, 20)]);
		pages.set(14, 2, false);
		expect(pages.ranges).toEqual([range(0, 3), range(12, 14), range(16, 20)]);
	});
});

describe('page status by place in RAM', () => {
	/** 16 pages of RAM at 0, 16 more at page 0x100; MMIO elsewhere. */
	const map = {
		split: (gpa: number, length: number) =>
			Array.from({ length: length / 4096 }, (_, i) => {
				const gfn = gpa / 4096 + i;
				const frame = gfn < 16 ? gfn : gfn >= 0x100 && gfn < 0x110 ? gfn - 0x100 + 16 : -1;
				return { gpa: gfn * 4096, length: 4096, ramAddr: frame < 0 ? -1 : frame * 4096 };
			}),
	};

	it('splits a range that covers RAM and MMIO', () => {
		const status = createRamPageStatus(map);
		expect(status.set(14, 0x100 - 14 + 2, true)).toBe(true);
		expect(status.ram.ranges).toEqual([range(14, 18)]);
		expect(status.mmio.ranges).toEqual([range(16, 0x100)]);
		status.set(0x101, 1, false);
		expect(status.ram.ranges).toEqual([range(14, 17)]);
		status.clear();
		expect([status.ram.ranges, status.mmio.ranges]).toEqual([[], []]);
	});

	it('changes nothing if one of the lists is full', () => {
		const status = createRamPageStatus(map, { limit: 1 });
		status.set(0, 1, true);
		expect(status.set(15, 2, true)).toBe(false);
		expect([status.ram.ranges, status.mmio.ranges]).toEqual([[range(0, 1)], []]);
	});
});
