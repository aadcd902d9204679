import { Errno } from '../abi/errno.js';
import { Msr } from '../abi/msr.js';
import { type MsrContext, readMsr, resetMsrs, writeMsr } from '../vcpu/msr-table.js';
import type { VmContext } from '../vm/context.js';
import { openVcpuState, Register, type VcpuHandle } from '../vm/vcpu-state.js';
import type { RegisterAccess } from './access.js';

/** MSRs that are in the save area of a SEV-ES vCPU, and not intercepted: KVM cannot reach them once it is encrypted. */
const IN_SAVE_AREA: ReadonlySet<number> = new Set([
	...[Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.PAT, Msr.XSS, Msr.EFER, Msr.STAR, Msr.LSTAR, Msr.CSTAR],
	...[Msr.SYSCALL_MASK, Msr.FS_BASE, Msr.GS_BASE, Msr.KERNEL_GS_BASE, Msr.TSC_AUX],
]);

/** KVM_GET_MSRS and KVM_SET_MSRS of one vCPU, an MSR at a time. */
interface MsrIoctls {
	getMsr(index: number): bigint | undefined;
	setMsr(index: number, value: bigint): number;
}

/**
 * Of a protected vCPU the host's own MSRs keep working, in both kinds of VM; those in the save area read as zero, and
 * writing them is accepted without effect.
 *
 * UNCERTAIN(Linux arch/x86/kvm/svm/svm.c): kernels after 6.10 refuse the latter with −EINVAL in a VM of type SEV_ES.
 */
export function createMsrIoctls(
	vm: VmContext,
	handle: VcpuHandle,
	access: RegisterAccess,
	onSystemChange: (ret: number) => number,
): MsrIoctls {
	const { registers, words } = openVcpuState(handle);
	resetMsrs(registers, words);
	const context: MsrContext = {
		kernel: vm.kernel,
		vmWords: vm.words,
		registers,
		words,
		cpuid: handle.cpuid,
		setEfer: (value) => {
			registers[Register.efer] = value;
			onSystemChange(0);
		},
	};
	const isOutOfReach = (index: number) => access.isProtected && IN_SAVE_AREA.has(index);
	return {
		getMsr: (index) => {
			access.requireAlive('KVM_GET_MSRS');
			// EFER's traps tell KVM what it is.
			if (isOutOfReach(index) && index !== Msr.EFER) return 0n;
			const value = readMsr(context, index, true);
			return typeof value === 'bigint' ? value : undefined;
		},
		setMsr: (index, value) => {
			if (vm.sev.dead) return -Errno.EIO;
			if (isOutOfReach(index)) return 0;
			return writeMsr(context, index, value, true) === 'done' ? 0 : -Errno.EINVAL;
		},
	};
}
