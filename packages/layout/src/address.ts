declare const brand: unique symbol;
type Branded<B extends string> = number & { readonly [brand]: B };

/** Guest-physical address, in bytes, without the C-bit. */
export type Gpa = Branded<'gpa'>;
/** System-physical address, in bytes, without the C-bit. */
export type Spa = Branded<'spa'>;
/** Host-virtual address of the VMM, in bytes. */
export type Hva = Branded<'hva'>;
/** Guest frame number: a {@link Gpa} divided by the 4 KiB page size. */
export type Gfn = Branded<'gfn'>;
/** Address-space identifier: the number that selects a memory-encryption key. 0 is the host. */
export type Asid = Branded<'asid'>;

/** Bits of an offset within a 4 KiB page. */
export const PAGE_SHIFT = 12;
/** Bytes in a page: the only size in which this model moves guest memory. */
export const PAGE_SIZE = 4096;

/**
 * Addresses are kept as `number`: x86 physical addresses have at most 52 bits, which a double holds exactly.
 * They become `bigint` only inside ABI structures.
 *
 * @throws RangeError if the value is negative, fractional or has more than 52 bits
 */
const address =
	<T extends number>(kind: string) =>
	(value: number | bigint): T => {
		const n = Number(value);
		if (!Number.isSafeInteger(n) || n < 0 || n >= 2 ** 52) {
			throw new RangeError(`${kind}: expected an address of at most 52 bits, got ${String(value)}`);
		}
		return n as T;
	};

/** Checks and brands a guest-physical address. @throws RangeError if it does not fit 52 bits */
export const gpa = address<Gpa>('GPA');
/** Checks and brands a system-physical address. @throws RangeError if it does not fit 52 bits */
export const spa = address<Spa>('SPA');
/** Checks and brands a host-virtual address. @throws RangeError if it does not fit 52 bits */
export const hva = address<Hva>('HVA');
/** Checks and brands a guest frame number. @throws RangeError if it does not fit 52 bits */
export const gfn = address<Gfn>('GFN');
/** Checks and brands an ASID. @throws RangeError if it does not fit 52 bits */
export const asid = address<Asid>('ASID');

/** The frame that holds an address. */
export const gpaToGfn = (address: Gpa): Gfn => Math.floor(address / PAGE_SIZE) as Gfn;
/** The first address of a frame. */
export const gfnToGpa = (frame: Gfn): Gpa => (frame * PAGE_SIZE) as Gpa;
/** Whether an address is a multiple of `alignment`, which need not be a power of two. */
export const isAligned = (address: number, alignment: number): boolean => address % alignment === 0;
/** How many 4 KiB pages `bytes` bytes touch when they start on a page boundary. */
export const pagesIn = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);
