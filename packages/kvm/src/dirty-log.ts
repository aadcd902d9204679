import { Errno } from './abi/errno.js';

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
			for (let i = first; i < first + words; i++) Atomics.store(dirty, i, 0);
			return first;
		},
		free: (first) => {
			const index = runs.findIndex((run) => run.first === first);
			if (index >= 0) runs.splice(index, 1);
		},
	};
}

/**
 * KVM_GET_DIRTY_LOG without manual protection: moves a slot's bits to `out` and clears them. Safe while vCPUs run: a page
 * whose bit was taken is read later than the store that set it.
 *
 * @returns 0, or −EFAULT if `out` has not `words` words; nothing is cleared then
 */
export function fetchAndClear(dirty: Int32Array, first: number, words: number, out: Uint32Array): number {
	if (out.length < words) return -Errno.EFAULT;
	for (let i = 0; i < words; i++) {
		// Most words of a settled guest are zero, and an exchange would take the cache line from the vCPUs each time.
		out[i] = Atomics.load(dirty, first + i) === 0 ? 0 : Atomics.exchange(dirty, first + i, 0);
	}
	return 0;
}
