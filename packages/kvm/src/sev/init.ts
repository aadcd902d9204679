import { Errno } from '../abi/errno.js';
import { VmType } from '../abi/vm-type.js';
import { fails, SEV_OK, type SevResult } from '../ccp/sev-device.js';
import { isSince, type Kernel } from '../kernel.js';
import type { VmContext } from '../vm/context.js';
import { VmWord } from '../vm/state.js';
import type { Argument } from './handlers/argument.js';

/** `struct kvm_sev_init`: what KVM_SEV_INIT2 wants. */
export interface SevInit2 {
	/** SEV_FEATURES of the save areas: a subset of what KVM_X86_SEV_VMSA_FEATURES reports; 0 for a guest without SEV-ES. */
	readonly vmsaFeatures: bigint;
	/** 0. */
	readonly flags: number;
	/** Highest version of the GHCB protocol: 1, 2, or 0 = the kernel's default, 2; 0 for a guest without SEV-ES. */
	readonly ghcbVersion: number;
}

/** GHCB_VERSION_MIN: all that KVM_SEV_ES_INIT offers. */
export const GHCB_VERSION_MIN = 1;
/** GHCB_VERSION_DEFAULT and GHCB_VERSION_MAX. */
const GHCB_VERSION_MAX = 2;
/** SVM_SEV_FEAT_DEBUG_SWAP: DR0 … DR3 and their masks are in the save area. */
const VMSA_DEBUG_SWAP = 1n << 5n;

/**
 * sev_supported_vmsa_features: what KVM_SEV_INIT2 takes.
 *
 * UNCERTAIN(AMD64 APM volume 3, Fn8000_001F): debug swap is CPUID EAX bit 14, and which generations have it could not be
 * read. Here every machine with SEV-ES has it, and kvm_amd.debug_swap is on.
 */
export const supportedVmsaFeatures = (kernel: Kernel, hasSevEs: boolean): bigint =>
	hasSevEs && isSince(kernel, '6.10') ? VMSA_DEBUG_SWAP : 0n;

/**
 * KVM_SEV_INIT and KVM_SEV_ES_INIT: sev_guest_init of Linux 5.12 to 6.10 arch/x86/kvm/svm/sev.c. In order: −ENOTTY without
 * SEV-ES; −EINVAL for a VM of a SEV type (6.10) and with vCPUs (since 5.13); −EBUSY, since 6.10 −EINVAL, the second time;
 * −ENOTTY if the machine has no such ASIDs (since 6.10; before −EBUSY); −EBUSY if none is free even after a recycling; what
 * the platform's INIT answers. SEV-ES guests use the GHCB protocol's version 1. That they need an in-kernel interrupt
 * controller is their VMM's rule (QEMU's `sev_guest_init`): KVM does not check it.
 *
 * DEVIATION(Linux 5.12): a failing KVM_SEV_ES_INIT left es_active set, so that a SEV guest became a SEV-ES one by half.
 */
export function sevInit(vm: VmContext, es: boolean): SevResult {
	if (es && !vm.host.hasSevEs) return fails(Errno.ENOTTY);
	if (vm.type !== VmType.DEFAULT) return fails(Errno.EINVAL);
	return initGuest(vm, es, 0n, es ? GHCB_VERSION_MIN : 0);
}

/**
 * KVM_SEV_INIT2 (Linux 6.10): −EINVAL for a VM that was not created with a SEV type, or the second time; −EFAULT; −EINVAL
 * with vCPUs, for a flag, for an unsupported feature, for a version above 2 or, without SEV-ES, any; then as `sevInit`.
 */
export function sevInit2(vm: VmContext, argument: Argument<SevInit2>): SevResult {
	const { words, type, host } = vm;
	// The only id of the model that older kernels do not have.
	if (!isSince(vm.kernel, '6.10') || Atomics.load(words, VmWord.sevNeedInit) === 0) return fails(Errno.EINVAL);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { vmsaFeatures, flags, ghcbVersion } = input;
	const es = type !== VmType.SEV;
	if (vm.vcpus.size > 0 || flags !== 0) return fails(Errno.EINVAL);
	if ((vmsaFeatures & ~(es ? host.vmsaFeatures : 0n)) !== 0n) return fails(Errno.EINVAL);
	if (ghcbVersion > GHCB_VERSION_MAX || (!es && ghcbVersion !== 0)) return fails(Errno.EINVAL);
	const result = initGuest(vm, es, vmsaFeatures, es && ghcbVersion === 0 ? GHCB_VERSION_MAX : ghcbVersion);
	if (result.ret === 0) Atomics.store(words, VmWord.sevNeedInit, 0);
	return result;
}

/** __sev_guest_init. */
function initGuest(vm: VmContext, es: boolean, vmsaFeatures: bigint, ghcbVersion: number): SevResult {
	const { sev, kernel, host } = vm;
	const isNew = isSince(kernel, '6.10');
	if (isSince(kernel, '5.13') && vm.vcpus.size > 0) return fails(Errno.EINVAL);
	if (sev.active) return fails(isNew ? Errno.EINVAL : Errno.EBUSY);
	const asids = es ? host.esAsids : host.asids;
	if (asids.capacity === 0 && isNew) return fails(Errno.ENOTTY);
	const asid = asids.allocate();
	if (asid === 0) return fails(Errno.EBUSY);
	const ready = sev.driver.platformInit();
	if (ready.ret !== 0) {
		asids.release(asid);
		return ready;
	}
	sev.active = true;
	sev.es = es;
	sev.asid = asid;
	sev.vmsaFeatures = vmsaFeatures;
	sev.ghcbVersion = ghcbVersion;
	Atomics.store(vm.words, VmWord.pageEncHcEnable, kernel.abi === 'v12' ? 1 : 0);
	publishSev(vm);
	return SEV_OK;
}

/** Tells the vCPU threads what the VM's encryption context is now: after INIT, a copy, a move, and at the end. */
export function publishSev({ words, sev }: VmContext): void {
	const { active, asid, es, ghcbVersion, vmsaFeatures } = sev;
	Atomics.store(words, VmWord.asid, active ? asid : 0);
	Atomics.store(words, VmWord.sevEs, active && es ? 1 : 0);
	Atomics.store(words, VmWord.ghcbVersion, active ? ghcbVersion : 0);
	Atomics.store(words, VmWord.sevFeatures, active ? Number(BigInt.asIntN(32, vmsaFeatures)) : 0);
	Atomics.store(words, VmWord.sevActive, active ? 1 : 0);
}
