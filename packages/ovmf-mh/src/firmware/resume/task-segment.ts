/** A GDT's descriptor of a task segment: 16 bytes (APM vol. 2 §4.8.3). */
export interface TaskDescriptor {
	readonly base: bigint;
	readonly limit: number;
	readonly isPresent: boolean;
	/** Bit 41: LTR of a busy one is #GP. */
	readonly isBusy: boolean;
	/** A 64-bit TSS at all. */
	readonly isTask: boolean;
}

const TSS_AVAILABLE = 9n;
const TSS_BUSY = 11n;
/** Bit 41 of the first quadword: bit 1 of its sixth byte. */
export const BUSY_BIT = { byte: 5, mask: 2 } as const;

/** Decodes the two quadwords of a descriptor. */
export function taskDescriptor(low: bigint, high: bigint): TaskDescriptor {
	const type = (low >> 40n) & 0xfn;
	const limit = (low & 0xffffn) | ((low >> 32n) & 0xf0000n);
	const isFine = (low & (1n << 55n)) !== 0n;
	return {
		base: ((low >> 16n) & 0xffffffn) | ((low >> 32n) & 0xff000000n) | ((high & 0xffffffffn) << 32n),
		limit: Number(isFine ? (limit << 12n) | 0xfffn : limit),
		isPresent: (low & (1n << 47n)) !== 0n,
		isBusy: type === TSS_BUSY,
		isTask: (type === TSS_BUSY || type === TSS_AVAILABLE) && (low & (1n << 44n)) === 0n,
	};
}
