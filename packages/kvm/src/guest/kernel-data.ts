import type { Kernel } from '../kernel.js';
import type { GuestCpu } from '../vcpu/program.js';
import { KernelOffset } from './boot-protocol.js';

/** What a kernel was built as. */
export interface KernelConfig {
	readonly kernel: Kernel;
	/** Log lines go to the console. */
	readonly printk: boolean;
	/** Leaves of 1 GiB for the regions without `.bss..decrypted`. */
	readonly gbPages: boolean;
	/** What the other vCPUs do while vCPU 0 resets page status before a kexec. */
	readonly othersDuringReset: 'run' | 'stopped';
	/** Which pages of a RAM entry of E820 are reset. */
	readonly e820Walk: 'as-posted' | 'whole-pages';
}

/** Where the kernel keeps its variables: offsets from where it was loaded, in its data page. */
const page = KernelOffset.data;
export const KernelData = {
	/** u32 spin lock over page-table changes, as Linux's cpa_lock. */
	cpaLock: page + 0x08,
	/** u32 bits of {@link KernelFlag}. */
	flags: page + 0x0c,
	/** u32: the C-bit's position, 0 if SEV is not active. */
	cBit: page + 0x10,
	/** u32: KVM feature bits, 0 without KVM. */
	kvmFeatures: page + 0x14,
	/** u32: {@link RebootStage}. */
	rebootStage: page + 0x18,
	/** u32: low half of SEV_STATUS. */
	sevStatus: page + 0x1c,
	/** u32: version of the GHCB protocol. */
	ghcbVersion: page + 0x20,
	/** UTF-16LE, with NUL. */
	variableName: page + 0x40,
	variableGuid: page + 0x80,
	/** u64: in and out size of GetVariable. */
	variableSize: page + 0x90,
	variableValue: page + 0x98,
	/** u8 per vCPU: the {@link RebootStage} that it has gone through. */
	rebootSeen: page + 0xc0,
	/** u8 per vCPU: it runs the kernel. */
	online: page + 0xe0,
} as const;

export const KernelFlag = {
	/** Attribute changes are reported by hypercall. */
	reportsPageStatus: 1,
	/** The other vCPUs were woken. */
	smp: 2,
	/** A missing leaf was warned about. */
	warnedMissingLeaf: 4,
} as const;

/** How far the way to the next kernel is. */
export const RebootStage = { none: 0, callback: 1, stop: 2 } as const;

/** Where the kernel that this vCPU runs was loaded: its page tables say so, as they stand at a fixed distance. */
export const kernelBase = (cpu: GuestCpu): number => Number(cpu.cr3 & 0xfffff000n) - KernelOffset.pageTables;

/** Virtual address of one of {@link KernelData}. */
export const dataAt = (cpu: GuestCpu, offset: number): number => kernelBase(cpu) + offset;

const hasFlag = (cpu: GuestCpu, flag: number): boolean => (cpu.loadU32(dataAt(cpu, KernelData.flags)) & flag) !== 0;

/** Sets a {@link KernelFlag}. Only vCPU 0, or the holder of a lock, does. */
export function setFlag(cpu: GuestCpu, flag: number): void {
	const at = dataAt(cpu, KernelData.flags);
	cpu.storeU32(at, cpu.loadU32(at) | flag);
}

/** The C-bit's position, 0 if SEV is not active. */
export const cBitOf = (cpu: GuestCpu): number => cpu.loadU32(dataAt(cpu, KernelData.cBit));
/** Whether SEV is active. */
export const isSevActive = (cpu: GuestCpu): boolean => cBitOf(cpu) !== 0;
/** Whether the register state is encrypted, too: SEV_STATUS bit 1. */
export const isSevEsActive = (cpu: GuestCpu): boolean => (cpu.loadU32(dataAt(cpu, KernelData.sevStatus)) & 2) !== 0;

/** Whether attribute changes are reported by hypercall. */
export const reportsPageStatus = (cpu: GuestCpu): boolean => hasFlag(cpu, KernelFlag.reportsPageStatus);
/** Whether other vCPUs run the kernel. */
export const isSmp = (cpu: GuestCpu): boolean => hasFlag(cpu, KernelFlag.smp);
/** Whether a missing leaf was warned about. */
export const hasWarned = (cpu: GuestCpu): boolean => hasFlag(cpu, KernelFlag.warnedMissingLeaf);

/** EAX, EBX, ECX or EDX. */
export const low32 = (cpu: GuestCpu, name: 'rax' | 'rbx' | 'rcx' | 'rdx'): number =>
	Number(cpu.reg(name) & 0xffffffffn);

/** Top of a vCPU's kernel stack. */
export const stackOf = (base: number, vcpu: number): number => base + KernelOffset.stacks + 0x4000 * (vcpu + 1);

type Saved = 'rax' | 'rbx' | 'rcx' | 'rdx' | 'rbp' | 'r12' | 'r13' | 'r14' | 'r15';

/** Pushes registers; `pop` in the same order restores them. */
export function push(cpu: GuestCpu, ...names: readonly Saved[]): void {
	const rsp = cpu.num('rsp') - 8 * names.length;
	cpu.setNum('rsp', rsp);
	names.forEach((name, i) => {
		cpu.storeU64(rsp + 8 * i, cpu.reg(name));
	});
}

/** Restores what `push` with the same names saved. */
export function pop(cpu: GuestCpu, ...names: readonly Saved[]): void {
	const rsp = cpu.num('rsp');
	names.forEach((name, i) => {
		cpu.setReg(name, cpu.loadU64(rsp + 8 * i));
	});
	cpu.setNum('rsp', rsp + 8 * names.length);
}
