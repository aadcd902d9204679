import { PendingKind, Register, type VcpuHandle } from '../vm/vcpu-state.js';
import type { Apic } from './apic.js';
import { answerCpuid } from './cpuid.js';
import { edxEax, type MsrOutcome, type Msrs, setEdxEax } from './msrs.js';
import type { RunPage } from './run-page.js';

/** CPUID over a register file. */
export function emulateCpuid({ cpuid, index }: VcpuHandle, registers: BigUint64Array): void {
	const leaf = Number(BigInt.asUintN(32, registers[Register.rax] ?? 0n));
	const subleaf = Number(BigInt.asUintN(32, registers[Register.rcx] ?? 0n));
	const [eax, ebx, ecx, edx] = answerCpuid(cpuid, index, leaf, subleaf);
	registers[Register.rax] = BigInt(eax);
	registers[Register.rbx] = BigInt(ebx);
	registers[Register.rcx] = BigInt(ecx);
	registers[Register.rdx] = BigInt(edx);
}

/** Index of the MSR that RDMSR and WRMSR name. */
export const ecxOf = (registers: BigUint64Array): number => Number(BigInt.asUintN(32, registers[Register.rcx] ?? 0n));

/** RDMSR or WRMSR of the MSR in ECX, value in EDX:EAX: the APIC first, then KVM's MSRs. */
export function accessMsr(o: { apic: Apic; msrs: Msrs }, kind: number, registers: BigUint64Array): MsrOutcome {
	const index = ecxOf(registers);
	if (kind === PendingKind.rdmsr) return o.apic.read(index) ?? o.msrs.read(index);
	const value = edxEax(registers);
	return o.apic.write(index, value) ? 0n : o.msrs.write(index, value);
}

/** The VMM's answer to an exit of RDMSR or WRMSR, into EDX:EAX. False: it refused the access. */
export function completeMsr(run: RunPage, kind: number, registers: BigUint64Array): boolean {
	if (run.msrError()) return false;
	if (kind === PendingKind.rdmsr) setEdxEax(registers, run.msrAnswer());
	return true;
}

/** The VMM's answer to an exit of IN, into RAX. */
export function completeIn(run: RunPage, size: number, registers: BigUint64Array): void {
	const rax = registers[Register.rax] ?? 0n;
	// A 32-bit operation clears the upper half, a smaller one keeps the rest (APM vol. 1 §3.1.2).
	const kept = size === 4 ? 0n : (rax >> BigInt(8 * size)) << BigInt(8 * size);
	registers[Register.rax] = kept | BigInt(run.ioAnswer(size));
}
