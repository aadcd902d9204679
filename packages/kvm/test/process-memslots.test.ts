import { describe, expect, it } from 'vitest';
import { Cap, Ioctl, kvmClearDirtyLog, kvmDirtyLog, kvmEnableCap, kvmUserspaceMemoryRegion } from '../src/abi/index.js';
import { openVmState } from '../src/vm/state.js';
import { PAGE } from './host.js';
import { contextAt, NOWHERE, type Program, program } from './process-rig.js';

const [ENOENT, ENXIO, E2BIG, EFAULT, EEXIST, EINVAL] = [-2, -6, -7, -14, -17, -22];
const LOG = 1;
const READONLY = 2;
/** Pages of the slot: whole words of its bitmap, and six more. */
const PAGES = 70;
const AT = 0x10_0000;

type Region = Parameters<typeof kvmUserspaceMemoryRegion.encode>[0];

/** A VM with slot 3 at 1 MiB, 70 pages that are logged, and as much memory again. */
function rig(p: Program = program(), flags = LOG) {
	const vm = p.createVm();
	const ram = p.host.kvm.memory.mmap(2 * PAGES * PAGE);
	const good = {
		slot: 3,
		flags,
		guestPhysAddr: BigInt(AT),
		memorySize: BigInt(PAGES * PAGE),
		userspaceAddr: BigInt(ram.hva),
	};
	const set = (over: Region) =>
		p.process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, kvmUserspaceMemoryRegion.encode({ ...good, ...over }));
	expect(set({})).toBe(0);
	const state = openVmState(contextAt(p, vm).handle);
	const enable = (cap: number, arg0: bigint, more = {}) =>
		p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, arg0, ...more }));
	const dirtyBitmap = p.put(new Uint8Array(16));
	const get = (over: Parameters<typeof kvmDirtyLog.encode>[0] = {}) =>
		p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, kvmDirtyLog.encode({ slot: 3, dirtyBitmap, ...over }));
	const clear = (over: Parameters<typeof kvmClearDirtyLog.encode>[0] = {}) =>
		p.process.ioctl(
			vm,
			Ioctl.KVM_CLEAR_DIRTY_LOG,
			kvmClearDirtyLog.encode({ slot: 3, dirtyBitmap, numPages: PAGES, ...over }),
		);
	return { p, vm, ram, set, state, enable, get, clear, bits: () => [...p.at(dirtyBitmap, 16)], dirtyBitmap };
}

