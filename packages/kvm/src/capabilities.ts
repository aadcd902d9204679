import {
	Cap,
	EXIT_HYPERCALL_VALID_MASK,
	KVM_X86_DISABLE_VALID_EXITS,
	MsrExitReason,
	type Quirk,
	USER_MEM_SLOTS,
} from './abi/capabilities.js';
import { Errno } from './abi/errno.js';
import { isSince, type Kernel } from './kernel.js';
import {
	dirtyRingAcqRelCapability,
	dirtyRingCapability,
	manualProtectCapability,
} from './memory/dirty-capabilities.js';
import { copyCapability } from './sev/copy.js';
import { moveCapability } from './sev/move.js';
import type { VmContext, VmHost } from './vm/context.js';
import { VmWord } from './vm/state.js';
import { smmCapability, sysAttributesCapability, vmTypesCapability } from './vm/types.js';
import { VcpuWord } from './vm/vcpu-state.js';

/** One KVM_CAP_*: what KVM_CHECK_EXTENSION answers and what KVM_ENABLE_CAP does. */
export interface Capability {
	/** KVM_CHECK_EXTENSION: 0 = not there. `vm` is absent if /dev/kvm was asked. */
	check(host: VmHost, vm?: VmContext): number;
	/** KVM_ENABLE_CAP on a VM: 0 or −errno. Without it the capability needs no enabling: −EINVAL. */
	enable?(vm: VmContext, args: readonly bigint[]): number;
	/** KVM_ENABLE_CAP on a vCPU, of which it gets the words (`VcpuWord`): 0 or −errno. */
	enableVcpu?(words: Int32Array, args: readonly bigint[]): number;
}

const isUpstream = ({ kernel }: VmHost): boolean => kernel.abi === 'upstream';
const always = { check: () => 1 } satisfies Capability;

/** KVM_CHECK_EXTENSION(KVM_CAP_DISABLE_QUIRKS2): the quirks that a kernel can be told to leave (from 5.18 on). */
const validQuirks = (kernel: Kernel): number => {
	if (kernel.abi !== 'upstream' || !isSince(kernel, '5.18')) return 0;
	return isSince(kernel, '6.1') ? 0x7f : 0x3f;
};

/** Stores a mask if it has no bit outside of `valid`; the last call wins. */
function storeMask(vm: VmContext, word: number, mask: bigint, valid: number): number {
	if ((mask & ~BigInt(valid)) !== 0n) return -Errno.EINVAL;
	Atomics.store(vm.words, word, Number(mask));
	return 0;
}

/**
 * Linux 5.12 to 6.10 arch/x86/kvm/x86.c kvm_vm_ioctl_check_extension, kvm_vm_ioctl_enable_cap, kvm_vcpu_ioctl_enable_cap.
 * One row per capability; what is not here answers 0 and −EINVAL.
 */
