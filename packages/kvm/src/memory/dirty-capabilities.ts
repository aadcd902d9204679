import { Errno } from '../abi/errno.js';
import { isSince } from '../kernel.js';
import type { VmContext, VmHost } from '../vm/context.js';
import { DIRTY_GFN_BYTES, DIRTY_RING_MAX_ENTRIES } from './dirty-ring.js';

/** KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET. */
const MANUAL_CAPS = 3;
/** Bytes of the largest ring. */
const RING_BYTES = DIRTY_RING_MAX_ENTRIES * DIRTY_GFN_BYTES;

const enableRing = (vm: VmContext, [bytes = 0n]: readonly bigint[]): number =>
	vm.memslots.enableDirtyRing(bytes, vm.vcpus.size > 0);

/** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const manualProtectCapability = {
	check: () => MANUAL_CAPS,
	enable: (vm: VmContext, [mask = 0n]: readonly bigint[]): number => vm.memslots.enableManualProtect(mask),
};

/** KVM_CAP_DIRTY_LOG_RING. */
export const dirtyRingCapability = { check: () => RING_BYTES, enable: enableRing };

/** KVM_CAP_DIRTY_LOG_RING_ACQ_REL, from 6.1 on: the same on x86, whose stores are ordered. */
export const dirtyRingAcqRelCapability = {
	check: ({ kernel }: VmHost): number => (isSince(kernel, '6.1') ? RING_BYTES : 0),
	enable: (vm: VmContext, args: readonly bigint[]): number =>
		isSince(vm.kernel, '6.1') ? enableRing(vm, args) : -Errno.EINVAL,
};
