import { Cap, EXIT_HYPERCALL_VALID_MASK, MsrExitReason, USER_MEM_SLOTS } from './abi/capabilities.js';
import { Errno } from './abi/errno.js';
import type { KvmAbi } from './abi/generation.js';
import { VmWord } from './vm-state.js';

/** KVM_CHECK_EXTENSION: 0 = not there. KVM_CAP_EXIT_HYPERCALL answers with the mask that it takes. */
export function checkExtension(abi: KvmAbi, cap: number): number {
	switch (cap) {
		case Cap.NR_MEMSLOTS:
			return USER_MEM_SLOTS;
		case Cap.X86_USER_SPACE_MSR:
		case Cap.X86_MSR_FILTER:
			return 1;
		case Cap.EXIT_HYPERCALL:
			return abi === 'upstream' ? EXIT_HYPERCALL_VALID_MASK : 0;
		default:
			return 0;
	}
}

const MSR_EXIT_VALID_MASK = BigInt(MsrExitReason.INVAL | MsrExitReason.UNKNOWN | MsrExitReason.FILTER);

/** KVM_ENABLE_CAP on a VM: −EINVAL for an unknown capability or an unknown bit in its mask. The last call wins. */
export function enableCap(words: Int32Array, abi: KvmAbi, cap: number, args: readonly bigint[]): number {
	const mask = args[0] ?? 0n;
	if (cap === Cap.X86_USER_SPACE_MSR) return enable(words, VmWord.msrExitMask, mask, MSR_EXIT_VALID_MASK);
	if (cap === Cap.EXIT_HYPERCALL && abi === 'upstream') {
		return enable(words, VmWord.exitHypercallMask, mask, BigInt(EXIT_HYPERCALL_VALID_MASK));
	}
	return -Errno.EINVAL;
}

function enable(words: Int32Array, word: number, mask: bigint, valid: bigint): number {
	if ((mask & ~valid) !== 0n) return -Errno.EINVAL;
	Atomics.store(words, word, Number(mask));
	return 0;
}
