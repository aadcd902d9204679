import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { gpa, PAGE_SIZE } from '@cvm/layout';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { memslotsRig as rig } from '../../test/memslots-rig.js';
import { Errno } from '../abi/errno.js';
import { MemFlag, openVmState, type VmHandle, VmWord, vmWords } from '../vm/state.js';
import type { ClearDirtyLogRequest, UserMemoryRegion } from './memslots.js';

const LOG = MemFlag.logDirtyPages;
/** A word of the VM that nobody uses. */
const LEFT = 255;

afterEach(() => {
	vi.restoreAllMocks();
});

describe('a memslot while vCPUs run', () => {
	/** A vCPU that is in a block since before the next change. */
	const inBlock = (handle: VmHandle, index = 3) => {
		const { words } = vmWords(handle);
		Atomics.store(words, VmWord.tlbSeen + index, Atomics.load(words, VmWord.tlbGeneration));
		Atomics.store(words, VmWord.running + index, 1);
	};

	it.each<[string, Partial<UserMemoryRegion>]>([
		['deletion', { memorySize: 0 }],
		['move', { guestPhysAddr: gpa(0x40000), flags: LOG }],
		['end of logging', { flags: 0 }],
	])('refuses its %s if a vCPU never comes to the end of its block, and nothing has changed', (_, over) => {
		const { memslots, region, memory, state, ram, handle } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000);
		inBlock(handle);
		const free = memory.freeBytes;
		expect(() => memslots.set(region(over))).toThrow(expect.objectContaining({ code: 'vcpu-stuck' }));
		expect(memory.freeBytes).toBe(free);
		expect(state.translate(0x10000)).toBe(ram.spa);
		expect(state.translate(0x40000)).toBe(-1);
		state.markDirty(0x10000 + PAGE_SIZE);
		const bitmap = new Uint32Array(2);
		expect(memslots.getDirtyLog(0, bitmap)).toBe(0);
		expect(bitmap[0]).toBe(3);
		vmWords(handle).words[VmWord.running + 3] = 0;
		expect(memslots.set(region(over))).toBe(0);
	});

	it.each<[string, Partial<UserMemoryRegion>]>([
		['creation of another', { slot: 1, guestPhysAddr: gpa(0x80000) }],
		['start of logging', { flags: LOG }],
		['change to what it is', {}],
	])('waits for nobody at the %s', (_, over) => {
		const { memslots, region, handle } = rig();
		memslots.set(region());
		inBlock(handle);
		expect(memslots.set(region(over))).toBe(0);
	});

	it('waits for no vCPU that is outside of the guest, such as one of the same thread', () => {
		const { memslots, region, handle } = rig();
		memslots.set(region());
		inBlock(handle);
		Atomics.store(vmWords(handle).words, VmWord.running + 3, 0);
		expect(memslots.set(region({ memorySize: 0 }))).toBe(0);
	});

	it('waits until a vCPU in another thread has left its block', async () => {
		const { memslots, region, handle } = rig();
		memslots.set(region());
		inBlock(handle);
		const { words } = vmWords(handle);
		const code = `
			const { workerData: { words, generation, before, running, left } } = require('node:worker_threads');
			while (Atomics.load(words, generation) === before);
			Atomics.store(words, left, 1);
			Atomics.store(words, running, 0);
		`;
		const before = Atomics.load(words, VmWord.tlbGeneration);
		const workerData = { words, generation: VmWord.tlbGeneration, before, running: VmWord.running + 3, left: LEFT };
		const worker = new Worker(code, { eval: true, workerData });
		const exited = once(worker, 'exit');
		await once(worker, 'online');
		// The rig gives up soon, and on a busy machine too soon.
		let ret = -1;
		for (let tries = 0; ret !== 0 && tries < 10_000; tries++) {
			try {
				ret = memslots.set(region({ memorySize: 0 }));
			} catch (error) {
				expect(error).toMatchObject({ code: 'vcpu-stuck' });
			}
		}
		expect(ret).toBe(0);
		expect(Atomics.load(words, LEFT)).toBe(1);
		await exited;
	});

	it('logs what a vCPU stores by an old translation until it is waited for', () => {
		// The two steps of a move, as a vCPU in mid-block meets them.
		const { memslots, region, handle } = rig();
		memslots.set(region({ flags: LOG }));
		inBlock(handle);
		const vcpu = openVmState(handle);
		expect(vcpu.translate(0x10000)).toBeGreaterThan(0);
		let seen: (number | boolean)[] = [];
		const { wait } = Atomics;
		vi.spyOn(Atomics, 'wait').mockImplementation(((array: Int32Array, ...rest: [number, number, number]) => {
			seen = [vcpu.translate(0x10000), vcpu.isWritable(0x10000)];
			vcpu.markDirty(0x10000 + 2 * PAGE_SIZE);
			Atomics.store(vmWords(handle).words, VmWord.running + 3, 0);
			return wait(array, ...rest);
		}) as typeof wait);
		expect(memslots.set(region({ flags: LOG, guestPhysAddr: gpa(0x40000) }))).toBe(0);
		vi.restoreAllMocks();
		expect(seen).toEqual([-1, true]);
		const bitmap = new Uint32Array(2);
		memslots.getDirtyLog(0, bitmap);
		expect(bitmap[0]).toBe(4);
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
		const results = Array.from({ length: 2200 }, (_, i) => memslots.set(slot(i, LOG)));
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

describe('manual protection', () => {
	const manual = (over: Partial<UserMemoryRegion> = {}, mask = 1n) => {
		const made = rig();
		expect(made.memslots.enableManualProtect(mask)).toBe(0);
		expect(made.memslots.set(made.region({ flags: LOG, ...over }))).toBe(0);
		const get = (): number[] => {
			const bitmap = new Uint32Array(4);
			expect(made.memslots.getDirtyLog(0, bitmap)).toBe(0);
			return [...bitmap];
		};
		return { ...made, get };
	};

	it.each([
		[0n, 0],
		[1n, 0],
		[3n, 0],
		[2n, -Errno.EINVAL],
		[4n, -Errno.EINVAL],
		[5n, -Errno.EINVAL],
		[2n ** 63n, -Errno.EINVAL],
	])('is switched by args[0] = %s: %i', (mask, expected) => {
		expect(rig().memslots.enableManualProtect(mask)).toBe(expected);
	});

	it('lets GET copy, and CLEAR clear what it is given', () => {
		const { memslots, state, get } = manual();
		for (const page of [0, 3, 5]) state.markDirty(0x10000 + page * PAGE_SIZE);
		expect(get()[0]).toBe(0b101001);
		expect(get()[0]).toBe(0b101001);
		const bitmap = Uint32Array.of(0b011001, 0);
		expect(memslots.clearDirtyLog({ slot: 0, firstPage: 0, numPages: 16, bitmap })).toBe(0);
		expect(get()[0]).toBe(0b100000);
	});

	it('clears without having been switched on too', () => {
		const { memslots, region, state } = rig();
		memslots.set(region({ flags: LOG }));
		state.markDirty(0x10000);
		const request = { slot: 0, firstPage: 0, numPages: 16, bitmap: Uint32Array.of(1, 0) };
		expect(memslots.clearDirtyLog(request)).toBe(0);
		const bitmap = new Uint32Array(2);
		memslots.getDirtyLog(0, bitmap);
		expect(bitmap[0]).toBe(0);
	});

	it('begins with all bits set if INITIALLY_SET says so, and none past the last page', () => {
		const { get } = manual({ memorySize: 70 * PAGE_SIZE }, 3n);
		expect(get()).toEqual([0xffffffff, 0xffffffff, 0x3f, 0]);
	});

	it.each<[string, Partial<ClearDirtyLogRequest>, number]>([
		['the whole slot', {}, 0],
		['a part of whole words', { numPages: 64 }, 0],
		['the rest from a word on', { firstPage: 64, numPages: 6 }, 0],
		['nothing, at the very end', { firstPage: 128, numPages: 0 }, -Errno.EINVAL],
		['no pages', { numPages: 0 }, 0],
		['a bigint', { firstPage: 64n, numPages: 6 }, 0],
		['a first page inside a word', { firstPage: 32, numPages: 6 }, -Errno.EINVAL],
		['a first page behind the slot', { firstPage: 2n ** 63n, numPages: 0 }, -Errno.EINVAL],
		['a page too many', { numPages: 71 }, -Errno.EINVAL],
		['pages that wrap', { firstPage: 64, numPages: 0xffffffff }, -Errno.EINVAL],
		['pages that are no whole word and end before the slot', { numPages: 69 }, -Errno.EINVAL],
		['a short bitmap', { bitmap: new Uint32Array(3) }, -Errno.EFAULT],
		['a slot that cannot be', { slot: 2 << 16 }, -Errno.EINVAL],
		['a slot that is not there', { slot: 1 }, -Errno.ENOENT],
		['a wrong first page of a slot that is not there', { slot: 1, firstPage: 1 }, -Errno.EINVAL],
		['a range of a slot that is not there', { slot: 1, numPages: 71 }, -Errno.ENOENT],
	])('answers CLEAR of %s', (_, over, expected) => {
		const { memslots, get } = manual({ memorySize: 70 * PAGE_SIZE }, 3n);
		const before = get();
		const request = { slot: 0, firstPage: 0, numPages: 70, bitmap: new Uint32Array(4).fill(0xffffffff), ...over };
		expect(memslots.clearDirtyLog(request)).toBe(expected);
		if (expected !== 0) expect(get()).toEqual(before);
	});

	it('clears no bit of the next slot, whatever the caller’s last word holds', () => {
		const { memslots, region, get, state } = manual();
		memslots.set(region({ slot: 1, flags: LOG, guestPhysAddr: gpa(0x80000) }));
		state.markDirty(0x80000);
		state.markDirty(0x10000);
		const bitmap = new Uint32Array(8).fill(0xffffffff);
		expect(memslots.clearDirtyLog({ slot: 0, firstPage: 0, numPages: 16, bitmap })).toBe(0);
		expect(get()[0]).toBe(0);
		const other = new Uint32Array(2);
		memslots.getDirtyLog(1, other);
		expect(other[0]).toBe(1);
	});

	it('tells how many words a log has, or why it has none', () => {
		const { memslots, region } = manual({ memorySize: 70 * PAGE_SIZE });
		memslots.set(region({ slot: 1, guestPhysAddr: gpa(0x80000) }));
		expect([0, 1, 32764].map(memslots.dirtyLogWords)).toEqual([4, -Errno.ENOENT, -Errno.EINVAL]);
	});
});
