/**
 * Threads share DRAM, and a 16-byte block is readable only as a whole: half an old and half a new ciphertext decrypt to
 * noise. Real memory controllers move whole cache lines; these sequence locks, one for every 4096th page, do the same
 * here. A lock's word is odd while somebody writes.
 */
const LOCKS = 4096;
/** After so many looks at an unchanged odd word its owner is taken for dead: a thread that was ended while it wrote. */
const PATIENCE = 1 << 24;

/** Memory for the locks of one DRAM. */
export const allocatePageLocks = (): SharedArrayBuffer => new SharedArrayBuffer(LOCKS * 4);

export interface PageLocks {
	/** Takes the lock of the page that holds `spa` and returns what `release` wants. */
	acquire(spa: number): number;
	release(lock: number): void;
	/** Waits until nobody writes to the page and returns a ticket. */
	ticket(spa: number): number;
	/** Whether nobody wrote to the page since the ticket was given. */
	isUnchanged(spa: number, ticket: number): boolean;
}

export function openPageLocks(memory: SharedArrayBuffer): PageLocks {
	const words = new Int32Array(memory);
	const lockOf = (spa: number) => Math.floor(spa / 4096) % LOCKS;
	/** An even value of the word, or the odd one of an owner that has died. */
	const settled = (lock: number): number => {
		let value = Atomics.load(words, lock);
		for (let looks = 0; value % 2 !== 0 && looks < PATIENCE; looks++) {
			const now = Atomics.load(words, lock);
			if (now !== value) looks = 0;
			value = now;
		}
		return value;
	};
	return {
		acquire: (spa) => {
			const lock = lockOf(spa);
			for (;;) {
				const value = settled(lock);
				const taken = value % 2 === 0 ? value + 1 : value + 2;
				if (Atomics.compareExchange(words, lock, value, taken | 0) === value) return lock;
			}
		},
		release: (lock) => {
			Atomics.add(words, lock, 1);
		},
		ticket: (spa) => settled(lockOf(spa)),
		isUnchanged: (spa, ticket) => Atomics.load(words, lockOf(spa)) === ticket,
	};
}
