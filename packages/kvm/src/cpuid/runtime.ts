import { DisableExits } from '../abi/capabilities.js';
import type { CpuidEntry } from '../abi/cpuid.js';
import { PvFeature } from '../abi/msr.js';
import { liveMigrationFeature } from '../abi/page-status.js';
import type { Kernel } from '../kernel.js';
import { VcpuWord } from '../vm/vcpu-state.js';
import { VmWord } from '../vm/words.js';

const FIRST_BASE = 0x40000000;
const LAST_BASE = 0x40010000;
const BASE_STEP = 0x100;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const SIGNATURE = [0x4b4d564b, 0x564b4d56, 0x4d] as const;

/** The base of KVM's leaves among some entries, or −1. Linux 6.1 arch/x86/kvm/cpuid.c kvm_find_kvm_cpuid_features. */
function kvmBase(entries: readonly CpuidEntry[]): number {
	for (let base = FIRST_BASE; base < LAST_BASE; base += BASE_STEP) {
		const entry = entries.find((e) => e.function === base);
		if (entry === undefined) continue;
		const [ebx, ecx, edx] = SIGNATURE;
		if (entry.ebx === ebx && entry.ecx === ecx && entry.edx === edx) return base;
	}
	return -1;
}

/**
 * kvm_update_cpuid_runtime: what KVM changes in the entries of KVM_SET_CPUID2 before a guest sees them. PV_UNHALT goes where
 * HLT does not exit; in the postings v5 to v10 the live-migration feature is added for every SEV guest.
 */
export function adjustCpuid(kernel: Kernel, vmWords: Int32Array, entries: readonly CpuidEntry[]): CpuidEntry[] {
	const base = kvmBase(entries);
	let clear = 0;
	let set = 0;
	if ((Atomics.load(vmWords, VmWord.disabledExits) & DisableExits.HLT) !== 0) clear |= 1 << PvFeature.PV_UNHALT;
	const feature = liveMigrationFeature(kernel.series);
	if (feature?.inKvm === true && Atomics.load(vmWords, VmWord.sevActive) === 1) set |= 1 << feature.bit;
	return entries.map((e) => (e.function === base + 1 ? { ...e, eax: ((e.eax & ~clear) | set) >>> 0 } : { ...e }));
}

/** Remembers which of KVM's features a guest was told about: for KVM_CAP_ENFORCE_PV_FEATURE_CPUID. */
export function storePvFeatures(vcpuWords: Int32Array, entries: readonly CpuidEntry[]): void {
	const base = kvmBase(entries);
	const leaf = base < 0 ? undefined : entries.find((e) => e.function === base + 1);
	Atomics.store(vcpuWords, VcpuWord.pvFeatures, (leaf?.eax ?? 0) | 0);
}
