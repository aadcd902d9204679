import { VmWord } from '../vm/words.js';

/** Doubles per entry of the shared memslot table, see {@link SlotEntry}; the entries are sorted by guest-physical address. */
export const SLOT_DOUBLES = 6;

/**
 * KVM_MEMSLOT_INVALID, bit 16 of a slot's flags: the slot is on its way out. Nothing translates through it any more, but
 * what a vCPU stored by an older translation is still logged (Linux include/linux/kvm_host.h).
 */
export const SLOT_INVALID = 1 << 16;
/** PROJECT: the slot logs to the rings of vCPUs. A store by anyone else is not noted, as in Linux, which warns of it. */
export const SLOT_RING = 1 << 17;

/** One entry of the table that vCPU threads read. */
export interface SlotEntry {
	/** Guest-physical address. */
	readonly gpa: number;
	readonly bytes: number;
	/** System-physical address. */
	readonly spa: number;
	/** First word of the dirty bitmap; −1 while the slot does not log. */
	readonly bitmap: number;
	/** KVM_MEM_*, {@link SLOT_INVALID}, {@link SLOT_RING}. */
	readonly flags: number;
	/** Slot number with its address space, as dirty-ring entries name it. */
	readonly id: number;
}

/**
 * Index of the first entry that begins above `gpa`; the one before it is the only one that may hold `gpa`. O(log n): a guest
 * may have thousands of slots.
 */
export function entryAbove(slots: Float64Array, count: number, gpa: number): number {
	let low = 0;
	let high = count;
	while (low < high) {
		const middle = (low + high) >>> 1;
		if ((slots[middle * SLOT_DOUBLES] ?? 0) <= gpa) low = middle + 1;
		else high = middle;
	}
	return low;
}

/**
 * Takes `old` out of the table and puts `next` in, as one step for every reader, and starts a new TLB generation. Only the
 * thread of the ioctls may do this.
 *
 * @returns the new TLB generation
 */
export function replaceSlot(
	{ words, slots }: { readonly words: Int32Array; readonly slots: Float64Array },
	old: SlotEntry | undefined,
	next: SlotEntry | undefined,
): number {
	Atomics.add(words, VmWord.slotGeneration, 1);
	let count = words[VmWord.slotCount] ?? 0;
	if (old !== undefined) {
		const after = entryAbove(slots, count, old.gpa) * SLOT_DOUBLES;
		slots.copyWithin(after - SLOT_DOUBLES, after, count * SLOT_DOUBLES);
		count--;
	}
	if (next !== undefined) {
		const at = entryAbove(slots, count, next.gpa) * SLOT_DOUBLES;
		slots.copyWithin(at + SLOT_DOUBLES, at, count * SLOT_DOUBLES);
		slots.set([next.gpa, next.bytes, next.spa, next.bitmap, next.flags, next.id], at);
		count++;
	}
	Atomics.store(words, VmWord.slotCount, count);
	Atomics.add(words, VmWord.slotGeneration, 1);
	return Atomics.add(words, VmWord.tlbGeneration, 1) + 1;
}
