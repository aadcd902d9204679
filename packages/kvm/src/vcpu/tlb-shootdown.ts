import { MAX_VCPUS, type VmState, VmWord } from '../vm/state.js';

/**
 * The VM's TLB generation, as one vCPU keeps up with it. A vCPU takes on a new generation between two blocks and when it
 * enters the guest; one that asks for a new generation waits until all that are in the guest have done so. So a block runs
 * under one set of translations, as if interrupts were off, and none that is older survives `shootDown`.
 */
export interface TlbShootdown {
	/** The vCPU goes into the guest. */
	enter(): void;
	/** The vCPU leaves the guest: others need not wait for it. */
	leave(): void;
	/** Takes on the current generation. */
	sync(): void;
	/** Starts a new generation and waits for the other vCPUs. */
	shootDown(): void;
}

/** `flush` forgets this vCPU's translations. */
export function createTlbShootdown(vm: VmState, index: number, flush: () => void): TlbShootdown {
	const { words } = vm;
	let seen = -1;
	const sync = (): void => {
		const generation = Atomics.load(words, VmWord.tlbGeneration);
		if (generation === seen) return;
		flush();
		seen = generation;
		Atomics.store(words, VmWord.tlbSeen + index, generation);
	};
	return {
		enter: () => {
			Atomics.store(words, VmWord.running + index, 1);
			sync();
		},
		leave: () => {
			Atomics.store(words, VmWord.running + index, 0);
		},
		sync,
		shootDown: () => {
			const generation = vm.bumpTlbGeneration();
			sync();
			for (let other = 0; other < MAX_VCPUS; other++) {
				if (other === index) continue;
				while (
					Atomics.load(words, VmWord.running + other) === 1 &&
					((Atomics.load(words, VmWord.tlbSeen + other) - generation) | 0) < 0
				) {
					// The other may be waiting for this one.
					sync();
				}
			}
		},
	};
}
