import { gpa, hva } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createPcRamMap, FOUR_GIB, type RamMap } from './ram-map.js';
import { createRegistrationStrategy, MAX_MIRROR_RECORDS, mirrorRecord } from './registration.js';
import { createIdentityStrategy, createLowWindowStrategy, createPspCopyStrategy } from './strategy.js';

const PAGE = 4096;
const HVA = 0x7f00_0010_0000;
const W = 2 ** 42;

/** 4 pages below the hole, 4 above, and 2 that the guest does not see. */
function ram(): RamMap {
	const map = createPcRamMap({ ramBytes: 8 * PAGE, hva: HVA, below4g: 4 * PAGE });
	map.addBlock('save areas', 2 * PAGE, hva(HVA + 2 ** 30));
	return map;
}
const region = (at: number, pages: number) => ({
	slot: 0,
	flags: 0,
	guestPhysAddr: gpa(at),
	memorySize: pages * PAGE,
	userspaceAddr: hva(HVA),
});
const record = (mainGpa: number | bigint, length: number | bigint, mirrorGpa: number | bigint): Uint8Array =>
	mirrorRecord.encode({ mainGpa: BigInt(mainGpa), length: BigInt(length), mirrorGpa: BigInt(mirrorGpa) });
const records = (...list: Uint8Array[]): Uint8Array => Uint8Array.from(list.flatMap((bytes) => [...bytes]));

describe('the prototype’s identity', () => {
	it('speaks of guest-physical addresses, so that unmapped memory cannot be named', () => {
		const strategy = createIdentityStrategy(ram());
		expect([0, 4 * PAGE, 8 * PAGE].map(strategy.addressOf)).toEqual([0, FOUR_GIB, -1]);
		expect([0, FOUR_GIB, 4 * PAGE].map(strategy.ramAddrOf)).toEqual([0, 4 * PAGE, -1]);
		expect(strategy.copies(region(FOUR_GIB, 4))).toBe(true);
		expect(strategy.windows()).toEqual([]);
	});
});

describe('option 1, the low 4 GiB and a window', () => {
	it('puts each block at 2^42 + its RAM address, mapped or not', () => {
		const strategy = createLowWindowStrategy(ram());
		expect(strategy.windows()).toEqual([
			{ guestPhysAddr: W, memorySize: 8 * PAGE, userspaceAddr: HVA },
			{ guestPhysAddr: W + 8 * PAGE, memorySize: 2 * PAGE, userspaceAddr: HVA + 2 ** 30 },
		]);
		expect([0, 4 * PAGE, 8 * PAGE, 10 * PAGE].map(strategy.addressOf)).toEqual([W, W + 4 * PAGE, W + 8 * PAGE, -1]);
		expect([W + 9 * PAGE, W - 1, W + 10 * PAGE].map(strategy.ramAddrOf)).toEqual([9 * PAGE, -1, -1]);
	});

	it('copies main slots that end at 4 GiB or before', () => {
		const { copies } = createLowWindowStrategy(ram());
		expect(
			[region(0, 4), region(FOUR_GIB - PAGE, 1), region(FOUR_GIB - PAGE, 2), region(FOUR_GIB, 4)].map(copies),
		).toEqual([true, true, false, false]);
	});

	it('takes another window, from 4 GiB up to what fits below 2^(MAXPHYADDR − reduction)', () => {
		expect(createLowWindowStrategy(ram(), { window: FOUR_GIB }).addressOf(0)).toBe(FOUR_GIB);
		const end = 2 ** 43 - 10 * PAGE;
		expect(createLowWindowStrategy(ram(), { window: end }).addressOf(0)).toBe(end);
		expect(createLowWindowStrategy(ram(), { bits: 40, reduction: 1 }).addressOf(0)).toBe(2 ** 38);
		for (const window of [end + PAGE, FOUR_GIB - PAGE, FOUR_GIB + 1]) {
			expect(() => createLowWindowStrategy(ram(), { window })).toThrow(
				expect.objectContaining({ name: 'MirrorError', code: 'window' }),
			);
		}
	});

	it('notices when RAM outgrows its window', () => {
		const map = ram();
		const strategy = createLowWindowStrategy(map, { window: 2 ** 43 - 10 * PAGE });
		map.addBlock('more', PAGE, hva(HVA));
		expect(() => strategy.windows()).toThrow(/end up to 2\^43/);
	});
});

