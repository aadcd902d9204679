import { MsrExitReason } from '../abi/capabilities.js';
import type { CpuidEntry } from '../abi/cpuid.js';
import { Msr } from '../abi/msr.js';
import type { VmState } from '../vm/state.js';
import { Register } from '../vm/vcpu-state.js';
import { type MsrContext, readMsr, writeMsr } from './msr-table.js';
import type { RunPage } from './run-page.js';
import { TripleFault } from './triple-fault.js';

const Efer = { lme: 1n << 8n, lma: 1n << 10n } as const;
const CR0_PG = 1n << 31n;
const SevStatus = { sev: 1n, sevEs: 2n } as const;

/** Sets EFER as WRMSR would; LMA is the processor's own. */
export function writeEfer(registers: BigUint64Array, value: bigint): void {
	registers[Register.efer] = (value & ~Efer.lma) | ((registers[Register.efer] ?? 0n) & Efer.lma);
}

/** Sets CR0 and, with PG, the long-mode-active bit. @throws TripleFault `gp` for long mode without CR4.PAE */
export function writeCr0(registers: BigUint64Array, value: bigint): void {
	const efer = registers[Register.efer] ?? 0n;
	const isLong = (value & CR0_PG) !== 0n && (efer & Efer.lme) !== 0n;
	if (isLong && ((registers[Register.cr4] ?? 0n) & 0x20n) === 0n) {
		throw new TripleFault('gp', 'CR0.PG: expected CR4.PAE for long mode, got it clear: #GP');
	}
	registers[Register.cr0] = value;
	registers[Register.efer] = isLong ? efer | Efer.lma : efer & ~Efer.lma;
}

/**
 * What became of an access: the value (0 for a write that was done); `exit`: kvm_run is filled, and the VMM's answer stands
 * there at the next KVM_RUN; `gp`: #GP for the guest.
 */
export type MsrOutcome = bigint | 'exit' | 'gp';

/**
 * RDMSR and WRMSR as KVM handles them (Linux 5.12 to 6.10 arch/x86/kvm/x86.c kvm_emulate_rdmsr): the filter first, then what
 * KVM knows; what it refuses goes to the VMM if KVM_CAP_X86_USER_SPACE_MSR asks for that reason, else it is #GP.
 * MSR_KVM_MIGRATION_CONTROL is unknown to KVM in both ABIs: the VMM implements it behind a filter.
 *
 * No register is touched but those that an MSR is: the caller has EDX:EAX, or a GHCB.
 */
export interface Msrs {
	/** `index`: ECX, 32 bits. */
	read(index: number): MsrOutcome;
	write(index: number, value: bigint): MsrOutcome;
}

/** `onEfer` runs after EFER changed. */
export function createMsrs(o: {
	readonly vm: VmState;
	readonly registers: BigUint64Array;
	/** Of the vCPU: `VcpuWord`. */
	readonly words: Int32Array;
	readonly cpuid: readonly CpuidEntry[];
	readonly run: RunPage;
	readonly onEfer: () => void;
}): Msrs {
	const { vm, run, registers } = o;
	const context: MsrContext = {
		kernel: vm.kernel,
		vmWords: vm.words,
		registers,
		words: o.words,
		cpuid: o.cpuid,
		setEfer: (value) => {
			writeEfer(registers, value);
			o.onEfer();
		},
	};
	const refuse = (isWrite: boolean, index: number, reason: number, data: bigint): MsrOutcome => {
		if ((vm.msrExitMask & reason) === 0) return 'gp';
		run.exitMsr(isWrite, reason, index, data);
		return 'exit';
	};
	const reasonOf = (refusal: 'unknown' | 'invalid'): number =>
		refusal === 'unknown' ? MsrExitReason.UNKNOWN : MsrExitReason.INVAL;

	return {
		read: (index) => {
			// The processor answers it; no hypervisor can intercept the read (APM vol. 2 §15.34.10).
			if (index === Msr.SEV_STATUS) {
				return (vm.sevActive ? SevStatus.sev : 0n) | (vm.sevEs ? SevStatus.sevEs : 0n);
			}
			if (!vm.isMsrAllowed(index, 'read')) return refuse(false, index, MsrExitReason.FILTER, 0n);
			const value = readMsr(context, index, false);
			return typeof value === 'bigint' ? value : refuse(false, index, reasonOf(value), 0n);
		},
		write: (index, value) => {
			if (index === Msr.SEV_STATUS) return 'gp';
			if (!vm.isMsrAllowed(index, 'write')) return refuse(true, index, MsrExitReason.FILTER, value);
			const done = writeMsr(context, index, value, false);
			return done === 'done' ? 0n : refuse(true, index, reasonOf(done), value);
		},
	};
}

/** EDX:EAX as one value. */
export const edxEax = (registers: BigUint64Array): bigint =>
	(BigInt.asUintN(32, registers[Register.rdx] ?? 0n) << 32n) | BigInt.asUintN(32, registers[Register.rax] ?? 0n);

/** EDX:EAX ← a 64-bit value; the upper halves of both registers become zero. */
export function setEdxEax(registers: BigUint64Array, value: bigint): void {
	registers[Register.rax] = BigInt.asUintN(32, value);
	registers[Register.rdx] = value >> 32n;
}
