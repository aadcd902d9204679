import { type Gpa, gpa, type Hva, hva, PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { memslotsRig as rig } from '../../test/memslots-rig.js';
import { Errno } from '../abi/errno.js';
import { MemFlag } from '../vm/state.js';
import type { MemoryRegionArgument } from './memory-region.js';
import type { UserMemoryRegion } from './memslots.js';

const LOG = MemFlag.logDirtyPages;

/** Addresses as a broken caller would pass them: the constructors of `@cvm/layout` refuse some. */
const rawGpa = (address: number) => address as Gpa;
const rawHva = (address: number) => address as Hva;

describe('KVM_SET_USER_MEMORY_REGION', () => {
	it('makes guest-physical memory of host memory', () => {
		const { memslots, region, ram, state } = rig();
		expect(state.translate(0x10000)).toBe(-1);
		expect(memslots.set(region())).toBe(0);
		expect(state.translate(0x10000)).toBe(ram.spa);
		expect(state.translate(0x10000 + 5 * PAGE_SIZE + 7)).toBe(ram.spa + 5 * PAGE_SIZE + 7);
		expect(state.translate(0x10000 - 1)).toBe(-1);
		expect(state.translate(0x10000 + 16 * PAGE_SIZE)).toBe(-1);
	});

	it.each<[string, Partial<UserMemoryRegion>]>([
		['an unknown flag', { flags: 4 }],
		['an unknown flag beside known ones', { flags: LOG | 0x80 }],
		['a size that is not whole pages', { memorySize: PAGE_SIZE + 1 }],
		['a guest address inside a page', { guestPhysAddr: gpa(0x10800) }],
		['a host address inside a page', { userspaceAddr: rawHva(0x7f0000100010) }],
		['a host address that is not mapped', { userspaceAddr: hva(0x1000) }],
		['a range that ends after the mapping', { memorySize: 129 * PAGE_SIZE }],
		['a third address space', { slot: 2 << 16 }],
		['a slot id beyond the last', { slot: 32764 }],
		['a guest range that wraps', { guestPhysAddr: rawGpa(2 ** 64 - PAGE_SIZE) }],
		['the deletion of a slot that does not exist', { memorySize: 0 }],
	])('refuses %s with EINVAL and changes nothing', (_, over) => {
		const { memslots, region, state } = rig();
		expect(memslots.set(region(over))).toBe(-Errno.EINVAL);
		expect(state.translate(0x10000)).toBe(-1);
	});

	it('accepts the last slot id of both address spaces', () => {
		const { memslots, region } = rig();
		expect(memslots.set(region({ slot: 32763 }))).toBe(0);
		expect(memslots.set(region({ slot: (1 << 16) | 32763 }))).toBe(0);
	});

	it.each<[string, Partial<UserMemoryRegion>]>([
		['another size', { memorySize: 8 * PAGE_SIZE }],
		['READONLY switched on', { flags: MemFlag.readonly }],
	])('refuses %s for an existing slot with EINVAL', (_, over) => {
		const { memslots, region } = rig();
		memslots.set(region());
		expect(memslots.set(region(over))).toBe(-Errno.EINVAL);
	});

	it('refuses another host address for an existing slot with EINVAL', () => {
		const { memslots, region, ram, state } = rig();
		memslots.set(region());
		expect(memslots.set(region({ userspaceAddr: hva(ram.hva + PAGE_SIZE) }))).toBe(-Errno.EINVAL);
		expect(state.translate(0x10000)).toBe(ram.spa);
	});

	it('refuses READONLY switched off with EINVAL', () => {
		const { memslots, region } = rig();
		memslots.set(region({ flags: MemFlag.readonly }));
		expect(memslots.set(region())).toBe(-Errno.EINVAL);
	});

	it('refuses an overlap by one page with EEXIST, at either end', () => {
		const { memslots, region } = rig();
		memslots.set(region());
		for (const at of [0x10000 - 15 * PAGE_SIZE, 0x10000, 0x10000 + 15 * PAGE_SIZE]) {
			expect(memslots.set(region({ slot: 1, guestPhysAddr: gpa(at) }))).toBe(-Errno.EEXIST);
		}
		expect(memslots.set(region({ slot: 1, guestPhysAddr: gpa(0x10000 - 16 * PAGE_SIZE) }))).toBe(0);
		expect(memslots.set(region({ slot: 2, guestPhysAddr: gpa(0x10000 + 16 * PAGE_SIZE) }))).toBe(0);
	});

	it('looks at the argument before it looks for overlaps', () => {
		const { memslots, region } = rig();
		memslots.set(region());
		expect(memslots.set(region({ slot: 1, flags: 8 }))).toBe(-Errno.EINVAL);
	});

	it('keeps address spaces apart: no overlap, and vCPUs see only the first', () => {
		const { memslots, region, ram, state } = rig();
		expect(memslots.set(region())).toBe(0);
		expect(memslots.set(region({ slot: 1 << 16, userspaceAddr: hva(ram.hva + PAGE_SIZE) }))).toBe(0);
		expect(state.translate(0x10000)).toBe(ram.spa);
	});

	it('moves a slot, but not onto another', () => {
		const { memslots, region, ram, state } = rig();
		memslots.set(region());
		memslots.set(region({ slot: 1, guestPhysAddr: gpa(0x80000) }));
		expect(memslots.set(region({ guestPhysAddr: gpa(0x80000 + PAGE_SIZE) }))).toBe(-Errno.EEXIST);
		expect(state.translate(0x10000)).toBe(ram.spa);
		expect(memslots.set(region({ guestPhysAddr: gpa(0x40000) }))).toBe(0);
		expect(state.translate(0x10000)).toBe(-1);
		expect(state.translate(0x40000)).toBe(ram.spa);
	});

	it('moves a slot onto pages that it held itself', () => {
		const { memslots, region, ram, state } = rig();
		memslots.set(region());
		expect(memslots.set(region({ guestPhysAddr: gpa(0x11000) }))).toBe(0);
		expect(state.translate(0x11000)).toBe(ram.spa);
	});

	it('deletes a slot, whatever the other fields say', () => {
		const { memslots, region, state } = rig();
		memslots.set(region());
		expect(memslots.set(region({ memorySize: 0, guestPhysAddr: gpa(0), userspaceAddr: hva(0) }))).toBe(0);
		expect(state.translate(0x10000)).toBe(-1);
		expect(memslots.set(region({ memorySize: 0 }))).toBe(-Errno.EINVAL);
	});

	it('marks a READONLY slot as not writable', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: MemFlag.readonly }));
		memslots.set(region({ slot: 1, guestPhysAddr: gpa(0x80000) }));
		expect(state.isWritable(0x10000)).toBe(false);
		expect(state.isWritable(0x80000)).toBe(true);
		expect(state.isWritable(0x70000)).toBe(false);
	});

	it('changes nothing, and flushes no TLB, when nothing differs', () => {
		const { memslots, region, state } = rig();
		memslots.set(region());
		const before = state.tlbGeneration;
		expect(memslots.set(region())).toBe(0);
		expect(state.tlbGeneration).toBe(before);
	});

	it('voids cached translations when a slot comes, moves or goes', () => {
		const { memslots, region, state } = rig();
		const seen = [state.tlbGeneration];
		for (const over of [{}, { guestPhysAddr: gpa(0x40000) }, { memorySize: 0 }]) {
			memslots.set(region(over));
			seen.push(state.tlbGeneration);
		}
		expect(new Set(seen).size).toBe(4);
	});

	it('keeps the frames of an unmapped mapping as long as the slot exists', () => {
		const { memslots, region, memory, ram } = rig();
		memslots.set(region());
		const before = memory.freeBytes;
		memory.munmap(ram);
		expect(memory.freeBytes).toBe(before + ram.bytes.length - 16 * PAGE_SIZE);
		memslots.set(region({ memorySize: 0 }));
		expect(memory.freeBytes).toBe(before + ram.bytes.length);
	});

	it('changes flags and place of a slot whose mapping is gone', () => {
		const { memslots, region, memory, ram, state } = rig();
		memslots.set(region());
		memory.munmap(ram);
		expect(memslots.set(region({ flags: LOG }))).toBe(0);
		expect(memslots.set(region({ flags: LOG, guestPhysAddr: gpa(0x40000) }))).toBe(0);
		expect(state.translate(0x40000)).toBe(ram.spa);
	});

	it('gives back everything when the VM goes', () => {
		const { memslots, region, memory, ram, state } = rig();
		memslots.set(region({ flags: LOG }));
		memslots.set(region({ slot: 1 << 16 }));
		const before = memory.freeBytes;
		memory.munmap(ram);
		memslots.clear();
		expect(memory.freeBytes).toBe(before + ram.bytes.length);
		expect(state.translate(0x10000)).toBe(-1);
	});
});