describe('option 2, registration', () => {
	const taken = { kind: 'taken' };

	it('sees an area where the handler wants it, one window for each piece', () => {
		const map = ram();
		map.map({ gpa: 4 * PAGE, ramAddr: 8 * PAGE, length: PAGE });
		const strategy = createRegistrationStrategy(map);
		expect(strategy.writeMsr(true, record(2 * PAGE, 3 * PAGE, 2 ** 41))).toEqual(taken);
		expect(strategy.windows().slice(0, 2)).toEqual([
			{ guestPhysAddr: 2 ** 41, memorySize: 2 * PAGE, userspaceAddr: HVA + 2 * PAGE },
			{ guestPhysAddr: 2 ** 41 + 2 * PAGE, memorySize: PAGE, userspaceAddr: HVA + 2 ** 30 },
		]);
		expect(strategy.windows().slice(2)).toEqual(createLowWindowStrategy(map).windows());
		expect(strategy.copies(region(0, 4))).toBe(false);
		expect(strategy.addressOf(8 * PAGE)).toBe(W + 8 * PAGE);
	});

	it.each([
		['mainGpa', 'alignment', record(1, PAGE, 2 ** 41)],
		['length', 'alignment', record(0, 100, 2 ** 41)],
		['mirrorGpa', 'alignment', record(0, PAGE, 2 ** 41 + 8)],
		['an empty range', 'empty', record(0, 0, 2 ** 41)],
		['a main range that wraps', 'limit', record((1n << 64n) - 4096n, 2 * PAGE, 2 ** 41)],
		['a mirror range that wraps', 'limit', record(0, PAGE, (1n << 64n) - 4096n)],
		['a mirror range above the limit', 'limit', record(0, PAGE, 2 ** 43)],
		['a main range beyond RAM', 'not-ram', record(3 * PAGE, 2 * PAGE, 2 ** 41)],
		['a mirror range in the window', 'window', record(0, PAGE, W + PAGE)],
		['a mirror range that ends in the window', 'window', record(0, 2 * PAGE, W - PAGE)],
	])('refuses %s: %s', (_, fault, bytes) => {
		const strategy = createRegistrationStrategy(ram());
		const before = strategy.windows();
		const good = record(0, PAGE, 2 ** 40);
		expect(strategy.writeMsr(true, records(good, bytes))).toEqual({ kind: 'refused', fault, record: 1 });
		expect(strategy.windows()).toEqual(before);
		expect(strategy.records).toEqual([]);
	});

	it('refuses mirror ranges that meet, and takes neighbours', () => {
		const strategy = createRegistrationStrategy(ram());
		const first = record(0, 2 * PAGE, 2 ** 41);
		const answer = strategy.writeMsr(true, records(first, record(0, PAGE, 2 ** 41 + PAGE)));
		expect(answer).toEqual({ kind: 'refused', fault: 'overlap', record: 1 });
		expect(strategy.writeMsr(true, records(first, record(0, PAGE, 2 ** 41 + 2 * PAGE)))).toEqual(taken);
	});

	it('refuses half a record and more than it has room for', () => {
		const strategy = createRegistrationStrategy(ram());
		const many = records(
			...Array.from({ length: MAX_MIRROR_RECORDS + 1 }, (_, i) => record(0, PAGE, 2 ** 41 + i * PAGE)),
		);
		for (const bytes of [many, many.subarray(0, 25)]) {
			expect(strategy.writeMsr(true, bytes)).toEqual({ kind: 'refused', fault: 'size', record: 0 });
		}
	});

	it('keeps the first set until 0 is written or the guest is reset', () => {
		const strategy = createRegistrationStrategy(ram());
		const [first, second] = [record(0, PAGE, 2 ** 41), record(PAGE, PAGE, 2 ** 41)];
		expect(strategy.writeMsr(true, first)).toEqual(taken);
		expect(strategy.writeMsr(true, second)).toEqual({ kind: 'kept' });
		expect(strategy.records).toEqual([mirrorRecord.decode(first)]);
		expect(strategy.writeMsr(false, second)).toEqual({ kind: 'cleared' });
		expect(strategy.records).toEqual([]);
		expect(strategy.writeMsr(true, second)).toEqual(taken);
		strategy.reset();
		expect(strategy.records).toEqual([]);
		expect(strategy.writeMsr(true, new Uint8Array(0))).toEqual(taken);
	});

	it('leaves out what the guest has lost since', () => {
		const map = ram();
		const strategy = createRegistrationStrategy(map);
		strategy.writeMsr(true, record(0, 4 * PAGE, 2 ** 41));
		map.unmap(PAGE, PAGE);
		expect(strategy.windows().slice(0, 2)).toEqual([
			{ guestPhysAddr: 2 ** 41, memorySize: PAGE, userspaceAddr: HVA },
			{ guestPhysAddr: 2 ** 41 + 2 * PAGE, memorySize: 2 * PAGE, userspaceAddr: HVA + 2 * PAGE },
		]);
	});

	const page = fc.integer({ min: 0, max: 12 });
	test.prop([fc.array(fc.tuple(page, fc.integer({ min: 1, max: 4 }), page), { maxLength: 8 })], { numRuns: 200 })(
		'takes any set of records whole or not at all, and its windows never meet',
		(list) => {
			const strategy = createRegistrationStrategy(ram());
			const bytes = records(
				...list.map(([main, n, mirror]) => record(main * PAGE, n * PAGE, W - 8 * PAGE + mirror * PAGE)),
			);
			const { kind } = strategy.writeMsr(true, bytes);
			expect(strategy.records).toHaveLength(kind === 'taken' ? list.length : 0);
			const windows = [...strategy.windows()].sort((a, b) => a.guestPhysAddr - b.guestPhysAddr);
			for (const [i, { guestPhysAddr, memorySize }] of windows.entries()) {
				expect(guestPhysAddr + memorySize).toBeLessThanOrEqual(windows[i + 1]?.guestPhysAddr ?? 2 ** 43);
			}
		},
	);

	test.prop([fc.uint8Array({ maxLength: 480 })], { numRuns: 300 })('answers any bytes', (bytes) => {
		expect(['taken', 'refused']).toContain(createRegistrationStrategy(ram()).writeMsr(true, bytes).kind);
	});
});

describe('option 3, copying through the firmware', () => {
	it('is refused at set-up, with its reason', () => {
		expect(createPspCopyStrategy).toThrow(expect.objectContaining({ name: 'MirrorError', code: 'psp-copy' }));
		expect(createPspCopyStrategy).toThrow(/a mirror, which may not send or receive/);
	});
});
