import { createHash } from 'node:crypto';
import { MemoryMap } from '@cvm/kvm/guest';
import { PAGE_SIZE } from '@cvm/layout';
import { FirmwareMemory } from '@cvm/ovmf-mh/firmware';
import {
	assertSameLayout,
	type FirmwareLayout,
	firmwareAllocations,
	firstLayoutDifference,
	LayoutMismatch,
	readPcd,
} from '@cvm/ovmf-mh/uefi';
import { describe, expect, it } from 'vitest';
import { HelperGeometry, helperRanges } from '../src/geometry.js';
import { createLifeMachine, RAM_BYTES, START, TARGET } from './life-cycle-rig.js';

type Machine = ReturnType<typeof createLifeMachine>;
const VCPUS = 2;
const PAGES = RAM_BYTES / PAGE_SIZE;
const own = (gpa: number) => helperRanges().some(({ start, end }) => gpa >= start && gpa < end);
const label = (machine: Machine, vcpu: number) =>
	machine.program.label(Number(machine.vcpus[vcpu]?.getRegs().rip ?? 0n));

/** The pages of a guest outside the helper, by its own record: private ones as it reads them, shared ones as they are. */
function pagesOf(machine: Machine): (Uint8Array | undefined)[] {
	const record = machine.plain(HelperGeometry.sharedMap, HelperGeometry.mapBytes);
	return Array.from({ length: PAGES }, (_, i) => {
		const gpa = i * PAGE_SIZE;
		if (own(gpa)) return undefined;
		const isShared = ((record[i >> 3] ?? 0) >> (i & 7)) & 1;
		return isShared ? machine.ram.bytes.slice(gpa, gpa + PAGE_SIZE) : machine.plain(gpa, PAGE_SIZE);
	});
}
/** What a handler on the target does, and then the host with the registers. */
function migrate(from: Machine, to: Machine, pages: readonly (Uint8Array | undefined)[]): void {
	const record = from.plain(HelperGeometry.sharedMap, HelperGeometry.mapBytes);
	pages.forEach((page, i) => {
		if (page === undefined) return;
		const isShared = ((record[i >> 3] ?? 0) >> (i & 7)) & 1;
		if (isShared) to.ram.bytes.set(page, i * PAGE_SIZE);
		else to.place(i * PAGE_SIZE, page);
	});
	// The manifest carries the record.
	to.place(HelperGeometry.sharedMap, record);
	from.vcpus.forEach((vcpu, i) => {
		const target = to.vcpus[i];
		expect(target?.setSregs(vcpu.getSregs())).toBe(0);
		expect(target?.setRegs(vcpu.getRegs())).toBe(0);
	});
}
const digest = (pages: readonly (Uint8Array | undefined)[]): string => {
	const hash = createHash('sha256');
	for (const page of pages) if (page !== undefined) hash.update(page);
	return hash.digest('hex');
};
const isTarget = (machine: Machine) =>
	readPcd('PcdIsConfidentialMigrationTarget', machine.plain(FirmwareMemory.pcdDatabase, 64));

describe('A → B → C', () => {
	const machine = (seed: string, files: Readonly<Record<string, Uint8Array>>) =>
		createLifeMachine({ seed, files, vcpus: VCPUS, firmware: { helper: 'hardened' } });
	const target = (seed: string) => {
		const waiting = machine(seed, TARGET);
		waiting.until('rest', () => label(waiting, 0) === 'fw.mh.dead' && label(waiting, 1) === 'fw.mh.parked');
		return waiting;
	};

	it('the main vCPUs leave the dead loop when their registers are replaced; B reads as no target, and is a source', () => {
		const a = machine('a', START);
		a.boot();
		const before = pagesOf(a);
		const [b, c] = [target('b'), target('c')];
		expect([isTarget(a), isTarget(b), isTarget(c)]).toEqual([0, 1, 1]);

		migrate(a, b, before);
		expect(digest(pagesOf(b))).toBe(digest(before));
		expect([0, 1].map((i) => label(b, i))).toEqual([0, 1].map((i) => label(a, i)));
		// They go on with what they were about to say.
		expect(b.ended.size).toBe(0);
		for (let i = 0; i < VCPUS; i++) b.turn(i);
		expect(b.ended.size).toBe(VCPUS);
		expect(isTarget(b)).toBe(0);

		const second = pagesOf(b);
		migrate(b, c, second);
		expect(digest(pagesOf(c))).toBe(digest(second));
		for (let i = 0; i < VCPUS; i++) c.turn(i);
		expect(c.ended.size).toBe(VCPUS);
		expect(isTarget(c)).toBe(0);
		// Each machine's helper keeps its own record of what the firmware found, which is the same.
		const record = (m: Machine) => m.plain(HelperGeometry.record, PAGE_SIZE);
		expect(record(b)).toEqual(record(a));
		expect(record(c)).toEqual(record(a));
	});
});

describe('the memory of two firmwares', () => {
	const layout = (o: Partial<FirmwareLayout> = {}): FirmwareLayout => ({
		build: 'abc',
		ram: [{ start: 0, end: 0x4000000 }],
		allocations: firmwareAllocations({
			helper: 'rfc-2021',
			firmware: { start: MemoryMap.firmware, end: MemoryMap.firmwareEnd },
		}),
		...o,
	});
	const { allocations } = layout();
	const moved = allocations.map((a) => (a.name === 'page tables' ? { ...a, start: a.start + 0x200000 } : a));
	const swapped = [...allocations.slice(0, -2), ...allocations.slice(-2).reverse()];

	it('is the same for the same build, RAM and order of allocations', () => {
		expect(firstLayoutDifference(layout(), layout())).toBeUndefined();
		expect(() => assertSameLayout(layout(), layout())).not.toThrow();
	});

	it.each([
		['build', { build: 'abd' }, 'firmware build: expected abc, got abd'],
		['RAM', { ram: [{ start: 0, end: 0x8000000 }] }, 'RAM range 0: expected 0x0 to 0x4000000, got 0x0 to 0x8000000'],
		[
			'place',
			{ allocations: moved },
			/^allocation 4: expected page tables at 0xc00000, .* got page tables at 0xe00000/,
		],
		['order', { allocations: swapped }, /^allocation 4: expected page tables .*, got data /],
		['missing part', { allocations: allocations.slice(0, -1) }, /^allocation 5: expected data .*, got none/],
		['additional part', { ram: [...layout().ram, { start: 1, end: 2 }] }, 'RAM range 1: expected none, got 0x1 to 0x2'],
	])('differs in the %s, and the first difference is named', (_, other, message) => {
		expect(() => assertSameLayout(layout(), layout(other))).toThrow(LayoutMismatch);
		expect(() => assertSameLayout(layout(), layout(other))).toThrow(message);
	});

	it.each(['none', 'hardened'] as const)('of a firmware with helper %s is another one', (helper) => {
		const firmware = { start: MemoryMap.firmware, end: MemoryMap.firmwareEnd };
		const other = layout({ allocations: firmwareAllocations({ helper, firmware }) });
		expect(firstLayoutDifference(layout(), other)).toMatch(/^allocation \d: expected (mailbox|stack) /);
	});
});