describe('the u64s of KVM_SET_USER_MEMORY_REGION', () => {
	const TOP = 2n ** 64n;
	const raw = (over: Partial<MemoryRegionArgument>) => {
		const { memslots, region, state } = rig();
		expect(memslots.set(region())).toBe(0);
		const ret = memslots.set({ ...region({ slot: 1, guestPhysAddr: gpa(0x80000) }), ...over });
		expect(state.translate(0x10000)).toBeGreaterThan(0);
		return ret;
	};

	it('may be bigints', () => {
		const { memslots, region, ram, state } = rig();
		const { guestPhysAddr, memorySize, userspaceAddr } = region();
		const argument = { slot: 0, flags: 0, guestPhysAddr: BigInt(guestPhysAddr), memorySize: BigInt(memorySize) };
		expect(memslots.set({ ...argument, userspaceAddr: BigInt(userspaceAddr) })).toBe(0);
		expect(state.translate(0x10000)).toBe(ram.spa);
	});

	it.each<[string, Partial<MemoryRegionArgument>]>([
		['end exactly at 2^64, which wraps to 0', { guestPhysAddr: TOP - 4096n, memorySize: 4096n }],
		['wrap', { guestPhysAddr: TOP - 4096n, memorySize: 8192n }],
		['wrap by the size', { guestPhysAddr: 4096n, memorySize: TOP - 4096n, userspaceAddr: 0n }],
		['end below 2^64, where no processor has memory', { guestPhysAddr: TOP - 8192n, memorySize: 4096n }],
		['begin above 2^52', { guestPhysAddr: 2n ** 52n }],
		['end above 2^52', { guestPhysAddr: 2n ** 52n - 4096n, memorySize: 8192n }],
		['have 2^31 pages', { memorySize: 2n ** 43n, userspaceAddr: 0n }],
		['reach out of the process', { userspaceAddr: 2n ** 47n - 4096n, memorySize: 4096n }],
		['lie in the kernel', { userspaceAddr: TOP - 65536n }],
		['lose their page offset in a double', { guestPhysAddr: 2n ** 60n + 1n }],
		['are no integers', { guestPhysAddr: 0.5 }],
		['are negative', { guestPhysAddr: -4096n }],
	])('are EINVAL if they %s', (_, over) => {
		expect(raw(over)).toBe(-Errno.EINVAL);
	});

	it('are looked at in order: the user address of a deletion too, its mapping not', () => {
		expect(raw({ slot: 0, memorySize: 0n, userspaceAddr: 2n ** 63n })).toBe(-Errno.EINVAL);
		const { memslots, region } = rig();
		memslots.set(region());
		expect(memslots.set({ ...region(), memorySize: 0n, userspaceAddr: 4096n })).toBe(0);
	});

	it('say EEXIST before anything is said of the memory behind', () => {
		expect(raw({ guestPhysAddr: 0x10000n, userspaceAddr: 4096n })).toBe(-Errno.EEXIST);
		expect(raw({ guestPhysAddr: 0x90000n, userspaceAddr: 4096n })).toBe(-Errno.EINVAL);
	});
});

