import { gpa, PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { Errno } from '../abi/errno.js';
import { createKernel } from '../kernel.js';
import { createVmHandle, MemFlag, openVmState } from '../vm/state.js';
import { createVcpuHandle } from '../vm/vcpu-state.js';
import { createRingReader, DIRTY_RING_RESERVED, openDirtyRing, ringEntries } from './dirty-ring.js';
import { createHostMemory } from './host-memory.js';
import { createMemslots } from './memslots.js';

const MIB = 2 ** 20;
const LOG = MemFlag.logDirtyPages;
const ENTRIES = PAGE_SIZE / 16;

function vm(ramPages = 1024) {
	const dram = new Uint8Array(new SharedArrayBuffer(MIB + ramPages * PAGE_SIZE));
	const memory = createHostMemory(dram);
	const silicon = { kind: 'cvm-silicon' } as const;
	const handle = createVmHandle({
		kernel: createKernel('upstream'),
		cbitPosition: 51,
		ramBytes: dram.length,
		silicon,
	});
	const rings: SharedArrayBuffer[] = [];
	const memslots = createMemslots(handle, memory, { rings: () => rings });
	const ram = memory.mmap(ramPages * PAGE_SIZE);
	const slot = (id: number, flags: number, at: number, pages: number) =>
		memslots.set({
			slot: id,
			flags,
			guestPhysAddr: gpa(at),
			memorySize: pages * PAGE_SIZE,
			userspaceAddr: ram.hva,
		});
	const addVcpu = (index: number) => {
		const { dirtyRing } = createVcpuHandle(handle, index, []);
		if (dirtyRing === undefined) throw new Error('dirty ring: expected one, got none');
		rings.push(dirtyRing);
		const entries = ringEntries(dirtyRing);
		return {
			state: openVmState(handle, dirtyRing),
			entries,
			view: new DataView(entries.buffer, entries.byteOffset, entries.byteLength),
			reader: createRingReader(entries),
			ring: openDirtyRing(dirtyRing),
		};
	};
	return { memslots, handle, ram, slot, addVcpu };
}

/** A VM with rings of one page, a logging slot 5 at 1 MiB, and a vCPU. */
function rig(pages = 1024) {
	const made = vm();
	expect(made.memslots.enableDirtyRing(BigInt(PAGE_SIZE), false)).toBe(0);
	expect(made.slot(5, LOG, MIB, pages)).toBe(0);
	const vcpu = made.addVcpu(0);
	const store = (page: number) => vcpu.state.markDirty(MIB + page * PAGE_SIZE + 8);
	const harvest = (): number[] => {
		const got: number[] = [];
		vcpu.reader.harvest((slot, page) => {
			expect(slot).toBe(5);
			got.push(page);
		});
		return got;
	};
	return { ...made, vcpu, store, harvest };
}

describe('KVM_CAP_DIRTY_LOG_RING', () => {
	it.each([
		[0n, -Errno.EINVAL],
		[16n, -Errno.EINVAL],
		[1024n, -Errno.EINVAL],
		[2048n, -Errno.EINVAL],
		[4096n, 0],
		[4097n, -Errno.EINVAL],
		[12288n, -Errno.EINVAL],
		[65536n * 16n, 0],
		[65536n * 32n, -Errno.E2BIG],
		[2n ** 31n, -Errno.E2BIG],
		[3n * 65536n * 16n, -Errno.EINVAL],
		[2n ** 32n, -Errno.EINVAL],
		[2n ** 32n + 4096n, 0],
	])('with %s bytes is %i', (bytes, expected) => {
		expect(vm().memslots.enableDirtyRing(bytes, false)).toBe(expected);
	});

	it('is for once, and before any vCPU; a wrong size is said first', () => {
		const { memslots } = vm();
		expect(memslots.enableDirtyRing(4096n, true)).toBe(-Errno.EINVAL);
		expect(memslots.enableDirtyRing(2n ** 31n, true)).toBe(-Errno.E2BIG);
		expect(memslots.resetDirtyRings()).toBe(-Errno.EINVAL);
		expect(memslots.enableDirtyRing(4096n, false)).toBe(0);
		expect(memslots.enableDirtyRing(4096n, false)).toBe(-Errno.EINVAL);
		expect(memslots.resetDirtyRings()).toBe(0);
	});

	it('ends GET and CLEAR: ENXIO before anything else is looked at', () => {
		const { memslots } = rig();
		const bitmap = new Uint32Array(0);
		expect(memslots.getDirtyLog(99999, bitmap)).toBe(-Errno.ENXIO);
		expect(memslots.clearDirtyLog({ slot: 99999, firstPage: 1, numPages: 1, bitmap })).toBe(-Errno.ENXIO);
		expect(memslots.dirtyLogWords(5)).toBe(-Errno.ENXIO);
	});

	it('gives no ring to the vCPUs of other VMs', () => {
		expect(createVcpuHandle(vm().handle, 0, []).dirtyRing).toBeUndefined();
	});
});

describe('a dirty ring', () => {
	it('holds struct kvm_dirty_gfn: flags, slot, offset', () => {
		const { vcpu, store, memslots, slot } = rig();
		expect(slot(0xfff, LOG, 64 * MIB, 512)).toBe(0);
		store(0x123);
		vcpu.state.markDirty(64 * MIB + 511 * PAGE_SIZE);
		expect(vcpu.entries.length).toBe(PAGE_SIZE);
		expect([...vcpu.entries.subarray(0, 48)]).toEqual([
			...[1, 0, 0, 0, 5, 0, 0, 0, 0x23, 1, 0, 0, 0, 0, 0, 0],
			...[1, 0, 0, 0, 0xff, 0x0f, 0, 0, 0xff, 1, 0, 0, 0, 0, 0, 0],
			...new Array<number>(16).fill(0),
		]);
		expect(memslots.resetDirtyRings()).toBe(0);
	});

	it('gets a page once until it is reset, whichever vCPU stores', () => {
		const { store, harvest, memslots, addVcpu } = rig();
		const second = addVcpu(1);
		store(7);
		store(7);
		second.state.markDirty(MIB + 7 * PAGE_SIZE);
		expect(harvest()).toEqual([7]);
		expect(second.reader.harvest(() => {})).toBe(0);
		store(7);
		expect(harvest()).toEqual([]);
		expect(memslots.resetDirtyRings()).toBe(1);
		second.state.markDirty(MIB + 7 * PAGE_SIZE);
		expect([harvest(), second.reader.harvest(() => {})]).toEqual([[], 1]);
	});

	it('takes back only what the VMM has marked, in order', () => {
		const { vcpu, store, memslots } = rig();
		for (const page of [1, 2, 3]) store(page);
		vcpu.view.setUint32(16, 3, true);
		expect(memslots.resetDirtyRings()).toBe(0);
		vcpu.view.setUint32(0, 2, true);
		expect(memslots.resetDirtyRings()).toBe(2);
		expect([0, 16, 32].map((at) => vcpu.view.getUint32(at, true))).toEqual([0, 0, 1]);
		expect(memslots.resetDirtyRings()).toBe(0);
	});

	it('takes back no more than was pushed, whatever the VMM writes', () => {
		const { vcpu, store, memslots, harvest } = rig();
		store(1);
		for (let at = 0; at < PAGE_SIZE; at += 4) vcpu.view.setUint32(at, 0xffffffff, true);
		expect(memslots.resetDirtyRings()).toBe(1);
		expect(vcpu.state.isRingFull).toBe(false);
		store(2);
		expect(vcpu.view.getUint32(16 + 8, true)).toBe(2);
		vcpu.view.setUint32(0, 0, true);
		expect(harvest()).toEqual([]);
	});

	it('is full when the reserved entries are all that is left', () => {
		const { vcpu, store, harvest, memslots } = rig();
		for (let page = 0; page < ENTRIES - DIRTY_RING_RESERVED - 1; page++) store(page);
		expect(vcpu.state.isRingFull).toBe(false);
		store(ENTRIES);
		expect(vcpu.state.isRingFull).toBe(true);
		// To have read is not to have reset.
		expect(harvest().length).toBe(ENTRIES - DIRTY_RING_RESERVED);
		expect(vcpu.state.isRingFull).toBe(true);
		memslots.resetDirtyRings();
		expect(vcpu.state.isRingFull).toBe(false);
	});

	it('loses no page when one block dirties more than it holds', () => {
		const { vcpu, store, harvest, memslots } = rig();
		for (let page = 0; page < 1000; page++) store(page);
		const seen: number[] = [];
		const counts: number[] = [];
		for (;;) {
			seen.push(...harvest());
			const count = memslots.resetDirtyRings();
			counts.push(count);
			if (count === 0) break;
		}
		expect(counts).toEqual([256, 256, 256, 232, 0]);
		expect(seen).toEqual(Array.from({ length: 1000 }, (_, i) => i));
		expect(vcpu.state.isRingFull).toBe(false);
	});

	it('wraps for as long as one likes', () => {
		const { store, harvest, memslots } = rig();
		for (let round = 0; round < 200; round++) {
			const pages = Array.from({ length: 100 }, (_, i) => (round * 37 + i) % 1024);
			for (const page of pages) store(page);
			expect(harvest()).toEqual(pages);
			expect(memslots.resetDirtyRings()).toBe(100);
		}
	});

	it('forgets a slot that goes: its entries reset to nothing, its queue is gone', () => {
		const { vcpu, store, harvest, memslots, slot } = rig();
		for (let page = 0; page < 300; page++) store(page);
		expect(slot(5, 0, MIB, 0)).toBe(0);
		expect(slot(5, LOG, MIB, 4)).toBe(0);
		store(3);
		expect(harvest().length).toBe(256);
		expect(memslots.resetDirtyRings()).toBe(256);
		// Page 3 of the new slot had no room, and came in with the reset.
		expect(harvest()).toEqual([3]);
		expect(memslots.resetDirtyRings()).toBe(1);
		expect(vcpu.state.isRingFull).toBe(false);
	});

	it('gets nothing while the slot does not log, nor from a store that no vCPU made', () => {
		const { store, harvest, slot, handle } = rig();
		expect(slot(5, 0, MIB, 1024)).toBe(0);
		store(1);
		expect(slot(5, LOG, MIB, 1024)).toBe(0);
		openVmState(handle).markDirty(MIB + 2 * PAGE_SIZE);
		store(2);
		expect(harvest()).toEqual([2]);
	});

	it('follows a slot that moves', () => {
		const { vcpu, store, harvest, slot, memslots } = rig();
		store(1);
		expect(slot(5, LOG, 32 * MIB, 1024)).toBe(0);
		vcpu.state.markDirty(32 * MIB + PAGE_SIZE);
		vcpu.state.markDirty(32 * MIB + 2 * PAGE_SIZE);
		expect(harvest()).toEqual([1, 2]);
		expect(memslots.resetDirtyRings()).toBe(2);
	});

	it('begins empty for a slot that logged to a bitmap before, even one of ones', () => {
		const { memslots, slot, addVcpu } = vm();
		memslots.enableManualProtect(3n);
		slot(5, LOG, MIB, 64);
		expect(memslots.enableDirtyRing(4096n, false)).toBe(0);
		const { state, reader } = addVcpu(0);
		state.markDirty(MIB);
		expect(reader.harvest(() => {})).toBe(1);
	});

	const STEP = fc.oneof(
		{ weight: 4, arbitrary: fc.record({ store: fc.nat(1023), pages: fc.integer({ min: 1, max: 400 }) }) },
		{ weight: 2, arbitrary: fc.constant('harvest' as const) },
		{ weight: 2, arbitrary: fc.constant('reset' as const) },
	);
	test.prop([fc.array(STEP, { maxLength: 40 })], { numRuns: 60 })(
		'reports every store after the page was last harvested and reset',
		(steps) => {
			const { store, harvest, memslots } = rig();
			/** Pages stored to since their last report; a report counts from the reset on. */
			const stale = new Set<number>();
			const marked = new Set<number>();
			const take = () => {
				for (const page of harvest()) marked.add(page);
			};
			const reset = () => {
				const count = memslots.resetDirtyRings();
				// Read the pages only now.
				for (const page of marked) stale.delete(page);
				marked.clear();
				return count;
			};
			for (const step of steps) {
				if (step === 'harvest') take();
				else if (step === 'reset') reset();
				else
					for (let i = 0; i < step.pages; i++) {
						store((step.store + i) % 1024);
						stale.add((step.store + i) % 1024);
					}
			}
			do take();
			while (reset() > 0);
			expect([...stale]).toEqual([]);
		},
	);
});
