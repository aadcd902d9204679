import { MAX_VCPUS } from './state.js';
import { VmWord } from './words.js';

/** Looks at a vCPU before the waiting thread goes to sleep: most blocks of guest code are shorter than a sleep. */
const SPINS = 2000;
/** Milliseconds of one sleep. */
const NAP = 1;

/**
 * Waits until every vCPU that is in the guest has taken on a TLB generation: none of them holds an older translation or is in
 * a block that began with one. This is what `synchronize_srcu` is to memslots in Linux. A vCPU that is outside of the guest,
 * in whatever thread, is not waited for: it takes the generation on when it enters.
 *
 * @returns false after `patience` milliseconds: a vCPU's thread is stuck in a block, or is the one that waits here
 */
export const awaitTlbGeneration = (words: Int32Array, generation: number, patience: number): boolean =>
	awaitEach(words, patience, VmWord.tlbSeen, (seen) => ((seen - generation) | 0) >= 0);

/**
 * Waits until no vCPU is in the guest. Whoever calls this has seen to it that none comes back: `VmWord.dead`.
 *
 * @returns as {@link awaitTlbGeneration}
 */
export const awaitNobody = (words: Int32Array, patience: number): boolean =>
	awaitEach(words, patience, VmWord.running, () => false);

/** Waits for each vCPU to be outside of the guest, or until its word from `watched` on is as wanted. */
function awaitEach(words: Int32Array, patience: number, watched: number, isDone: (value: number) => boolean): boolean {
	let naps = 0;
	for (let index = 0; index < MAX_VCPUS; index++) {
		for (let looks = 0; ; looks++) {
			const value = Atomics.load(words, watched + index);
			if (Atomics.load(words, VmWord.running + index) === 0 || isDone(value)) break;
			if (looks < SPINS) continue;
			if (naps >= patience) return false;
			nap(words, watched + index, value);
			naps++;
		}
	}
	return true;
}

/** Sleeps unless the word has changed already. */
function nap(words: Int32Array, index: number, value: number): void {
	try {
		Atomics.wait(words, index, value, NAP);
	} catch {
		// The main thread of a browser must not sleep: it spins about as long.
		for (let i = 0; i < 100_000 && Atomics.load(words, index) === value; i++);
	}
}
