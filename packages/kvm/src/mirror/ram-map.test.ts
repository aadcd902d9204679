import { hva } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createPcRamMap, createRamMap, FOUR_GIB, type RamMap } from './ram-map.js';

const PAGE = 4096;
const GIB = 2 ** 30;
const HVA = 0x7f00_0010_0000;

describe('the RAM of a PC', () => {
	it('is one to one below the hole and goes on at 4 GiB', () => {
		const map = createPcRamMap({ ramBytes: 6 * GIB, hva: HVA });
		const low = 2 * GIB;
		expect(
			[0, low - 1, low, FOUR_GIB - 1, FOUR_GIB, FOUR_GIB + 4 * GIB - 1, FOUR_GIB + 4 * GIB].map(map.toRam),
		).toEqual([0, low - 1, -1, -1, low, 6 * GIB - 1, -1]);
		expect(map.toGpa(low)).toBe(FOUR_GIB);
		expect(map.toHva(low + 5)).toBe(HVA + low + 5);
	});

	it.each([
		[1 * GIB, 1],
		[0xb000_0000 - PAGE, 1],
		[0xb000_0000, 2],
	])('of %d bytes is in %d parts', (ramBytes, parts) => {
		expect(createPcRamMap({ ramBytes, hva: HVA }).mappings).toHaveLength(parts);
	});

	it('may be cut where the VMM says', () => {
		const { mappings } = createPcRamMap({ ramBytes: 8 * PAGE, hva: HVA, below4g: 2 * PAGE });
		expect(mappings).toEqual([
			{ gpa: 0, ramAddr: 0, length: 2 * PAGE },
			{ gpa: FOUR_GIB, ramAddr: 2 * PAGE, length: 6 * PAGE },
		]);
		expect(() => createPcRamMap({ ramBytes: PAGE, hva: HVA, below4g: FOUR_GIB + PAGE })).toThrow(/RAM below 4 GiB/);
	});
});

describe('a range of guest-physical memory', () => {
	const map = createPcRamMap({ ramBytes: 8 * PAGE, hva: HVA, below4g: 4 * PAGE });

	it('is split where RAM ends, and what is not RAM is a piece without a RAM address', () => {
		expect(map.split(2 * PAGE, 4 * PAGE)).toEqual([
			{ gpa: 2 * PAGE, length: 2 * PAGE, ramAddr: 2 * PAGE },
			{ gpa: 4 * PAGE, length: 2 * PAGE, ramAddr: -1 },
		]);
		expect(map.split(FOUR_GIB - PAGE, 2 * PAGE)).toEqual([
			{ gpa: FOUR_GIB - PAGE, length: PAGE, ramAddr: -1 },
			{ gpa: FOUR_GIB, length: PAGE, ramAddr: 4 * PAGE },
		]);
		expect(map.split(0, 0)).toEqual([]);
	});

	it('is split between blocks even if they are neighbours', () => {
		const two = createRamMap();
		two.addBlock('a', PAGE, hva(HVA));
		two.addBlock('b', PAGE, hva(HVA + GIB));
		two.map({ gpa: 0, ramAddr: 0, length: 2 * PAGE });
		expect(two.split(0, 2 * PAGE)).toEqual([
			{ gpa: 0, length: PAGE, ramAddr: 0 },
			{ gpa: PAGE, length: PAGE, ramAddr: PAGE },
		]);
		expect([two.toHva(0), two.toHva(PAGE)]).toEqual([HVA, HVA + GIB]);
	});
});

