import { type Gpa, gpa, type Hva, hva, PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { Errno } from './abi/errno.js';
import { createHostMemory } from './host-memory.js';
import { createKernel } from './kernel.js';
import { createMemslots, type UserMemoryRegion } from './memslots.js';
import { createVmHandle, MAX_SLOTS, MemFlag, openVmState } from './vm-state.js';

const MIB = 2 ** 20;
const LOG = MemFlag.logDirtyPages;

function rig(ramPages = 256) {
	const dram = new Uint8Array(new SharedArrayBuffer(MIB + ramPages * PAGE_SIZE));
	const memory = createHostMemory(dram);
	const handle = createVmHandle({
		kernel: createKernel('upstream'),
		cbitPosition: 51,
		ramBytes: dram.length,
		silicon: { kind: 'cvm-silicon' },
	});
	const memslots = createMemslots(handle, memory);
	const ram = memory.mmap((ramPages / 2) * PAGE_SIZE);
	const region = (over: Partial<UserMemoryRegion> = {}): UserMemoryRegion => ({
		slot: 0,
		flags: 0,
		guestPhysAddr: gpa(0x10000),
		memorySize: 16 * PAGE_SIZE,
		userspaceAddr: ram.hva,
		...over,
	});
	return { memory, memslots, ram, region, state: openVmState(handle) };
}

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

	it('has room for 32 slots and says ENOMEM for one more', () => {
		const { memslots, region } = rig();
		for (let slot = 0; slot < MAX_SLOTS; slot++) {
			expect(memslots.set(region({ slot, guestPhysAddr: gpa(slot * 16 * PAGE_SIZE) }))).toBe(0);
		}
		expect(memslots.set(region({ slot: 99, guestPhysAddr: gpa(MAX_SLOTS * 16 * PAGE_SIZE) }))).toBe(-Errno.ENOMEM);
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

describe('KVM_GET_DIRTY_LOG', () => {
	const bits = (memslots: ReturnType<typeof rig>['memslots'], slot = 0) => {
		const bitmap = new Uint32Array(2);
		expect(memslots.getDirtyLog(slot, bitmap)).toBe(0);
		return bitmap[0];
	};

	it.each([32764, 2 << 16])('refuses slot %i, which cannot exist, with EINVAL', (slot) => {
		expect(rig().memslots.getDirtyLog(slot, new Uint32Array(2))).toBe(-Errno.EINVAL);
	});

	it('refuses a slot that does not exist, or does not log, with ENOENT', () => {
		const { memslots, region } = rig();
		expect(memslots.getDirtyLog(0, new Uint32Array(2))).toBe(-Errno.ENOENT);
		memslots.set(region());
		expect(memslots.getDirtyLog(0, new Uint32Array(2))).toBe(-Errno.ENOENT);
	});

	it('refuses a buffer that is too short with EFAULT, and keeps the bits', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000);
		expect(memslots.getDirtyLog(0, new Uint32Array(1))).toBe(-Errno.EFAULT);
		expect(bits(memslots)).toBe(1);
	});

	it('starts all clean, and gives each bit once', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		expect(bits(memslots)).toBe(0);
		state.markDirty(0x10000);
		state.markDirty(0x10000 + 3 * PAGE_SIZE + 0xfff);
		state.markDirty(0x10000 + 15 * PAGE_SIZE);
		expect(bits(memslots)).toBe(0x8009);
		expect(bits(memslots)).toBe(0);
	});

	it('logs nothing outside the slot or while logging is off', () => {
		const { memslots, region, state } = rig();
		memslots.set(region());
		state.markDirty(0x10000);
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000 - 1);
		state.markDirty(0x10000 + 16 * PAGE_SIZE);
		expect(bits(memslots)).toBe(0);
	});

	it('forgets the bits when logging is switched off and on', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000);
		expect(memslots.set(region())).toBe(0);
		expect(memslots.getDirtyLog(0, new Uint32Array(2))).toBe(-Errno.ENOENT);
		memslots.set(region({ flags: LOG }));
		expect(bits(memslots)).toBe(0);
	});

	it('forgets the bits when the slot is deleted and made anew', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000);
		memslots.set(region({ memorySize: 0 }));
		memslots.set(region({ flags: LOG }));
		expect(bits(memslots)).toBe(0);
	});

	it('keeps the bits of a slot that moves', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000 + PAGE_SIZE);
		memslots.set(region({ flags: LOG, guestPhysAddr: gpa(0x40000) }));
		state.markDirty(0x40000);
		expect(bits(memslots)).toBe(3);
	});

	it('keeps the bits of slots apart', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		memslots.set(region({ slot: 1, flags: LOG, guestPhysAddr: gpa(0x80000) }));
		state.markDirty(0x10000);
		state.markDirty(0x80000 + 2 * PAGE_SIZE);
		expect(bits(memslots, 1)).toBe(4);
		expect(bits(memslots, 0)).toBe(1);
	});

	it('sets no bit past the last page of a slot', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG, memorySize: 33 * PAGE_SIZE }));
		for (let page = 0; page < 40; page++) state.markDirty(0x10000 + page * PAGE_SIZE);
		const bitmap = new Uint32Array(2).fill(0xffffffff);
		expect(memslots.getDirtyLog(0, bitmap)).toBe(0);
		expect([...bitmap]).toEqual([0xffffffff, 1]);
	});

	it('says ENOMEM when there is no room for another bitmap, and the slot stays as it was', () => {
		const { memslots, region, state } = rig(2048);
		const memorySize = 1024 * PAGE_SIZE;
		const slot = (i: number, flags: number) =>
			region({ slot: i, flags, memorySize, guestPhysAddr: gpa(i * memorySize) });
		// The area holds one bitmap for all of DRAM and some slack; aliasing the same host memory needs more.
		const results = Array.from({ length: 8 }, (_, i) => memslots.set(slot(i, LOG)));
		const refused = results.indexOf(-Errno.ENOMEM);
		expect(refused).toBeGreaterThan(1);
		expect(memslots.set(slot(refused, 0))).toBe(0);
		expect(memslots.set(slot(refused, LOG))).toBe(-Errno.ENOMEM);
		expect(memslots.getDirtyLog(refused, new Uint32Array(32))).toBe(-Errno.ENOENT);
		expect(state.translate(refused * memorySize)).toBeGreaterThan(0);
		memslots.set(slot(0, 0));
		expect(memslots.set(slot(refused, LOG))).toBe(0);
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
