import { type Gpa, type Hva, isAligned, PAGE_SIZE } from '@cvm/layout';
import { USER_MEM_SLOTS } from './abi/capabilities.js';
import { Errno } from './abi/errno.js';
import { bitmapWords, createBitmapSpace, fetchAndClear } from './dirty-log.js';
import type { KernelMemory } from './host-memory.js';
import { MAX_SLOTS, MemFlag, SLOT_DOUBLES, type VmHandle, VmWord, vmWords } from './vm-state.js';

/** Argument of KVM_SET_USER_MEMORY_REGION: struct kvm_userspace_memory_region. */
export interface UserMemoryRegion {
	/** Bits 15:0 id, bits 31:16 address space: 0 normal, 1 SMM. */
	readonly slot: number;
	/** KVM_MEM_LOG_DIRTY_PAGES 1, KVM_MEM_READONLY 2. */
	readonly flags: number;
	readonly guestPhysAddr: Gpa;
	/** Bytes; 0 deletes the slot. */
	readonly memorySize: number;
	readonly userspaceAddr: Hva;
}

/** The memslots of one VM. */
export interface Memslots {
	/** KVM_SET_USER_MEMORY_REGION. Delete or move a slot only while no vCPU runs; flags may change at any time. */
	set(region: UserMemoryRegion): number;
	/** KVM_GET_DIRTY_LOG: fetch and clear. Bit i of word i>>5 is page i of the slot. */
	getDirtyLog(slot: number, bitmap: Uint32Array): number;
	/** Gives back what the slots hold. */
	clear(): void;
}

interface Slot extends UserMemoryRegion {
	readonly spa: number;
	/** First word of the dirty bitmap; −1 while the slot does not log. */
	bitmap: number;
}

const ADDRESS_SPACES = 2;
const MAX_PAGES = 2 ** 31;
/** KVM adds up in u64; addresses here are numbers, and none reaches this. */
const WRAP = 2 ** 64;

/**
 * Memslots with the checks of Linux 6.1 virt/kvm/kvm_main.c __kvm_set_memory_region, in its order.
 *
 * DEVIATION(Linux): at most 32 slots exist at a time, the next one is −ENOMEM; memory behind a slot must be mapped when the
 * slot is made (else −EINVAL) and stays pinned as long as the slot exists.
 */
export function createMemslots(handle: VmHandle, memory: KernelMemory): Memslots {
	const { words, slots: table, dirty } = vmWords(handle);
	const bitmaps = createBitmapSpace(dirty);
	const slots = new Map<number, Slot>();

	/** Writes the table anew. vCPUs translate only in the normal address space. */
	const publish = (): void => {
		Atomics.add(words, VmWord.slotGeneration, 1);
		let count = 0;
		for (const slot of slots.values()) {
			if (slot.slot >>> 16 !== 0) continue;
			table.set([slot.guestPhysAddr, slot.memorySize, slot.spa, slot.bitmap], count * SLOT_DOUBLES);
			Atomics.store(words, VmWord.slotFlags + count, slot.flags);
			count++;
		}
		Atomics.store(words, VmWord.slotCount, count);
		Atomics.add(words, VmWord.slotGeneration, 1);
		Atomics.add(words, VmWord.tlbGeneration, 1);
	};
	const startLog = (slot: Slot): boolean => {
		slot.bitmap = bitmaps.allocate(bitmapWords(slot.memorySize / PAGE_SIZE));
		return slot.bitmap >= 0;
	};
	const stopLog = (slot: Slot): void => {
		if (slot.bitmap >= 0) bitmaps.free(slot.bitmap);
		slot.bitmap = -1;
	};
	const remove = (slot: Slot): void => {
		slots.delete(slot.slot);
		stopLog(slot);
		memory.unpin(slot.spa, slot.memorySize);
	};
	const overlaps = (r: UserMemoryRegion): boolean =>
		[...slots.values()].some(
			(s) =>
				s.slot !== r.slot &&
				s.slot >>> 16 === r.slot >>> 16 &&
				r.guestPhysAddr < s.guestPhysAddr + s.memorySize &&
				s.guestPhysAddr < r.guestPhysAddr + r.memorySize,
		);

	const change = (old: Slot, r: UserMemoryRegion): number => {
		if (r.memorySize !== old.memorySize || r.userspaceAddr !== old.userspaceAddr) return -Errno.EINVAL;
		if (((r.flags ^ old.flags) & MemFlag.readonly) !== 0) return -Errno.EINVAL;
		const moves = r.guestPhysAddr !== old.guestPhysAddr;
		if (!moves && r.flags === old.flags) return 0;
		if (moves && overlaps(r)) return -Errno.EEXIST;
		const slot: Slot = { ...r, spa: old.spa, bitmap: old.bitmap };
		const logs = (r.flags & MemFlag.logDirtyPages) !== 0;
		if (logs && slot.bitmap < 0 && !startLog(slot)) return -Errno.ENOMEM;
		slots.set(r.slot, slot);
		if (!logs) slot.bitmap = -1;
		publish();
		// After `publish`: no vCPU finds the old run any more when it is handed out again.
		if (!logs) stopLog(old);
		return 0;
	};
	const create = (r: UserMemoryRegion, spa: number): number => {
		if (overlaps(r)) return -Errno.EEXIST;
		if (slots.size >= MAX_SLOTS) return -Errno.ENOMEM;
		const slot: Slot = { ...r, spa, bitmap: -1 };
		if ((r.flags & MemFlag.logDirtyPages) !== 0 && !startLog(slot)) return -Errno.ENOMEM;
		memory.pin(spa, r.memorySize);
		slots.set(r.slot, slot);
		publish();
		return 0;
	};

	return {
		set: (r) => {
			if ((r.flags & ~(MemFlag.logDirtyPages | MemFlag.readonly)) !== 0) return -Errno.EINVAL;
			if (!isAligned(r.memorySize, PAGE_SIZE) || !isAligned(r.guestPhysAddr, PAGE_SIZE)) return -Errno.EINVAL;
			const spa = r.memorySize === 0 ? 0 : memory.resolve(r.userspaceAddr, r.memorySize);
			if (!isAligned(r.userspaceAddr, PAGE_SIZE) || spa < 0) return -Errno.EINVAL;
			if (!isSlotNumber(r.slot)) return -Errno.EINVAL;
			if (r.guestPhysAddr + r.memorySize >= WRAP) return -Errno.EINVAL;
			const old = slots.get(r.slot);
			if (r.memorySize === 0) {
				if (old === undefined) return -Errno.EINVAL;
				remove(old);
				publish();
				return 0;
			}
			if (r.memorySize / PAGE_SIZE >= MAX_PAGES) return -Errno.EINVAL;
			return old === undefined ? create(r, spa) : change(old, r);
		},
		getDirtyLog: (number, bitmap) => {
			if (!isSlotNumber(number)) return -Errno.EINVAL;
			const slot = slots.get(number);
			if (slot === undefined || slot.bitmap < 0) return -Errno.ENOENT;
			return fetchAndClear(dirty, slot.bitmap, bitmapWords(slot.memorySize / PAGE_SIZE), bitmap);
		},
		clear: () => {
			for (const slot of [...slots.values()]) remove(slot);
			publish();
		},
	};
}

const isSlotNumber = (slot: number): boolean => slot >>> 16 < ADDRESS_SPACES && (slot & 0xffff) < USER_MEM_SLOTS;
