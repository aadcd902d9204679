import { VmWord } from '../vm/words.js';

/** Ranges of a filter: KVM_MSR_FILTER_MAX_RANGES. */
export const MAX_RANGES = 16;
/** Bytes of a range's bitmap: KVM_MSR_FILTER_MAX_BITMAP_SIZE. */
export const MAX_BITMAP_BYTES = 0x600;

const RANGE_WORDS = 4;
const READ = 1;
const WRITE = 2;

/** A filter that passed the checks of KVM_X86_SET_MSR_FILTER: no empty ranges. */
export interface StoredMsrFilter {
	readonly deny: boolean;
	readonly ranges: readonly {
		readonly flags: number;
		readonly base: number;
		readonly nmsrs: number;
		/** Whole u64s, LSB first; 1 = allow. */
		readonly bitmap: Uint8Array;
	}[];
}

/** Replaces the filter in the words of a VM; readers see the old or the new one, never a mixture. */
export function storeMsrFilter(words: Int32Array, filter: StoredMsrFilter): void {
	Atomics.add(words, VmWord.msrFilterGeneration, 1);
	Atomics.store(words, VmWord.msrFilterDeny, filter.deny ? 1 : 0);
	Atomics.store(words, VmWord.msrFilterCount, filter.ranges.length);
	for (const [i, range] of filter.ranges.entries()) {
		const at = VmWord.msrRanges + i * RANGE_WORDS;
		Atomics.store(words, at, range.flags);
		Atomics.store(words, at + 1, range.base | 0);
		Atomics.store(words, at + 2, range.nmsrs);
		const first = VmWord.msrBitmaps + (i * MAX_BITMAP_BYTES) / 4;
		new Uint8Array(words.buffer, words.byteOffset + first * 4, MAX_BITMAP_BYTES).set(range.bitmap);
	}
	Atomics.add(words, VmWord.msrFilterGeneration, 1);
}

/** Linux 5.12 arch/x86/kvm/x86.c kvm_msr_allowed: x2APIC is exempt, the first matching range decides, else the default. */
export function isMsrAllowed(words: Int32Array, index: number, access: 'read' | 'write'): boolean {
	if (index >= 0x800 && index <= 0x8ff) return true;
	for (;;) {
		const before = Atomics.load(words, VmWord.msrFilterGeneration);
		if ((before & 1) !== 0) continue;
		const allowed = lookUp(words, index >>> 0, access === 'read' ? READ : WRITE);
		if (Atomics.load(words, VmWord.msrFilterGeneration) === before) return allowed;
	}
}

function lookUp(words: Int32Array, index: number, flag: number): boolean {
	const count = Atomics.load(words, VmWord.msrFilterCount);
	for (let i = 0; i < count; i++) {
		const at = VmWord.msrRanges + i * RANGE_WORDS;
		const bit = index - (Atomics.load(words, at + 1) >>> 0);
		if (bit < 0 || bit >= Atomics.load(words, at + 2) || (Atomics.load(words, at) & flag) === 0) continue;
		const word = VmWord.msrBitmaps + (i * MAX_BITMAP_BYTES) / 4 + (bit >>> 5);
		return ((Atomics.load(words, word) >>> (bit & 31)) & 1) === 1;
	}
	return Atomics.load(words, VmWord.msrFilterDeny) === 0;
}
