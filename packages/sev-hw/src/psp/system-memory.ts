import type { SevGeneration } from '../generations.js';

/** Legacy SMM memory: the firmware touches nothing in it. */
const ASEG = { start: 0xa0000, end: 0xc0000 } as const;
const ADDRESS_HIGH_LIMIT = 2 ** 20;

/** A range of system-physical addresses. */
export interface SpaRange {
	readonly start: number;
	readonly end: number;
}

/** DRAM as the firmware reaches it on behalf of the host: only through the address rules of the specification. */
export interface SystemMemory {
	/** Raw DRAM. */
	readonly dram: Uint8Array;
	/** The trusted memory region that INIT was given: from then on no command may name it. */
	reserved: SpaRange | undefined;
	/**
	 * The address in `high:low` (two 32-bit halves) without its C-bit, if `length` bytes from there may be touched;
	 * −1 if bits above the address width are set, or the range leaves DRAM or meets a protected one.
	 */
	resolve(low: number, high: number, length: number): number;
	/** As `resolve`, for an address field of a decoded command buffer. */
	resolveLong(paddr: bigint, length: number): number;
	/** A copy of resolved memory. */
	read(spa: number, length: number): Uint8Array;
}

/**
 * DEVIATION(SEV API 0.24 address rules): host memory encryption (SME) is off, so a C-bit on an address that carries
 * plaintext selects no key; it is stripped and nothing else.
 */
export function openSystemMemory(dram: Uint8Array, { cbitPosition }: SevGeneration): SystemMemory {
	const highMask = ~(1 << (cbitPosition - 32));
	const meets = (range: SpaRange, start: number, end: number) => start < range.end && end > range.start;
	const memory: SystemMemory = {
		dram,
		reserved: undefined,
		resolve: (low, high, length) => {
			const stripped = (high & highMask) >>> 0;
			if (stripped >= ADDRESS_HIGH_LIMIT) return -1;
			const start = stripped * 2 ** 32 + low;
			const end = start + length;
			if (end > dram.length || meets(ASEG, start, end)) return -1;
			return memory.reserved !== undefined && meets(memory.reserved, start, end) ? -1 : start;
		},
		resolveLong: (paddr, length) =>
			memory.resolve(Number(BigInt.asUintN(32, paddr)), Number(BigInt.asUintN(32, paddr >> 32n)), length),
		read: (spa, length) => dram.slice(spa, spa + length),
	};
	return memory;
}
