import { Errno } from '../abi/errno.js';
import { isSince } from '../kernel.js';
import type { VmContext } from '../vm/context.js';

/**
 * Does something with two VMs of one host while no other copy or move may touch them: sev_lock_two_vms of Linux
 * arch/x86/kvm/svm/sev.c. −EBADF: the source is not an open VM of this host. −EINVAL: it is the destination. −EBUSY (since 5.16):
 * one of them is in the middle of a copy or a move; the destination is asked first.
 *
 * DEVIATION(Linux): the locks themselves are free, as ioctls of one host do not overlap, so nothing waits and nothing is −EINTR.
 */
export function withBothVms(
	vm: VmContext,
	source: VmContext | undefined,
	action: (source: VmContext) => number,
): number {
	if (source === undefined || source.sev.closed || source.host.driver !== vm.host.driver) return -Errno.EBADF;
	if (source === vm) return -Errno.EINVAL;
	if (!isSince(vm.kernel, '5.16')) return action(source);
	if (vm.sev.migrating || source.sev.migrating) return -Errno.EBUSY;
	vm.sev.migrating = true;
	source.sev.migrating = true;
	try {
		return action(source);
	} finally {
		vm.sev.migrating = false;
		source.sev.migrating = false;
	}
}
