import { type Gpa, type Hva, PAGE_SIZE } from '@cvm/layout';
import { Errno } from '../abi/errno.js';
import { KvmError } from '../error.js';
import { awaitTlbGeneration } from '../vm/quiesce.js';
import { MemFlag, type VmHandle, VmWord, vmWords } from '../vm/state.js';
import { bitmapWords, clearBits, createBitmapSpace, fetch, fetchAndClear, setAll } from './dirty-log.js';
import { type LoggingSlot, openDirtyRing } from './dirty-ring.js';
import type { KernelMemory } from './host-memory.js';
import {
	type CheckedRegion,
	checkRegion,
	checkRingBytes,
	isSlotNumber,
	type MemoryRegionArgument,
	spaceOf,
	toU64,
} from './memory-region.js';
import { replaceSlot, SLOT_INVALID, SLOT_RING, type SlotEntry } from './slot-table.js';

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

/** Argument of KVM_CLEAR_DIRTY_LOG: struct kvm_clear_dirty_log. */
export interface ClearDirtyLogRequest {
	readonly slot: number;
	/** First page of the range: a multiple of 64. */
	readonly firstPage: number | bigint;
	/** A multiple of 64, unless the range reaches the end of the slot. */
	readonly numPages: number;
	/** Bit i of word i>>5 set: clear page `firstPage + i`. At least 2 words per 64 pages. */
	readonly bitmap: Uint32Array;
}

/** The memslots of one VM. */
export interface Memslots {
	/**
	 * KVM_SET_USER_MEMORY_REGION. Any change may be made while vCPUs run: to delete, to move and to stop logging waits until each
	 * vCPU that is in the guest has come to the end of its block.
	 *
	 * @throws KvmError `vcpu-stuck` if one does not: its thread is gone, or is this one. Nothing has changed then.
	 */
	set(region: MemoryRegionArgument): number;
	/** Pages of a slot, 0 if there is none. */
	pagesOf(slot: number): number;
	/** Words of 32 bits that KVM_GET_DIRTY_LOG of a slot writes, or the errno with which it would fail before it does. */
	dirtyLogWords(slot: number): number;
	/** KVM_GET_DIRTY_LOG. Bit i of word i>>5 is page i of the slot; it also clears the bits unless protection is manual. */
	getDirtyLog(slot: number, bitmap: Uint32Array): number;
	/** KVM_CLEAR_DIRTY_LOG. */
	clearDirtyLog(request: ClearDirtyLogRequest): number;
	/** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: bit 0 manual protection, bit 1 with it: bitmaps begin with all bits set. */
	enableManualProtect(args0: bigint): number;
	/** KVM_CAP_DIRTY_LOG_RING(_ACQ_REL) = 1: bytes of each vCPU's ring, the low 32 bits. */
	enableDirtyRing(args0: bigint, hasVcpus: boolean): number;
	/** KVM_RESET_DIRTY_RINGS: how many entries were taken back, or −EINVAL without rings. */
	resetDirtyRings(): number;
	/** Gives back what the slots hold. No vCPU runs any more. */
	clear(): void;
}

/** What {@link createMemslots} needs beside the shared state and memory. */
export interface MemslotOptions {
	/** The dirty rings of the VM's vCPUs. */
	readonly rings?: () => Iterable<SharedArrayBuffer>;
	/** Milliseconds to wait for a vCPU; 30000 by default. */
	readonly patience?: number;
}

/** A slot: its entry in the shared table, and what only the ioctls need. */
interface Slot extends SlotEntry {
	readonly hva: number;
}

/** KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_DIRTY_LOG_INITIALLY_SET. */
const Manual = { enable: 1, initiallySet: 2 } as const;

/**
 * Memslots and their dirty log (Linux 6.1 virt/kvm/kvm_main.c). `memory-region.ts` has the checks of the argument.
 *
 * DEVIATION(Linux): memory behind a slot must be mapped when the slot is made (else −EINVAL) and stays pinned as long as the
 * slot exists. A GET that fails with EFAULT has changed nothing; Linux has fetched and cleared the bits by then.
 */