describe('KVM_SET_USER_MEMORY_REGION, row by row', () => {
	/*
	 * Each lies on slot 3 (but for the wrap and the deletion) with a number of its own: without its check it would be EEXIST.
	 */
	it.each<[string, Region]>([
		['an unknown flag', { flags: 4 }],
		['a size that is not whole pages', { memorySize: BigInt(PAGE + 1) }],
		['a guest address inside a page', { guestPhysAddr: BigInt(AT + 8) }],
		['a user address inside a page', { userspaceAddr: 0x7f00_0000_0008n }],
		['a user range that ends in the kernel', { userspaceAddr: 2n ** 47n - 4096n }],
		['an address space above 1', { slot: (2 << 16) | 4 }],
		['the first number that no slot has', { slot: 32764 }],
		['a range that wraps', { guestPhysAddr: 2n ** 64n - 4096n }],
		['the deletion of a slot that is not there', { memorySize: 0n }],
		['2^31 pages', { memorySize: 2n ** 43n, userspaceAddr: 0n }],
	])('refuses %s with EINVAL', (_, over) => {
		const { set, state } = rig();
		const before = state.tlbGeneration;
		expect(set({ slot: 4, ...over })).toBe(EINVAL);
		expect(state.tlbGeneration).toBe(before);
	});

	/* These would be EEXIST without their check: slot 5 is where slot 3 is moved to. */
	it.each<[string, Region, number]>([
		['size', { memorySize: BigInt(PAGE) }, 0],
		['user address', {}, PAGE],
		['READONLY', { flags: LOG | READONLY }, 0],
	])('refuses another %s for a slot that exists with EINVAL', (_, over, offset) => {
		const { set, ram } = rig();
		const moved = { guestPhysAddr: BigInt(AT + 2 * PAGES * PAGE) };
		expect(set({ ...moved, slot: 5 })).toBe(0);
		expect(set(moved)).toBe(EEXIST);
		expect(set({ ...moved, ...over, userspaceAddr: BigInt(ram.hva + offset) })).toBe(EINVAL);
	});

	it('takes READONLY away only by deleting the slot', () => {
		const { set } = rig(program(), READONLY);
		expect(set({ flags: 0 })).toBe(EINVAL);
		expect([set({ memorySize: 0n }), set({ flags: 0 })]).toEqual([0, 0]);
	});

	it('refuses an overlap in the same address space with EEXIST, and moves, changes flags, does nothing', () => {
		const { set, state, get } = rig();
		expect(set({ slot: 4, guestPhysAddr: BigInt(AT + (PAGES - 1) * PAGE) })).toBe(EEXIST);
		expect(set({ slot: (1 << 16) | 4 })).toBe(0);
		const before = state.tlbGeneration;
		expect(set({})).toBe(0);
		expect(state.tlbGeneration).toBe(before);
		expect(set({ guestPhysAddr: 0x80_0000n })).toBe(0);
		expect([state.translate(AT) < 0, state.translate(0x80_0000) > 0]).toEqual([true, true]);
		expect([get(), set({ guestPhysAddr: 0x80_0000n, flags: 0 }), get()]).toEqual([0, 0, ENOENT]);
		expect(set({ memorySize: 0n })).toBe(0);
		expect(state.translate(0x80_0000)).toBeLessThan(0);
	});

	it('has 32764 slots, and says so', () => {
		const { p, vm, set } = rig();
		expect(p.process.ioctl(vm, Ioctl.KVM_CHECK_EXTENSION, Cap.NR_MEMSLOTS)).toBe(32764);
		expect(set({ slot: 32763, guestPhysAddr: 0x80_0000n })).toBe(0);
	});

	it('is ENOMEM when there is no room for another bitmap', () => {
		const { set } = rig();
		const pages = BigInt(2 * PAGES * PAGE);
		const region = (i: number) => ({ slot: 10 + i, guestPhysAddr: 2n ** 32n + BigInt(i) * pages, memorySize: pages });
		let made = 0;
		while (made < 30_000 && set(region(made)) === 0) made++;
		expect(set(region(made))).toBe(-12);
		expect([set({ ...region(made), flags: 0 }), set(region(made))]).toEqual([0, -12]);
	});
});

describe('KVM_GET_DIRTY_LOG, row by row', () => {
	it('tells a number that no slot has, a slot that is not there or does not log, and a bitmap that is not there apart', () => {
		const { p, vm, set, get, state, bits } = rig();
		expect(p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, new Uint8Array(15))).toBe(EFAULT);
		for (const slot of [32764, 2 << 16, 0xffffffff]) expect(get({ slot, dirtyBitmap: NOWHERE })).toBe(EINVAL);
		for (const slot of [4, (1 << 16) | 3]) expect(get({ slot, dirtyBitmap: NOWHERE })).toBe(ENOENT);
		state.markDirty(AT + 69 * PAGE);
		expect(get({ dirtyBitmap: NOWHERE })).toBe(EFAULT);
		expect(get()).toBe(0);
		// 70 pages are two u64s; bits behind the last page are 0.
		expect(bits()).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]);
		expect([get(), bits().some((byte) => byte !== 0)]).toEqual([0, false]);
		set({ flags: 0 });
		expect(get({ dirtyBitmap: NOWHERE })).toBe(ENOENT);
	});

	it('is ENXIO with dirty rings, before all else', () => {
		const { enable, get, clear } = rig();
		expect(enable(Cap.DIRTY_LOG_RING, 4096n)).toBe(0);
		expect(get({ slot: 0xffffffff, dirtyBitmap: NOWHERE })).toBe(ENXIO);
		expect(clear({ slot: 0xffffffff, firstPage: 1n, dirtyBitmap: NOWHERE })).toBe(ENXIO);
	});
});

