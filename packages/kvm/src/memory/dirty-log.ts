import { Errno } from '../abi/errno.js';

/** Words of 32 pages in a slot's bitmap: KVM rounds it up to whole u64s. */
export const bitmapWords = (pages: number): number => 2 * Math.ceil(pages / 64);

/** Room for the dirty bitmaps of a VM's slots, in words of one shared array. */
export interface BitmapSpace {
	/** First word of a cleared run, or −1 if none is free. */
	allocate(words: number): number;
	free(first: number): void;
}

/** Hands out runs of `total` words, first fit. */
export function createBitmapSpace(dirty: Int32Array): BitmapSpace {
	const runs: { first: number; words: number }[] = [];
	return {
		allocate: (words) => {
			let first = 0;
			let index = 0;
			for (const run of runs) {
				if (first + words <= run.first) break;
				first = run.first + run.words;
				index++;
			}
			if (first + words > dirty.length) return -1;
			runs.splice(index, 0, { first, words });
			dirty.fill(0, first, first + words);
			return first;
		},
		free: (first) => {
			const index = runs.findIndex((run) => run.first === first);
			if (index >= 0) runs.splice(index, 1);
		},
	};
}

/** Sets the bits of the first `pages` pages of a run that no vCPU knows yet: KVM_DIRTY_LOG_INITIALLY_SET. */
export function setAll(dirty: Int32Array, first: number, pages: number): void {
	dirty.fill(-1, first, first + (pages >>> 5));
	if ((pages & 31) !== 0) dirty[first + (pages >>> 5)] = (1 << (pages & 31)) - 1;
}

/**
 * KVM_GET_DIRTY_LOG without manual protection: moves a slot's bits to `out` and clears them. Safe while vCPUs run: a page
 * whose bit was taken is read later than the store that set it.
 *
 * @returns 0, or −EFAULT if `out` has not `words` words; nothing is cleared then
 */
export function fetchAndClear(dirty: Int32Array, first: number, words: number, out: Uint32Array): number {
	if (out.length < words) return -Errno.EFAULT;
	out.fill(0, 0, words);
	for (let i = 0; i < words; i++) {
		// Most words of a settled guest are zero, and an exchange would take the cache line from the vCPUs each time. This read is
		// no atomic one, which would cost more than all the rest: a bit that it comes too early for stays for the next harvest.
		if (dirty[first + i] !== 0) out[i] = Atomics.exchange(dirty, first + i, 0);
	}
	return 0;
}

/** KVM_GET_DIRTY_LOG with manual protection: copies a slot's bits to `out`. @returns 0 or −EFAULT as `fetchAndClear` */
export function fetch(dirty: Int32Array, first: number, words: number, out: Uint32Array): number {
	if (out.length < words) return -Errno.EFAULT;
	// Not atomic, as above.
	out.set(dirty.subarray(first, first + words));
	return 0;
}

/**
 * KVM_CLEAR_DIRTY_LOG: clears the bits that are set in `bits`. Safe while vCPUs run, for a page that is read afterwards.
 *
 * @returns 0, or −EFAULT if `bits` has not `words` words; nothing is cleared then
 */
export function clearBits(dirty: Int32Array, first: number, words: number, bits: Uint32Array): number {
	if (bits.length < words) return -Errno.EFAULT;
	for (let i = 0; i < words; i++) {
		const mask = bits[i] ?? 0;
		if (((dirty[first + i] ?? 0) & mask) !== 0) Atomics.and(dirty, first + i, ~mask);
	}
	return 0;
}
