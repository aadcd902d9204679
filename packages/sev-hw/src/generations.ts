import { type MemoryEncryption, zen1EarlyConstants, zen1LaterConstants } from './engine/tweak-constants.js';

/** What differs between processor generations: what CPUID reports, and how memory is encrypted. */
export interface SevGeneration {
	/** Bit of a guest-physical address that asks for encryption: 32 … 51. */
	readonly cbitPosition: number;
	/** Physical address bits that memory encryption takes away. */
	readonly physAddrReduction: number;
	/** Physical address bits without memory encryption, CPUID Fn8000_0008 EAX[7:0]: at most 52. */
	readonly physAddrWidth: number;
	/** Highest ASID of an encrypted guest. */
	readonly maxAsid: number;
	/**
	 * Lowest ASID of a guest without SEV-ES; those below are for SEV-ES guests. A firmware set-up choice on real machines:
	 * 1 means no ASID for SEV-ES, `maxAsid` + 1 none for other guests.
	 */
	readonly minSevNoEsAsid: number;
	/** CPUID Fn8000_001F EAX: bits of {@link MemoryFeature}. */
	readonly features: number;
	readonly encryption: MemoryEncryption;
}

/** Bits of CPUID Fn8000_001F EAX. SNP and its VMPLs are absent from every generation here: the machine has none. */
export const MemoryFeature = {
	SME: 1 << 0,
	SEV: 1 << 1,
	/** MSR C001_011E flushes a page from the caches. */
	PAGE_FLUSH: 1 << 2,
	SEV_ES: 1 << 3,
	SEV_SNP: 1 << 4,
	VMPL: 1 << 5,
	/** Caches are coherent between mappings of a page that differ in the C-bit. */
	COHERENT: 1 << 10,
	/** SEV guests run under a 64-bit host only. */
	HOST_64_BIT: 1 << 11,
} as const;

const FIRST = MemoryFeature.SME | MemoryFeature.SEV | MemoryFeature.PAGE_FLUSH | MemoryFeature.SEV_ES;
const LATER = FIRST | MemoryFeature.COHERENT | MemoryFeature.HOST_64_BIT;

const NAPLES = {
	...{ cbitPosition: 47, physAddrReduction: 5, physAddrWidth: 48, maxAsid: 15, minSevNoEsAsid: 5, features: FIRST },
	encryption: { mode: 'XEX', constants: zen1LaterConstants() },
} as const satisfies SevGeneration;

const ROME = {
	...{ cbitPosition: 47, physAddrReduction: 5, physAddrWidth: 48, maxAsid: 509, minSevNoEsAsid: 100, features: FIRST },
	encryption: { mode: 'XEX', constants: 'fresh' },
} as const satisfies SevGeneration;

const MILAN = { ...ROME, cbitPosition: 51, features: LATER } as const satisfies SevGeneration;

const GENOA = { ...MILAN, physAddrWidth: 52, maxAsid: 1006 } as const satisfies SevGeneration;

/**
 * The generations that can be chosen by name. `naples-early` is a first Zen 1 part like the EPYC 7251, `naples` a later
 * one like the EPYC 7401P (Wilke et al., "SEVurity", IEEE S&P 2020).
 *
 * UNCERTAIN(AMD64 APM volume 3, Fn8000_001F): C-bit, reduction, width and ASID counts are the usual ones of these parts,
 * not read from any; only Genoa's C-bit and its 1006 ASIDs are in a published firmware. Where SEV-ES ASIDs end is a choice
 * in set-up, and from which generation on EAX bits 10 and 11 are set is a guess. Turin's numbers are Genoa's.
 */
export const GENERATIONS = {
	'naples-early': { ...NAPLES, encryption: { mode: 'XE', constants: zen1EarlyConstants() } },
	naples: NAPLES,
	rome: ROME,
	milan: MILAN,
	genoa: GENOA,
	turin: GENOA,
} as const satisfies Record<string, SevGeneration>;

/** A processor generation that has a name. */
export type GenerationName = keyof typeof GENERATIONS;

/** The four registers that CPUID answers with. */
export interface CpuidRegisters {
	readonly eax: number;
	readonly ebx: number;
	readonly ecx: number;
	readonly edx: number;
}

/** The generation of that name, or the object itself. @throws RangeError for one that cannot be */
export function generationOf(generation: GenerationName | SevGeneration): SevGeneration {
	if (typeof generation === 'string') return GENERATIONS[generation];
	for (const [field, least, most] of limitsOf(generation)) {
		const value = generation[field];
		if (!Number.isInteger(value) || value < least || value > most) {
			throw new RangeError(`generation.${field}: expected ${least} … ${most}, got ${value}`);
		}
	}
	return generation;
}

type NumericField = Exclude<keyof SevGeneration, 'encryption'>;

/** Least and greatest value of each number. The C-bit is one of the address bits that memory encryption takes away. */
const limitsOf = ({ physAddrWidth, physAddrReduction, maxAsid }: SevGeneration): [NumericField, number, number][] => [
	['physAddrWidth', 33, 52],
	['physAddrReduction', 0, physAddrWidth - 32],
	['cbitPosition', physAddrWidth - physAddrReduction, 51],
	['maxAsid', 1, 0xffff],
	['minSevNoEsAsid', 1, maxAsid + 1],
	['features', 0, 0xffffffff],
];

/** CPUID Fn8000_001F of the host (AMD64 APM volume 3): EAX features, EBX C-bit and reduction, ECX and EDX ASIDs. */
export function cpuid8000001F(generation: GenerationName | SevGeneration): CpuidRegisters {
	const { features, cbitPosition, physAddrReduction, maxAsid, minSevNoEsAsid } = generationOf(generation);
	return { eax: features, ebx: cbitPosition | (physAddrReduction << 6), ecx: maxAsid, edx: minSevNoEsAsid };
}

/** Bits of the addresses that are left for memory while memory encryption is on. */
export const memoryAddressBits = ({ physAddrWidth, physAddrReduction }: SevGeneration): number =>
	physAddrWidth - physAddrReduction;
