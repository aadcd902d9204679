import type { GuestCpu } from '../vcpu/program.js';
import { MemoryMap } from './boot-protocol.js';

/** Where the kernel keeps its variables: virtual addresses in its data page. */
const page = MemoryMap.kernelData;
export const KernelData = {
	/** u32 spin lock over page-table changes, as Linux's cpa_lock. */
	cpaLock: page + 0x08,
	/** u32 bits of {@link KernelFlag}. */
	flags: page + 0x0c,
	/** u32: the C-bit's position, 0 if SEV is not active. */
	cBit: page + 0x10,
	/** u32: KVM feature bits, 0 without KVM. */
	kvmFeatures: page + 0x14,
	/** UTF-16LE, with NUL. */
	variableName: page + 0x40,
	variableGuid: page + 0x80,
	/** u64: in and out size of GetVariable. */
	variableSize: page + 0x90,
	variableValue: page + 0x98,
} as const;

export const KernelFlag = {
	/** Attribute changes are reported by hypercall. */
	reportsPageStatus: 1,
} as const;

/** Whether SEV is active. */
export const isSevActive = (cpu: GuestCpu): boolean => cpu.loadU32(KernelData.cBit) !== 0;

/** Whether attribute changes are reported by hypercall. */
export const reportsPageStatus = (cpu: GuestCpu): boolean =>
	(cpu.loadU32(KernelData.flags) & KernelFlag.reportsPageStatus) !== 0;

/** Pushes registers; `pop` in the same order restores them. */
export function push(cpu: GuestCpu, ...names: readonly ('rbx' | 'rbp' | 'r12' | 'r13' | 'r14' | 'r15')[]): void {
	const rsp = cpu.num('rsp') - 8 * names.length;
	cpu.setNum('rsp', rsp);
	names.forEach((name, i) => {
		cpu.storeU64(rsp + 8 * i, cpu.reg(name));
	});
}

/** Restores what `push` with the same names saved. */
export function pop(cpu: GuestCpu, ...names: readonly ('rbx' | 'rbp' | 'r12' | 'r13' | 'r14' | 'r15')[]): void {
	const rsp = cpu.num('rsp');
	names.forEach((name, i) => {
		cpu.setReg(name, cpu.loadU64(rsp + 8 * i));
	});
	cpu.setNum('rsp', rsp + 8 * names.length);
}
