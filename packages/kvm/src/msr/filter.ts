import { MsrFilterDefault } from '../abi/capabilities.js';
import { Errno } from '../abi/errno.js';
import { MAX_BITMAP_BYTES, MAX_RANGES, storeMsrFilter } from './filter-state.js';

/** struct kvm_msr_filter. */
export interface MsrFilter {
	/** KVM_MSR_FILTER_DEFAULT_*: what holds for MSRs in no range. */
	readonly flags: number;
	/** At most 16; a range with `nmsrs` 0 is ignored. */
	readonly ranges: readonly {
		/** 1 = reads, 2 = writes. */
		readonly flags: number;
		readonly nmsrs: number;
		readonly base: number;
		/** 8·⌈nmsrs/64⌉ bytes, LSB first; 1 = allow. */
		readonly bitmap: Uint8Array;
	}[];
}

const READ_WRITE = 3;

/** KVM_X86_SET_MSR_FILTER with the checks of Linux 6.1 arch/x86/kvm/x86.c, in its order. Replaces the whole filter. */
export function setMsrFilter(words: Int32Array, { flags, ranges }: MsrFilter): number {
	const deny = flags === MsrFilterDefault.DENY;
	if ((flags & ~MsrFilterDefault.DENY) !== 0 || ranges.length > MAX_RANGES) return -Errno.EINVAL;
	const used = ranges.filter((range) => range.nmsrs !== 0);
	if (used.length === 0 && deny) return -Errno.EINVAL;
	for (const range of used) {
		if (range.flags === 0 || (range.flags & ~READ_WRITE) !== 0) return -Errno.EINVAL;
		const size = 8 * Math.ceil(range.nmsrs / 64);
		if (size > MAX_BITMAP_BYTES) return -Errno.EINVAL;
		if (range.bitmap.length < size) return -Errno.EFAULT;
	}
	const sized = used.map((range) => ({ ...range, bitmap: range.bitmap.subarray(0, 8 * Math.ceil(range.nmsrs / 64)) }));
	storeMsrFilter(words, { deny, ranges: sized });
	return 0;
}