describe('memory that comes and goes', () => {
	const withDimm = (): RamMap => {
		const map = createPcRamMap({ ramBytes: 4 * PAGE, hva: HVA });
		map.addBlock('virtio-mem', 4 * PAGE, hva(HVA + GIB));
		return map;
	};

	it('keeps its RAM address while the guest does not see it', () => {
		const map = withDimm();
		expect([map.size, map.toGpa(5 * PAGE), map.toHva(5 * PAGE)]).toEqual([8 * PAGE, -1, HVA + GIB + PAGE]);
		map.map({ gpa: FOUR_GIB, ramAddr: 4 * PAGE, length: 4 * PAGE });
		expect(map.toGpa(5 * PAGE)).toBe(FOUR_GIB + PAGE);
		map.unmap(FOUR_GIB + PAGE, PAGE);
		expect([map.toGpa(4 * PAGE), map.toGpa(5 * PAGE), map.toGpa(6 * PAGE)]).toEqual([
			FOUR_GIB,
			-1,
			FOUR_GIB + 2 * PAGE,
		]);
		expect(map.toHva(5 * PAGE)).toBe(HVA + GIB + PAGE);
	});

	it('may be seen twice: the lowest address counts', () => {
		const map = withDimm();
		map.map({ gpa: GIB, ramAddr: 0, length: PAGE });
		expect([map.toGpa(0), map.toRam(GIB)]).toEqual([0, 0]);
		map.unmap(0, PAGE);
		expect(map.toGpa(0)).toBe(GIB);
	});

	it('is told by RAM address what the guest sees of it', () => {
		const map = withDimm();
		map.map({ gpa: FOUR_GIB, ramAddr: 5 * PAGE, length: PAGE });
		expect(map.splitRam(3 * PAGE, 4 * PAGE)).toEqual([
			{ gpa: 3 * PAGE, length: PAGE, ramAddr: 3 * PAGE },
			{ gpa: -1, length: PAGE, ramAddr: 4 * PAGE },
			{ gpa: FOUR_GIB, length: PAGE, ramAddr: 5 * PAGE },
			{ gpa: -1, length: PAGE, ramAddr: 6 * PAGE },
		]);
	});

	it.each([
		['beyond the blocks', { gpa: GIB, ramAddr: 8 * PAGE, length: PAGE }],
		['in half pages', { gpa: GIB, ramAddr: 2048, length: PAGE }],
		['of nothing', { gpa: GIB, ramAddr: 0, length: 0 }],
		['where there is something', { gpa: 3 * PAGE, ramAddr: 4 * PAGE, length: PAGE }],
	])('is refused %s', (_, mapping) => {
		const map = withDimm();
		const before = map.mappings;
		expect(() => map.map(mapping)).toThrow(expect.objectContaining({ name: 'MirrorError', code: 'ram' }));
		expect(map.mappings).toEqual(before);
	});

	it('has no blocks without pages', () => {
		const map = withDimm();
		for (const bytes of [0, 100]) expect(() => map.addBlock('x', bytes, hva(HVA))).toThrow(/RAM block x/);
	});
});

describe('any map', () => {
	const operation = fc.record({
		gpa: fc.integer({ min: 0, max: 24 }),
		ramAddr: fc.integer({ min: 0, max: 15 }),
		length: fc.integer({ min: 1, max: 6 }),
		isMap: fc.boolean(),
	});

	test.prop(
		[fc.array(operation, { maxLength: 24 }), fc.integer({ min: 0, max: 24 }), fc.integer({ min: 0, max: 12 })],
		{
			numRuns: 200,
		},
	)('agrees page by page with a table of pages, and pieces cover a range once', (operations, from, pages) => {
		const map = createRamMap();
		map.addBlock('a', 6 * PAGE, hva(HVA));
		map.addBlock('b', 10 * PAGE, hva(HVA + GIB));
		const table = new Map<number, number>();
		for (const { gpa, ramAddr, length, isMap } of operations) {
			const range = Array.from({ length }, (_, i) => i);
			if (!isMap) {
				map.unmap(gpa * PAGE, length * PAGE);
				for (const i of range) table.delete(gpa + i);
			} else if (ramAddr + length <= 16 && range.every((i) => !table.has(gpa + i))) {
				map.map({ gpa: gpa * PAGE, ramAddr: ramAddr * PAGE, length: length * PAGE });
				for (const i of range) table.set(gpa + i, ramAddr + i);
			}
		}
		for (let page = 0; page < 32; page++) {
			expect(map.toRam(page * PAGE)).toBe((table.get(page) ?? -1 / PAGE) * PAGE);
		}
		for (let page = 0; page < 16; page++) {
			const shown = [...table].filter(([, ram]) => ram === page).map(([gpa]) => gpa);
			expect(map.toGpa(page * PAGE)).toBe(shown.length === 0 ? -1 : Math.min(...shown) * PAGE);
		}
		let at = from * PAGE;
		for (const piece of map.split(at, pages * PAGE)) {
			expect(piece.gpa).toBe(at);
			for (let i = 0; i < piece.length; i += PAGE) {
				expect(map.toRam(at + i)).toBe(piece.ramAddr < 0 ? -1 : piece.ramAddr + i);
			}
			at += piece.length;
		}
		expect(at).toBe((from + pages) * PAGE);
	});
});