const CAPABILITIES: ReadonlyMap<number, Capability> = new Map<number, Capability>([
	[Cap.NR_MEMSLOTS, { check: () => USER_MEM_SLOTS }],
	[Cap.ENABLE_CAP_VM, always],
	[Cap.MANUAL_DIRTY_LOG_PROTECT2, manualProtectCapability],
	[Cap.DIRTY_LOG_RING, dirtyRingCapability],
	[Cap.DIRTY_LOG_RING_ACQ_REL, dirtyRingAcqRelCapability],
	[
		Cap.DISABLE_QUIRKS,
		{
			check: () => 1,
			// The old form takes any mask.
			enable: (vm, [mask = 0n]) => {
				Atomics.store(vm.words, VmWord.disabledQuirks, Number(BigInt.asIntN(32, mask)));
				return 0;
			},
		},
	],
	[
		Cap.X86_DISABLE_EXITS,
		{
			check: () => KVM_X86_DISABLE_VALID_EXITS,
			/** UNCERTAIN(Linux arch/x86/kvm/x86.c): which release began to refuse it once there are vCPUs. */
			enable: (vm, [mask = 0n]) => {
				if ((mask & ~BigInt(KVM_X86_DISABLE_VALID_EXITS)) !== 0n) return -Errno.EINVAL;
				if (isSince(vm.kernel, '6.10') && vm.vcpus.size > 0) return -Errno.EINVAL;
				Atomics.or(vm.words, VmWord.disabledExits, Number(mask));
				return 0;
			},
		},
	],
	[
		Cap.X86_USER_SPACE_MSR,
		{
			check: () => 1,
			/** UNCERTAIN(Linux arch/x86/kvm/x86.c): kernels before about 6.0 stored any mask; it is checked here for all. */
			enable: (vm, [mask = 0n]) => storeMask(vm, VmWord.msrExitMask, mask, MSR_EXIT_VALID_MASK),
		},
	],
	[Cap.X86_MSR_FILTER, always],
	[
		Cap.ENFORCE_PV_FEATURE_CPUID,
		{
			check: () => 1,
			enableVcpu: (words, [on = 0n]) => {
				Atomics.store(words, VcpuWord.pvEnforce, on === 0n ? 0 : 1);
				return 0;
			},
		},
	],
	[
		Cap.EXIT_HYPERCALL,
		{
			check: (host) => (isUpstream(host) ? EXIT_HYPERCALL_VALID_MASK : 0),
			enable: (vm, [mask = 0n]) =>
				isUpstream(vm.host) ? storeMask(vm, VmWord.exitHypercallMask, mask, EXIT_HYPERCALL_VALID_MASK) : -Errno.EINVAL,
		},
	],
	[
		Cap.DISABLE_QUIRKS2,
		{
			check: ({ kernel }) => validQuirks(kernel),
			enable: (vm, [mask = 0n]) => {
				const valid = validQuirks(vm.kernel);
				return valid === 0 ? -Errno.EINVAL : storeMask(vm, VmWord.disabledQuirks, mask, valid);
			},
		},
	],
	[Cap.X86_SMM, smmCapability],
	[Cap.SYS_ATTRIBUTES, sysAttributesCapability],
	[Cap.VM_TYPES, vmTypesCapability],
	[Cap.VM_COPY_ENC_CONTEXT_FROM, copyCapability],
	[Cap.VM_MOVE_ENC_CONTEXT_FROM, moveCapability],
]);

const MSR_EXIT_VALID_MASK = MsrExitReason.INVAL | MsrExitReason.UNKNOWN | MsrExitReason.FILTER;

/** KVM_CHECK_EXTENSION on /dev/kvm or on a VM: 0 = not there. */
export const checkExtension = (host: VmHost, cap: number, vm?: VmContext): number =>
	CAPABILITIES.get(cap)?.check(host, vm) ?? 0;

/** KVM_ENABLE_CAP on a VM. −EINVAL: a flag, an unknown capability, one that a VM does not enable, or as its row says. */
export function enableCap(vm: VmContext, cap: number, args: readonly bigint[], flags = 0): number {
	if (flags !== 0) return -Errno.EINVAL;
	return CAPABILITIES.get(cap)?.enable?.(vm, args) ?? -Errno.EINVAL;
}

/** KVM_ENABLE_CAP on a vCPU. */
export function enableVcpuCap(words: Int32Array, cap: number, args: readonly bigint[], flags = 0): number {
	if (flags !== 0) return -Errno.EINVAL;
	return CAPABILITIES.get(cap)?.enableVcpu?.(words, args) ?? -Errno.EINVAL;
}

/** Whether a quirk (a bit of KVM_CAP_DISABLE_QUIRKS2) is on for a VM, as it is by default. */
export const hasQuirk = (words: Int32Array, quirk: Quirk): boolean =>
	(Atomics.load(words, VmWord.disabledQuirks) & quirk) === 0;
