import { KvmFeature } from '../abi/capabilities.js';
import type { CpuidEntry } from '../abi/cpuid.js';
import type { Series } from '../abi/generation.js';
import { liveMigrationFeature } from '../abi/page-status.js';

/** What a VMM offers its guest. */
export interface CpuidOptions {
	/** The guest has SEV: true by default. Without it there is no leaf 0x8000001F and no migration feature. */
	readonly sev?: boolean;
	/** The guest has SEV-ES: false by default. It gets the leaf of XSAVE too, which its #VC handler needs. */
	readonly es?: boolean;
	/** Hyper-V's leaves come first and KVM's are at 0x40000100. */
	readonly hyperv?: boolean;
	/**
	 * The VMM turned hypercall 12 into exits and filters the migration MSR, and says so: upstream bits 16 and 17. v11 and
	 * v12 have bit 16 from KVM itself, whatever this is; before, KVM gives a SEV guest its bit when the vCPU is made.
	 */
	readonly migrationControl?: boolean;
}

const HYPERVISOR_BASE = 0x40000000;
const HYPERVISOR_STEP = 0x100;

/** "AuthenticAMD" in EBX, EDX, ECX. */
const AMD = { ebx: 0x68747541, ecx: 0x444d4163, edx: 0x69746e65 } as const;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const KVM = { ebx: 0x4b4d564b, ecx: 0x564b4d56, edx: 0x4d } as const;
/** "Microsoft Hv" in EBX, ECX, EDX. */
const HYPERV = { ebx: 0x7263694d, ecx: 0x666f736f, edx: 0x76482074 } as const;

/** EPYC 7003. */
const SIGNATURE = 0x00a00f11;
/** FPU, PSE, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, PAT, FXSR, SSE, SSE2. */
const FEATURES = 0x0703a379;
const HYPERVISOR_PRESENT = 0x80000000;
/** LM, 1 GiB pages, NX, SYSCALL. */
const EXTENDED_FEATURES = 0x24100800;
const SEV = 2;
const SEV_ES = 8;
/** XSAVE, AVX. */
const XSAVE_AVX = (1 << 26) | (1 << 28);
const XSAVE_LEAF = 0xd;

/** Entries for KVM_SET_CPUID2. The vCPU puts its APIC id into leaf 1 itself. */
export function guestCpuid(
	series: Series,
	silicon: { readonly cbitPosition: number; readonly physAddrReduction: number },
	{ sev = true, es = false, hyperv = false, migrationControl = false }: CpuidOptions,
): CpuidEntry[] {
	const base = hyperv ? HYPERVISOR_BASE + HYPERVISOR_STEP : HYPERVISOR_BASE;
	const entries = [
		leaf(0, { eax: es ? XSAVE_LEAF : 1, ...AMD }),
		leaf(1, { eax: SIGNATURE, ecx: (es ? HYPERVISOR_PRESENT | XSAVE_AVX : HYPERVISOR_PRESENT) >>> 0, edx: FEATURES }),
		leaf(base, { eax: base + 1, ...KVM }),
		leaf(base + 1, { eax: sev ? kvmFeatures(series, migrationControl) : 0 }),
		leaf(0x80000000, { eax: sev ? 0x8000001f : 0x80000001, ...AMD }),
		leaf(0x80000001, { eax: SIGNATURE, edx: EXTENDED_FEATURES }),
	];
	if (hyperv) entries.push(leaf(HYPERVISOR_BASE, { eax: HYPERVISOR_BASE, ...HYPERV }));
	// A guest learns neither how many ASIDs there are nor which are for SEV-ES (QEMU target/i386/cpu.c).
	const encryption = es ? SEV | SEV_ES : SEV;
	if (es) entries.push(...xsaveLeaves());
	if (sev)
		entries.push(leaf(0x8000001f, { eax: encryption, ebx: silicon.cbitPosition | (silicon.physAddrReduction << 6) }));
	return entries;
}

function kvmFeatures(series: Series, migrationControl: boolean): number {
	if (series === 'upstream') {
		return migrationControl ? (1 << KvmFeature.HC_MAP_GPA_RANGE) | (1 << KvmFeature.MIGRATION_CONTROL) : 0;
	}
	// Up to v10 KVM sets the bit itself, when a vCPU of a SEV guest gets its CPUID.
	const feature = liveMigrationFeature(series);
	return feature === undefined || feature.inKvm ? 0 : 1 << feature.bit;
}

/** CPUID Fn0000_000D: x87, SSE and AVX, the latter in 256 bytes at 576 (APM vol. 3 §E.3.8). */
const xsaveLeaves = (): CpuidEntry[] => [
	{ ...leaf(XSAVE_LEAF, { eax: 7, ebx: 832, ecx: 832 }), index: 0, significantIndex: true },
	{ ...leaf(XSAVE_LEAF, {}), index: 1, significantIndex: true },
	{ ...leaf(XSAVE_LEAF, { eax: 256, ebx: 576 }), index: 2, significantIndex: true },
];

const leaf = (number: number, answer: Partial<Omit<CpuidEntry, 'function' | 'index'>>): CpuidEntry => ({
	function: number,
	index: 0,
	eax: 0,
	ebx: 0,
	ecx: 0,
	edx: 0,
	...answer,
});
