/** What differs between processor generations, as CPUID Fn8000_001F reports it. */
export interface SevGeneration {
	/** Bit of a guest-physical address that asks for encryption. */
	readonly cbitPosition: number;
	/** Physical address bits that memory encryption takes away. */
	readonly physAddrReduction: number;
	/** Highest ASID of an encrypted guest. */
	readonly maxAsid: number;
	/** Lowest ASID of a guest without SEV-ES; those below are for SEV-ES guests. A firmware set-up choice on real machines. */
	readonly minSevNoEsAsid: number;
}

/** Typical values; the ASID counts of real parts and the split between ES and others depend on model and set-up. */
export const GENERATIONS = {
	naples: { cbitPosition: 47, physAddrReduction: 5, maxAsid: 15, minSevNoEsAsid: 5 },
	milan: { cbitPosition: 51, physAddrReduction: 5, maxAsid: 509, minSevNoEsAsid: 100 },
} as const satisfies Record<string, SevGeneration>;

/** A processor generation that can be modelled. */
export type GenerationName = keyof typeof GENERATIONS;
