import type { CpuidEntry } from '../../abi/cpuid.js';
import { Msr } from '../../abi/msr.js';
import { DR6_RESET, DR7_FIXED, type KvmDebugRegs, writeDebugRegs } from '../../registers/debug.js';
import type { KvmXcr } from '../../registers/fpu.js';
import type { KvmSegment } from '../../registers/segments.js';
import { type KvmRegs, type KvmSregs, writeRegs, writeSregs } from '../../registers/sregs.js';
import type { Vcpu } from '../../vm/vcpu.js';
import { Register } from '../../vm/vcpu-state.js';

/** Where the first vCPU of a machine starts. */
const RESET_VECTOR = 0xfffffff0;
/** PAT after reset (APM vol. 2 §7.8.2). */
const PAT_RESET = 0x0007040600070406n;
/** What KVM puts into EDX of a vCPU without CPUID entries: a P6. */
const P6 = 0x600;
const BUSY_TSS16 = 3;
const BUSY_TSS32 = 11;

const segment = (type: number, s: number, base = 0n, selector = 0): KvmSegment => ({
	...{ base, limit: 0xffff, selector, type, present: 1, dpl: 0 },
	...{ db: 0, s, l: 0, g: 0, avl: 0, unusable: 0 },
});

/** What differs between the vCPUs of a launch. */
export interface ResetOptions {
	/** Index of the vCPU: 0 boots. */
	readonly vcpu: number;
	/** CPUID Fn0000_0001_EAX of the guest's processor. */
	readonly signature: number;
	/**
	 * Where all vCPUs but the first start: the SEV-ES reset block of the firmware (`readSevBlocks` of `@cvm/sev-hw/owner`).
	 * Without it they start where the first one does.
	 */
	readonly apResetVector?: number;
}

/** The state that a VMM gives a vCPU at reset, as arguments of KVM's ioctls. */
export interface VcpuResetState {
	readonly regs: KvmRegs;
	readonly sregs: Omit<KvmSregs, 'interruptBitmap' | 'cpl' | 'apicBase'>;
	readonly debugRegs: KvmDebugRegs;
	readonly xcrs: readonly KvmXcr[];
	/** KVM_SET_MSRS: index, value. */
	readonly msrs: readonly (readonly [index: number, value: bigint])[];
}

/**
 * The reset state of an x86 processor as QEMU sets it (QEMU target/i386/cpu.c), for a SEV-ES guest with the firmware's CS:IP
 * in all vCPUs but the first (QEMU's `sev-es-v*` branches). Launched so, a save area is `initialVmsa` of `@cvm/sev-hw/owner`.
 */
export function vcpuResetState({ vcpu, signature, apResetVector }: ResetOptions): VcpuResetState {
	return resetState(vcpu === 0 ? RESET_VECTOR : (apResetVector ?? RESET_VECTOR), signature, BUSY_TSS32);
}

function resetState(start: number, signature: number, taskType: number): VcpuResetState {
	const data = segment(3, 1);
	const table = { base: 0n, limit: 0xffff };
	return {
		regs: {
			...{ rax: 0n, rcx: 0n, rdx: BigInt(signature), rbx: 0n, rsp: 0n, rbp: 0n, rsi: 0n, rdi: 0n },
			...{ r8: 0n, r9: 0n, r10: 0n, r11: 0n, r12: 0n, r13: 0n, r14: 0n, r15: 0n },
			rip: BigInt(start & 0xffff),
			rflags: 2n,
		},
		sregs: {
			cs: segment(11, 1, BigInt(start - (start & 0xffff)), 0xf000),
			...{ ds: data, es: data, fs: data, gs: data, ss: data },
			ldt: segment(2, 0),
			tr: segment(taskType, 0),
			...{ gdt: table, idt: table },
			...{ cr0: 0x60000010n, cr2: 0n, cr3: 0n, cr4: 0n, cr8: 0n, efer: 0n },
		},
		debugRegs: { db: [0n, 0n, 0n, 0n], dr6: DR6_RESET, dr7: DR7_FIXED, flags: 0n },
		xcrs: [{ xcr: 0, value: 1n }],
		msrs: [[Msr.PAT, PAT_RESET]],
	};
}

/** Sets {@link vcpuResetState} by the ioctls that a VMM uses. 0, or the first −errno. */
export function resetVcpu(vcpu: Vcpu, options: Omit<ResetOptions, 'vcpu'>): number {
	const { regs, sregs, debugRegs, xcrs, msrs } = vcpuResetState({ ...options, vcpu: vcpu.index });
	const steps = [
		() => vcpu.setSregs(sregs),
		() => vcpu.setRegs(regs),
		() => vcpu.setXcrs(xcrs),
		() => vcpu.setDebugRegs(debugRegs),
		...msrs.map(
			([index, value]) =>
				() =>
					vcpu.setMsr(index, value),
		),
	];
	return steps.reduce((ret, step) => (ret === 0 ? step() : ret), 0);
}

/** kvm_vcpu_reset of Linux arch/x86/kvm: the state of a vCPU that was just created, all of them at the reset vector. */
export function loadKvmResetState(registers: BigUint64Array, cpuid: readonly CpuidEntry[]): void {
	const signature = cpuid.find((entry) => entry.function === 1)?.eax ?? P6;
	const { regs, sregs, debugRegs } = resetState(RESET_VECTOR, signature, BUSY_TSS16);
	writeRegs(registers, regs);
	writeSregs(registers, sregs);
	writeDebugRegs(registers, debugRegs);
	registers[Register.xcr0] = 1n;
	registers[Register.pat] = PAT_RESET;
}
