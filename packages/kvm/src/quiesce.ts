import { MAX_VCPUS } from './vm-state.js';
import { VmWord } from './vm-words.js';

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
export function awaitTlbGeneration(words: Int32Array, generation: number, patience: number): boolean {
	let naps = 0;
	for (let index = 0; index < MAX_VCPUS; index++) {
		for (let looks = 0; ; looks++) {
			const seen = Atomics.load(words, VmWord.tlbSeen + index);
			if (Atomics.load(words, VmWord.running + index) === 0 || ((seen - generation) | 0) >= 0) break;
			if (looks < SPINS) continue;
			if (naps >= patience) return false;
			nap(words, VmWord.tlbSeen + index, seen);
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