export function createMemslots(handle: VmHandle, memory: KernelMemory, o: MemslotOptions = {}): Memslots {
	const { rings = () => [], patience = 30_000 } = o;
	const view = vmWords(handle);
	const { words, dirty } = view;
	const bitmaps = createBitmapSpace(dirty);
	const slots = new Map<number, Slot>();
	/** The slots of each address space by guest-physical address. */
	const sorted: Slot[][] = [[], []];
	let manual = 0;

	const usesRing = (): boolean => (words[VmWord.dirtyRingBytes] ?? 0) !== 0;
	const pagesOf = (slot: Slot): number => slot.bytes / PAGE_SIZE;
	const inSpace = (id: number): Slot[] => sorted[spaceOf(id)] ?? [];

	/** Replaces an entry of the vCPUs' table, which has the normal address space only: no vCPU here is ever in SMM. */
	const publish = (old: SlotEntry | undefined, next: SlotEntry | undefined): number =>
		spaceOf((old ?? next)?.id ?? 0) === 0 ? replaceSlot(view, old, next) : Atomics.load(words, VmWord.tlbGeneration);
	/** As `publish`, and no vCPU uses the old entry any more. If that cannot be had, the old entry is back. */
	const publishAndWait = (old: SlotEntry, next: SlotEntry | undefined): void => {
		if (awaitTlbGeneration(words, publish(old, next), patience)) return;
		publish(next, old);
		throw new KvmError('vcpu-stuck', 'memslots', 'every vCPU to reach the end of its block', `none for ${patience} ms`);
	};
	/** Nothing translates through the slot any more, and all stores through it are in its log. */
	const invalidate = (slot: Slot): SlotEntry => {
		const invalid = { ...slot, flags: slot.flags | SLOT_INVALID };
		publishAndWait(slot, invalid);
		return invalid;
	};
	const list = (slot: Slot): void => {
		slots.set(slot.id, slot);
		const others = inSpace(slot.id);
		others.splice(firstAbove(others, slot.gpa), 0, slot);
	};
	const unlist = (slot: Slot): void => {
		slots.delete(slot.id);
		const others = inSpace(slot.id);
		others.splice(others.indexOf(slot), 1);
	};

	/** First word of a new log, −1 without LOG, `undefined` if there is no room. */
	const startLog = (pages: number, flags: number): number | undefined => {
		if ((flags & MemFlag.logDirtyPages) === 0) return -1;
		const first = bitmaps.allocate(bitmapWords(pages));
		if (first < 0) return undefined;
		if (manual === (Manual.enable | Manual.initiallySet) && !usesRing()) setAll(dirty, first, pages);
		return first;
	};
	const stopLog = (slot: Slot): void => {
		if (slot.bitmap < 0) return;
		for (const ring of rings()) openDirtyRing(ring).forget(slot.bitmap, bitmapWords(pagesOf(slot)));
		bitmaps.free(slot.bitmap);
	};
	const overlaps = ({ slot, gpa, bytes }: CheckedRegion): boolean => {
		const others = inSpace(slot);
		// The nearest others that begin above the range's first and below its last byte.
		for (let i = firstAbove(others, gpa + bytes - 1) - 1; i >= 0; i--) {
			const other = others[i];
			if (other === undefined || other.id === slot) continue;
			return other.gpa + other.bytes > gpa;
		}
		return false;
	};
	const tableFlags = (flags: number): number => flags | (usesRing() ? SLOT_RING : 0);

	const create = (r: CheckedRegion): number => {
		if (overlaps(r)) return -Errno.EEXIST;
		if (!r.isAddressable) return -Errno.EINVAL;
		const spa = memory.resolve(r.hva, r.bytes);
		if (spa < 0) return -Errno.EINVAL;
		const bitmap = startLog(r.bytes / PAGE_SIZE, r.flags);
		if (bitmap === undefined) return -Errno.ENOMEM;
		const { gpa, bytes, hva } = r;
		const slot: Slot = { gpa, bytes, spa, bitmap, flags: tableFlags(r.flags), id: r.slot, hva };
		memory.pin(spa, bytes);
		list(slot);
		publish(undefined, slot);
		return 0;
	};
	const remove = (slot: Slot): number => {
		publish(invalidate(slot), undefined);
		unlist(slot);
		stopLog(slot);
		memory.unpin(slot.spa, slot.bytes);
		return 0;
	};
	const change = (old: Slot, r: CheckedRegion): number => {
		if (r.bytes !== old.bytes || r.hva !== old.hva) return -Errno.EINVAL;
		const changed = tableFlags(r.flags) ^ old.flags;
		if ((changed & MemFlag.readonly) !== 0) return -Errno.EINVAL;
		const moves = r.gpa !== old.gpa;
		if (!moves && changed === 0) return 0;
		if (moves && overlaps(r)) return -Errno.EEXIST;
		if (moves && !r.isAddressable) return -Errno.EINVAL;
		const logs = (r.flags & MemFlag.logDirtyPages) !== 0;
		const bitmap = logs && old.bitmap >= 0 ? old.bitmap : startLog(pagesOf(old), r.flags);
		if (bitmap === undefined) return -Errno.ENOMEM;
		const slot: Slot = { ...old, gpa: r.gpa, flags: tableFlags(r.flags), bitmap };
		try {
			// A move makes the slot disappear for a moment, as in Linux. Who starts a log needs nobody to have noticed.
			if (moves) publish(invalidate(old), slot);
			else if (bitmap < 0) publishAndWait(old, slot);
			else publish(old, slot);
		} catch (error) {
			if (bitmap >= 0 && bitmap !== old.bitmap) bitmaps.free(bitmap);
			throw error;
		}
		unlist(old);
		list(slot);
		if (bitmap !== old.bitmap) stopLog(old);
		return 0;
	};

	/** The slot whose bitmap an ioctl is about, or the errno. */
	const logging = (id: number): Slot | number => {
		const slot = slots.get(id);
		return slot === undefined || slot.bitmap < 0 ? -Errno.ENOENT : slot;
	};
	const findLog = (id: number): Slot | number => {
		if (usesRing()) return -Errno.ENXIO;
		return isSlotNumber(id) ? logging(id) : -Errno.EINVAL;
	};
	const ringSlots = (): LoggingSlot[] => {
		const found = [...slots.values()].filter((slot) => slot.bitmap >= 0);
		return found.map((slot) => ({ id: slot.id, bitmap: slot.bitmap, words: bitmapWords(pagesOf(slot)) }));
	};
	/** Makes the next store to a page push it again. The arguments are what the VMM left in a ring's entry. */
	const protect = (id: number, page: number): void => {
		const slot = logging(id >>> 0);
		if (typeof slot === 'number' || page >= pagesOf(slot)) return;
		Atomics.and(dirty, slot.bitmap + (page >>> 5), ~(1 << (page & 31)));
	};

	return {
		set: (argument) => {
			const r = checkRegion(argument);
			if (typeof r === 'number') return r;
			const old = slots.get(r.slot);
			if (r.bytes === 0) return old === undefined ? -Errno.EINVAL : remove(old);
			if (!r.isCountable) return -Errno.EINVAL;
			return old === undefined ? create(r) : change(old, r);
		},
		pagesOf: (id) => (slots.get(id)?.bytes ?? 0) / PAGE_SIZE,
		dirtyLogWords: (id) => {
			const slot = findLog(id);
			return typeof slot === 'number' ? slot : bitmapWords(pagesOf(slot));
		},
		getDirtyLog: (id, bitmap) => {
			const slot = findLog(id);
			if (typeof slot === 'number') return slot;
			const get = (manual & Manual.enable) === 0 ? fetchAndClear : fetch;
			return get(dirty, slot.bitmap, bitmapWords(pagesOf(slot)), bitmap);
		},
		clearDirtyLog: ({ slot: id, firstPage, numPages, bitmap }) => {
			if (usesRing()) return -Errno.ENXIO;
			const first = Number(toU64(firstPage) ?? 1);
			if (!isSlotNumber(id) || first % 64 !== 0) return -Errno.EINVAL;
			const slot = logging(id);
			if (typeof slot === 'number') return slot;
			const left = pagesOf(slot) - first;
			if (left < 0 || numPages > left || (numPages < left && numPages % 64 !== 0)) return -Errno.EINVAL;
			return clearBits(dirty, slot.bitmap + first / 32, bitmapWords(numPages), bitmap);
		},
		enableManualProtect: (args0) => {
			const allowed = (args0 & 1n) !== 0n ? Manual.enable | Manual.initiallySet : Manual.enable;
			if ((args0 & ~BigInt(allowed)) !== 0n) return -Errno.EINVAL;
			manual = Number(args0);
			return 0;
		},
		enableDirtyRing: (args0, hasVcpus) => {
			const bytes = checkRingBytes(args0);
			if (bytes < 0) return bytes;
			if (usesRing() || hasVcpus) return -Errno.EINVAL;
			Atomics.store(words, VmWord.dirtyRingBytes, bytes);
			for (const old of [...slots.values()]) {
				// Also a log that began with all bits set is a ring now, which has nothing in it.
				if (old.bitmap >= 0) dirty.fill(0, old.bitmap, old.bitmap + bitmapWords(pagesOf(old)));
				const slot = { ...old, flags: tableFlags(old.flags) };
				publish(old, slot);
				unlist(old);
				list(slot);
			}
			return 0;
		},
		resetDirtyRings: () => {
			if (!usesRing()) return -Errno.EINVAL;
			let count = 0;
			for (const ring of rings()) count += openDirtyRing(ring).reset(protect, ringSlots);
			return count;
		},
		clear: () => {
			for (const slot of [...slots.values()]) {
				publish(slot, undefined);
				unlist(slot);
				stopLog(slot);
				memory.unpin(slot.spa, slot.bytes);
			}
		},
	};
}

/** Index of the first slot that begins above an address. */
function firstAbove(slots: readonly Slot[], gpa: number): number {
	let low = 0;
	let high = slots.length;
	while (low < high) {
		const middle = (low + high) >>> 1;
		if ((slots[middle]?.gpa ?? 0) <= gpa) low = middle + 1;
		else high = middle;
	}
	return low;
}