describe('KVM_CLEAR_DIRTY_LOG, row by row', () => {
	/* In the order of the checks: each row fails all that come after its own. */
	it.each<[string, Parameters<typeof kvmClearDirtyLog.encode>[0], number]>([
		['a number that no slot has', { slot: 32764, firstPage: 1n, dirtyBitmap: NOWHERE }, EINVAL],
		['a first page inside a u64', { slot: 4, firstPage: 32n, dirtyBitmap: NOWHERE }, EINVAL],
		['a slot that is not there', { slot: 4, numPages: 9999, dirtyBitmap: NOWHERE }, ENOENT],
		['a first page behind the slot', { firstPage: 128n, numPages: 0, dirtyBitmap: NOWHERE }, EINVAL],
		['more pages than the slot has', { numPages: 128, dirtyBitmap: NOWHERE }, EINVAL],
		['pages that are no whole u64 inside the slot', { numPages: 65, dirtyBitmap: NOWHERE }, EINVAL],
		['a bitmap that is not there', { dirtyBitmap: NOWHERE }, EFAULT],
	])('refuses %s', (_, over, expected) => {
		const { enable, clear, state, get, bits } = rig();
		expect(enable(Cap.MANUAL_DIRTY_LOG_PROTECT2, 1n)).toBe(0);
		state.markDirty(AT);
		expect(clear(over)).toBe(expected);
		expect([get(), bits()[0]]).toEqual([0, 1]);
	});

	it('clears the bits that the caller sets, from its first page on, and no others', () => {
		const { p, enable, clear, state, get, bits } = rig();
		enable(Cap.MANUAL_DIRTY_LOG_PROTECT2, 1n);
		for (const page of [0, 1, 64, 65, 69]) state.markDirty(AT + page * PAGE);
		const second = p.put(Uint8Array.of(0b100001, 0, 0, 0, 0, 0, 0, 0));
		expect(clear({ firstPage: 64n, numPages: 6, dirtyBitmap: second })).toBe(0);
		expect([get(), bits()[0], bits()[8]]).toEqual([0, 3, 2]);
	});

	it.each([
		[2n, 0, EINVAL],
		[4n, 0, EINVAL],
		[1n, 1, EINVAL],
		[0n, 0, 0],
		[1n, 0, 0],
		[3n, 0, 0],
	])('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with %s and flags %i is %i', (mask, flags, expected) => {
		expect(rig().enable(Cap.MANUAL_DIRTY_LOG_PROTECT2, mask, { flags })).toBe(expected);
	});

	it('INITIALLY_SET begins with the bit of every page', () => {
		const { set, enable, get, bits } = rig();
		enable(Cap.MANUAL_DIRTY_LOG_PROTECT2, 3n);
		expect([set({ flags: 0 }), set({}), get()]).toEqual([0, 0, 0]);
		expect(bits()).toEqual([...Array<number>(8).fill(0xff), 0x3f, 0, 0, 0, 0, 0, 0, 0]);
	});
});

describe('KVM_CAP_DIRTY_LOG_RING, row by row', () => {
	it.each([Cap.DIRTY_LOG_RING, Cap.DIRTY_LOG_RING_ACQ_REL])('capability %i', (cap) => {
		const { p, vm, enable } = rig();
		for (const bytes of [0n, 4096n + 16n, 2048n, 3n * 4096n]) expect(enable(cap, bytes)).toBe(EINVAL);
		expect(enable(cap, 2n * 65536n * 16n)).toBe(E2BIG);
		expect(p.process.ioctl(vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(EINVAL);
		expect(enable(cap, 65536n * 16n)).toBe(0);
		expect(enable(cap, 65536n * 16n)).toBe(EINVAL);
		expect(p.process.ioctl(vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(0);
	});

	it('is EINVAL once there is a vCPU', () => {
		const { p, vm, enable } = rig();
		expect(p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0)).toBeGreaterThan(0);
		expect(enable(Cap.DIRTY_LOG_RING, 4096n)).toBe(EINVAL);
	});

	it('maps entries of 16 bytes at page 64, and takes back those that are marked', () => {
		const { p, vm, enable } = rig();
		expect(enable(Cap.DIRTY_LOG_RING, 4096n)).toBe(0);
		const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		const ring = p.process.mmap(vcpu, 4096, 64 * 4096);
		if (typeof ring === 'number') throw new Error(`ring: expected bytes, got ${ring}`);
		openVmState(contextAt(p, vm).handle, p.process.vcpuOf(vcpu)?.share().dirtyRing).markDirty(AT + 5 * PAGE);
		expect([...ring.subarray(0, 16)]).toEqual([1, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
		expect(p.process.ioctl(vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(0);
		ring[0] = 3;
		expect(p.process.ioctl(vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(1);
		expect(ring[0]).toBe(0);
	});
});
