import { isSince } from '../kernel.js';
import { Register } from '../vcpu-state.js';
import type { VmState } from '../vm-state.js';
import type { RunPage } from './run-page.js';

/** KVM's hypercall errors (Linux include/uapi/linux/kvm_para.h), positive. */
const Errno = { EPERM: 1n, EINVAL: 22n, ENOSYS: 1000n } as const;
/** KVM_HC_PAGE_ENC_STATUS (v12), KVM_HC_MAP_GPA_RANGE (upstream). */
const HC_PAGE_STATUS = 12n;
const EFER_LMA = 1n << 10n;
const CR0_PG = 1n << 31n;

/** Whether the vCPU runs 64-bit code. There is no 64-bit CS in this model: long mode is 64-bit. */
const is64Bit = (registers: BigUint64Array): boolean =>
	((registers[Register.efer] ?? 0n) & EFER_LMA) !== 0n && ((registers[Register.cr0] ?? 0n) & CR0_PG) !== 0n;

/** The value of RAX that answers a hypercall; without 64-bit code it is cut to 32 bits. */
export const hypercallResult = (registers: BigUint64Array, value: bigint): bigint =>
	BigInt.asUintN(is64Bit(registers) ? 64 : 32, value);

/**
 * Linux 5.12–5.14 arch/x86/kvm/x86.c `kvm_emulate_hypercall`, without Xen and Hyper-V. Returns what goes to RAX, or
 * `undefined` if `run` was filled for an exit: then RAX and RIP stay until the VMM's answer is completed.
 */
export function emulateHypercall(vm: VmState, registers: BigUint64Array, run: RunPage): bigint | undefined {
	const isLong = is64Bit(registers);
	const argument = (index: number): bigint => BigInt.asUintN(isLong ? 64 : 32, registers[index] ?? 0n);
	const nr = argument(Register.rax);
	const a0 = argument(Register.rbx);
	const a1 = argument(Register.rcx);
	const a2 = argument(Register.rdx);
	const fail = (errno: bigint): bigint => hypercallResult(registers, -errno);

	if ((registers[Register.cpl] ?? 0n) !== 0n) return fail(Errno.EPERM);
	// Only hypercall 12 is modelled; the others look as if the kernel were built without them.
	if (nr !== HC_PAGE_STATUS) return fail(Errno.ENOSYS);
	const isEnabled = vm.kernel.abi === 'v12' ? vm.pageEncHcEnable : ((vm.exitHypercallMask >>> Number(nr)) & 1) === 1;
	if (!isEnabled) return fail(Errno.ENOSYS);
	const gfn = a0 >> 12n;
	if ((a0 & 0xfffn) !== 0n || a1 === 0n || BigInt.asUintN(64, gfn + a1) <= gfn) return fail(Errno.EINVAL);
	// a2 goes out as it is, in both ABIs.
	run.exitHypercall(nr, a0, a1, a2, isLong, isSince(vm.kernel, '6.10'));
	return undefined;
}
