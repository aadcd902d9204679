import { Errno } from '../abi/errno.js';
import type { Capability } from '../capabilities.js';
import { isSince } from '../kernel.js';
import type { VmContext } from '../vm/context.js';
import { VmWord } from '../vm/state.js';
import { publishSev } from './init.js';
import { withBothVms } from './lock-pair.js';

/**
 * KVM_CAP_VM_COPY_ENC_CONTEXT_FROM (Linux 5.13 to 6.10 arch/x86/kvm/svm/sev.c): makes a VM the mirror of another. They share
 * the key and the firmware's guest; memslots, vCPUs, MSR filter, capabilities and v12's switch for hypercall 12 stay each VM's
 * own. −EINVAL: the kernel is too old, `vm` is an SEV guest or (since 5.16) has vCPUs, `source` is no SEV guest or a mirror
 * itself; else as {@link withBothVms}.
 *
 * @param source the VM behind the descriptor in `args[0]`; `undefined` if that is none
 */
export function copyEncContextFrom(vm: VmContext, source: VmContext | undefined): number {
	if (!isSince(vm.kernel, '5.13')) return -Errno.EINVAL;
	return withBothVms(vm, source, (from) => {
		if (vm.sev.active || !from.sev.active || from.sev.owner !== undefined) return -Errno.EINVAL;
		if (isSince(vm.kernel, '5.16') && vm.vcpus.size > 0) return -Errno.EINVAL;
		share(vm, from);
		return 0;
	});
}

/** The row of KVM_CAP_VM_COPY_ENC_CONTEXT_FROM. Descriptors are `@cvm/kvm/process`'s: here no number is one. */
export const copyCapability: Capability = {
	check: ({ kernel }) => (isSince(kernel, '5.13') ? 1 : 0),
	enable: (vm) => copyEncContextFrom(vm, undefined),
};

function share(vm: VmContext, { sev: owner }: VmContext): void {
	const { sev: mirror, words, kernel } = vm;
	mirror.active = true;
	mirror.asid = owner.asid;
	mirror.owner = owner;
	owner.mirrors.add(mirror);
	// Before 5.15 a mirror could not command the firmware, and had nothing to do it with.
	if (isSince(kernel, '5.15')) {
		mirror.es = owner.es;
		mirror.handle = owner.handle;
		mirror.hasDevice = owner.hasDevice;
		mirror.isDeviceOpen = owner.isDeviceOpen;
	}
	Atomics.store(words, VmWord.sevNeedInit, 0);
	publishSev(vm);
	Atomics.add(words, VmWord.tlbGeneration, 1);
}