describe('many memslots', () => {
	it('may have every id of both address spaces; vCPUs find each', () => {
		const { memslots, ram, state } = rig();
		const slots = 2000;
		// In an order that puts each new one somewhere among the others.
		const order = Array.from({ length: slots }, (_, i) => (i * 1237) % slots);
		const slot = (i: number, space: number) => ({
			slot: (space << 16) | (32763 - i),
			flags: 0,
			guestPhysAddr: gpa(2 * i * PAGE_SIZE),
			memorySize: PAGE_SIZE,
			userspaceAddr: hva(ram.hva + ((i + space) % 100) * PAGE_SIZE),
		});
		for (const i of order) expect([memslots.set(slot(i, 0)), memslots.set(slot(i, 1))]).toEqual([0, 0]);
		const expected = (i: number) => ram.spa + (i % 100) * PAGE_SIZE;
		for (const i of order) {
			expect(state.translate(2 * i * PAGE_SIZE)).toBe(expected(i));
			expect(state.translate((2 * i + 1) * PAGE_SIZE)).toBe(-1);
		}
		for (const i of order.slice(0, 1000)) expect(memslots.set({ ...slot(i, 0), memorySize: 0 })).toBe(0);
		const gone = new Set(order.slice(0, 1000));
		for (const i of order) expect(state.translate(2 * i * PAGE_SIZE)).toBe(gone.has(i) ? -1 : expected(i));
	});
});

describe('the memslot table against a model', () => {
	const SLOT = fc.record({
		slot: fc.integer({ min: 0, max: 3 }),
		page: fc.integer({ min: 0, max: 24 }),
		pages: fc.integer({ min: 0, max: 8 }),
		from: fc.integer({ min: 0, max: 4 }),
		flags: fc.constantFrom(0, LOG),
	});

	test.prop([fc.array(SLOT, { maxLength: 30 })])('translates every page as the accepted calls say', (calls) => {
		const { memslots, ram, state } = rig();
		const model = new Map<number, { page: number; pages: number; from: number }>();
		for (const { slot, page, pages, from, flags } of calls) {
			const ret = memslots.set({
				slot,
				flags,
				guestPhysAddr: gpa(page * PAGE_SIZE),
				memorySize: pages * PAGE_SIZE,
				userspaceAddr: hva(ram.hva + from * PAGE_SIZE),
			});
			const old = model.get(slot);
			const others = [...model].filter(([id]) => id !== slot).map(([, other]) => other);
			const meets = others.some((o) => page < o.page + o.pages && o.page < page + pages);
			const unlike = old !== undefined && (old.pages !== pages || old.from !== from);
			const expected =
				pages === 0 ? (old === undefined ? -Errno.EINVAL : 0) : unlike ? -Errno.EINVAL : meets ? -Errno.EEXIST : 0;
			expect(ret).toBe(expected);
			if (expected !== 0) continue;
			if (pages === 0) model.delete(slot);
			else model.set(slot, { page, pages, from });
		}
		for (let page = 0; page < 34; page++) {
			const hit = [...model.values()].find((s) => page >= s.page && page < s.page + s.pages);
			const expected = hit === undefined ? -1 : ram.spa + (hit.from + page - hit.page) * PAGE_SIZE + 8;
			expect(state.translate(page * PAGE_SIZE + 8)).toBe(expected);
		}
	});
});
