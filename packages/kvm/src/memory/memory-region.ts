import { PAGE_SIZE } from '@cvm/layout';
import { USER_MEM_SLOTS } from '../abi/capabilities.js';
import { Errno } from '../abi/errno.js';
import { MemFlag } from '../vm/state.js';
import { DIRTY_GFN_BYTES, DIRTY_RING_MAX_ENTRIES, DIRTY_RING_RESERVED } from './dirty-ring.js';

/** struct kvm_userspace_memory_region as it comes out of its bytes: any u32s and u64s. */
export interface MemoryRegionArgument {
	/** Bits 15:0 id, bits 31:16 address space: 0 normal, 1 SMM. */
	readonly slot: number;
	/** KVM_MEM_LOG_DIRTY_PAGES 1, KVM_MEM_READONLY 2. */
	readonly flags: number;
	readonly guestPhysAddr: number | bigint;
	/** Bytes; 0 deletes the slot. */
	readonly memorySize: number | bigint;
	readonly userspaceAddr: number | bigint;
}

/** A region whose fields are sound by themselves, in numbers. */
export interface CheckedRegion {
	readonly slot: number;
	readonly flags: number;
	readonly gpa: number;
	readonly bytes: number;
	readonly hva: number;
	/** Fewer than 2^31 pages. */
	readonly isCountable: boolean;
	/** Guest-physical addresses that a processor can have. */
	readonly isAddressable: boolean;
}

const PAGE = BigInt(PAGE_SIZE);
/** End of a process's half of the address space, with its guard page: TASK_SIZE_MAX with tables of 4 levels. */
const USER_END = 2n ** 47n - PAGE;
/** KVM_MEM_MAX_NR_PAGES + 1. */
const MAX_PAGES = 2n ** 31n;
/** End of guest-physical memory: no x86 processor has more than 52 bits. */
const GPA_END = 2n ** 52n;
const ADDRESS_SPACES = 2;

/** Address space of a slot number. */
export const spaceOf = (slot: number): number => slot >>> 16;

/** Whether there can be such a slot. */
export const isSlotNumber = (slot: number): boolean =>
	spaceOf(slot) < ADDRESS_SPACES && (slot & 0xffff) < USER_MEM_SLOTS;

/** A u64, or `undefined` for a number that is none. */
export function toU64(value: number | bigint): bigint | undefined {
	if (typeof value === 'number' && !Number.isInteger(value)) return undefined;
	const wide = BigInt(value);
	return wide < 0n || wide >= 2n ** 64n ? undefined : wide;
}

/**
 * The checks of KVM_SET_USER_MEMORY_REGION that need no other slot, in the order and with the u64 arithmetic of Linux 5.12 to
 * 6.1 virt/kvm/kvm_main.c __kvm_set_memory_region. −EINVAL if one fails.
 *
 * DEVIATION(Linux arch/x86/kvm/x86.c kvm_arch_prepare_memory_region): guest-physical addresses must lie below 2^52 in every
 * release; Linux refuses those that the host's processor does not have, also with EINVAL, since about 5.18.
 */
export function checkRegion(r: MemoryRegionArgument): CheckedRegion | number {
	const gpa = toU64(r.guestPhysAddr);
	const bytes = toU64(r.memorySize);
	const hva = toU64(r.userspaceAddr);
	if (gpa === undefined || bytes === undefined || hva === undefined) return -Errno.EINVAL;
	if ((r.flags & ~(MemFlag.logDirtyPages | MemFlag.readonly)) !== 0) return -Errno.EINVAL;
	if (bytes % PAGE !== 0n || gpa % PAGE !== 0n) return -Errno.EINVAL;
	if (hva % PAGE !== 0n || hva + bytes > USER_END) return -Errno.EINVAL;
	if (!isSlotNumber(r.slot)) return -Errno.EINVAL;
	const end = gpa + bytes;
	if (end >= 2n ** 64n) return -Errno.EINVAL;
	return {
		slot: r.slot >>> 0,
		flags: r.flags,
		gpa: Number(gpa),
		bytes: Number(bytes),
		hva: Number(hva),
		isCountable: bytes / PAGE < MAX_PAGES,
		isAddressable: end <= GPA_END,
	};
}

/**
 * The size of a dirty ring, from args[0] of KVM_ENABLE_CAP, or the errno (Linux virt/kvm/kvm_main.c
 * kvm_vm_ioctl_enable_dirty_log_ring). UNCERTAIN(Linux virt/kvm/kvm_main.c): that the upper half of args[0] is ignored.
 */
export function checkRingBytes(args0: bigint): number {
	const bytes = Number(BigInt.asUintN(32, args0));
	const isPowerOfTwo = bytes !== 0 && (bytes & (bytes - 1)) === 0;
	if (!isPowerOfTwo) return -Errno.EINVAL;
	if (bytes < PAGE_SIZE || bytes < DIRTY_RING_RESERVED * DIRTY_GFN_BYTES) return -Errno.EINVAL;
	return bytes > DIRTY_RING_MAX_ENTRIES * DIRTY_GFN_BYTES ? -Errno.E2BIG : bytes;
}
