/*
 * KVM_CAP_DIRTY_LOG_RING (Linux 5.11 on, virt/kvm/dirty_ring.c): every vCPU writes the pages that it dirties into a ring that
 * the VMM has mapped. A page is pushed once; the reset makes its next store push it again.
 */

/** Bytes of struct kvm_dirty_gfn: flags u32@0, slot u32@4 (address space << 16 | id), offset u64@8, in pages. */
export const DIRTY_GFN_BYTES = 16;
/** `kvm_dirty_gfn.flags`: bit 0 set by KVM, bit 1 by the VMM when it has read the entry. */
const DirtyGfnFlag = { dirty: 1, reset: 2 } as const;
/** KVM_DIRTY_RING_MAX_ENTRIES. */
export const DIRTY_RING_MAX_ENTRIES = 65536;
/**
 * KVM_DIRTY_RING_RSVD_ENTRIES: entries that must be free when a vCPU enters the guest, or else KVM_RUN ends in
 * KVM_EXIT_DIRTY_RING_FULL. On AMD nothing is added for a hardware log of dirty pages.
 */
export const DIRTY_RING_RESERVED = 64;

/** Int32 words at the front of a ring's buffer. */
const RingWord = { entries: 0, head: 1, tail: 2, lock: 3, queued: 4 } as const;
const ENTRIES_AT = 4096;
const ENTRY_WORDS = DIRTY_GFN_BYTES / 4;

/** A run of words in the VM's dirty bitmaps and the slot that they belong to. */
export interface LoggingSlot {
	readonly id: number;
	/** First word. */
	readonly bitmap: number;
	readonly words: number;
}

/**
 * The ring of one vCPU. `push` and `isFull` are for its thread, the rest for the thread of the ioctls.
 *
 * DEVIATION(Linux virt/kvm/dirty_ring.c): there, every store that finds a page clean leaves the guest, so that the reserved
 * entries are enough. A block of guest code may dirty any number of pages before it ends: those that find the ring full
 * queue, and enter it at the next KVM_RESET_DIRTY_RINGS; the vCPU does not enter the guest while any queue. So all has
 * been harvested only when a reset of stopped vCPUs returns 0.
 */
export interface DirtyRing {
	/** Notes page `offset` of a slot, whose bit is `bit` of `word` in the VM's bitmaps. */
	push(slot: number, offset: number, word: number, bit: number): void;
	/** Whether KVM_RUN must end in KVM_EXIT_DIRTY_RING_FULL. */
	readonly isFull: boolean;
	/**
	 * Takes back the entries that the VMM has marked and calls `protect` for each; then moves pages from the queue into the ring.
	 *
	 * @returns how many were taken back
	 */
	reset(protect: (slot: number, offset: number) => void, slots: () => Iterable<LoggingSlot>): number;
	/** Drops what queues of a run of the bitmaps: the slot is gone. */
	forget(first: number, words: number): void;
}

/** New ring with room for `bytes` of entries, for a VM whose dirty bitmaps have `bitmapBytes`. */
export function createRingBuffer(bytes: number, bitmapBytes: number): SharedArrayBuffer {
	const buffer = new SharedArrayBuffer(ENTRIES_AT + bytes + bitmapBytes);
	new Int32Array(buffer)[RingWord.entries] = bytes / DIRTY_GFN_BYTES;
	return buffer;
}

/** The entries of a ring: what a VMM maps. */
export const ringEntries = (buffer: SharedArrayBuffer): Uint8Array => {
	const entries = new Int32Array(buffer)[RingWord.entries] ?? 0;
	return new Uint8Array(buffer, ENTRIES_AT, entries * DIRTY_GFN_BYTES);
};

