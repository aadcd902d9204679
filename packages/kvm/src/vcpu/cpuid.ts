import type { CpuidEntry } from '../abi/cpuid.js';

/** EAX, EBX, ECX, EDX. */
export type CpuidAnswer = readonly [eax: number, ebx: number, ecx: number, edx: number];

const NOTHING: CpuidAnswer = [0, 0, 0, 0];

/**
 * CPUID from the entries of KVM_SET_CPUID2: the first one of the leaf whose index matches, if it has an index. Leaf 1
 * EBX[31:24] is the initial APIC id, which equals the vCPU's index. What has no entry answers zeros.
 */
export function answerCpuid(entries: readonly CpuidEntry[], vcpu: number, leaf: number, subleaf: number): CpuidAnswer {
	const entry = entries.find((e) => e.function === leaf && (e.significantIndex !== true || (e.index ?? 0) === subleaf));
	if (entry === undefined) return NOTHING;
	const ebx = leaf === 1 ? ((entry.ebx & 0x00ffffff) | (vcpu << 24)) >>> 0 : entry.ebx;
	return [entry.eax, ebx, entry.ecx, entry.edx];
}