/** Opens a ring, in any thread. */
export function openDirtyRing(buffer: SharedArrayBuffer): DirtyRing {
	const words = new Int32Array(buffer);
	const size = words[RingWord.entries] ?? 0;
	const entries = new Int32Array(buffer, ENTRIES_AT, size * ENTRY_WORDS);
	const queue = new Int32Array(buffer, ENTRIES_AT + size * DIRTY_GFN_BYTES);

	// The vCPU and a reset may both push. Held for a few words, but for a reset that moves a queue.
	const lock = (): void => {
		while (Atomics.compareExchange(words, RingWord.lock, 0, 1) !== 0);
	};
	const unlock = (): void => {
		Atomics.store(words, RingWord.lock, 0);
	};
	const used = (): number => (Atomics.load(words, RingWord.head) - Atomics.load(words, RingWord.tail)) | 0;
	const at = (index: number): number => (index & (size - 1)) * ENTRY_WORDS;

	const write = (slot: number, offset: number): void => {
		const head = Atomics.load(words, RingWord.head);
		const entry = at(head);
		entries[entry + 1] = slot;
		entries[entry + 2] = offset;
		entries[entry + 3] = 0;
		// Last: the VMM reads an entry once it has this flag.
		Atomics.store(entries, entry, DirtyGfnFlag.dirty);
		Atomics.store(words, RingWord.head, (head + 1) | 0);
	};

	/** Moves queued pages of one slot while there is room. */
	const admit = ({ id, bitmap, words: count }: LoggingSlot): void => {
		for (let i = 0; i < count; i++) {
			for (let bits = queue[bitmap + i] ?? 0; bits !== 0; bits &= bits - 1) {
				if (used() >= size) return;
				const bit = bits & -bits;
				write(id, i * 32 + 31 - Math.clz32(bit));
				queue[bitmap + i] = (queue[bitmap + i] ?? 0) & ~bit;
				Atomics.sub(words, RingWord.queued, 1);
			}
		}
	};

	return {
		push: (slot, offset, word, bit) => {
			lock();
			if (used() < size) {
				write(slot, offset);
			} else if (((queue[word] ?? 0) & bit) === 0) {
				queue[word] = (queue[word] ?? 0) | bit;
				Atomics.add(words, RingWord.queued, 1);
			}
			unlock();
		},
		get isFull() {
			return used() >= size - DIRTY_RING_RESERVED || Atomics.load(words, RingWord.queued) > 0;
		},
		reset: (protect, slots) => {
			lock();
			let count = 0;
			// Bounded by what was pushed: the flags are the VMM's to write, also where no entry is.
			for (let left = used(); left > 0; left--) {
				const entry = at(Atomics.load(words, RingWord.tail));
				if ((Atomics.load(entries, entry) & DirtyGfnFlag.reset) === 0) break;
				const slot = entries[entry + 1] ?? 0;
				const offset = (entries[entry + 2] ?? 0) >>> 0;
				const isFar = entries[entry + 3] !== 0;
				Atomics.store(entries, entry, 0);
				Atomics.add(words, RingWord.tail, 1);
				if (!isFar) protect(slot, offset);
				count++;
			}
			if (Atomics.load(words, RingWord.queued) > 0) {
				for (const slot of slots()) admit(slot);
			}
			unlock();
			return count;
		},
		forget: (first, count) => {
			lock();
			for (let i = first; i < first + count; i++) {
				for (let bits = queue[i] ?? 0; bits !== 0; bits &= bits - 1) Atomics.sub(words, RingWord.queued, 1);
				queue[i] = 0;
			}
			unlock();
		},
	};
}

/** The VMM's half of a ring. */
export interface DirtyRingReader {
	/**
	 * Calls `take` with slot number and page of each new entry, oldest first, and marks the entry for KVM_RESET_DIRTY_RINGS. Safe while
	 * the vCPU runs. Reset first, read the pages then: a store in between is pushed again.
	 *
	 * @returns how many there were
	 */
	harvest(take: (slot: number, page: number) => void): number;
}

/** Reads the entries of a ring as a VMM has them mapped. One reader per ring: it remembers where it is. */
export function createRingReader(mapped: Uint8Array): DirtyRingReader {
	const entries = new Int32Array(mapped.buffer, mapped.byteOffset, mapped.length / 4);
	let next = 0;
	return {
		harvest: (take) => {
			let count = 0;
			for (; count < entries.length / ENTRY_WORDS; count++) {
				// Both flags are looked at: an entry that was taken and not yet reset is no new one.
				if (Atomics.load(entries, next) !== DirtyGfnFlag.dirty) break;
				take(entries[next + 1] ?? 0, (entries[next + 2] ?? 0) >>> 0);
				Atomics.store(entries, next, DirtyGfnFlag.dirty | DirtyGfnFlag.reset);
				next = (next + ENTRY_WORDS) % entries.length;
			}
			return count;
		},
	};
}
