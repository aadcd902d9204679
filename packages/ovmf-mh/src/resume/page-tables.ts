import { PAGE_SIZE } from '@cvm/layout';

/** Reads a u64 at a guest-physical address, as the tables' owner stores it. */
export type ReadEntry = (gpa: number) => bigint;

/** Where an address leads. */
export interface Leaf {
	/** Guest-physical, of the address itself. */
	readonly gpa: number;
	readonly isWritable: boolean;
	/** The C-bit. */
	readonly isPrivate: boolean;
	readonly isExecutable: boolean;
	/** Guest-physical address of the entry. */
	readonly entry: number;
}

const ENTRIES = 512;
const Pte = { present: 1n, write: 2n, accessed: 0x20n, dirty: 0x40n, large: 0x80n, nx: 1n << 63n } as const;
const ADDRESS = 0x000f_ffff_ffff_f000n;
const LEVELS = [39n, 30n, 21n, 12n] as const;
const LARGE = 0x200000n;

const maskOf = (cBit: number): bigint => (cBit === 0 ? 0n : 1n << BigInt(cBit));
/** Bits 47:0 of an address, whichever half it is in. */
const linear = (va: bigint): bigint => BigInt.asUintN(48, va);

/** Whether bits 63:47 are all the same. */
export const isCanonical = (va: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(48, va)) === va;

/**
 * Walks 4-level tables (APM vol. 2 §5.3). `undefined`: not mapped, or an address that is not canonical.
 *
 * @param cr3 of the tables' owner
 * @param va 64 bits
 * @param cBit its position, 0 without SEV
 */
export function walkTables(read: ReadEntry, cr3: bigint, va: bigint, cBit: number): Leaf | undefined {
	if (!isCanonical(va)) return undefined;
	const mask = maskOf(cBit);
	let table = cr3 & ADDRESS & ~mask;
	let isWritable = true;
	let isExecutable = true;
	for (const shift of LEVELS) {
		const at = Number(table + 8n * ((linear(va) >> shift) & BigInt(ENTRIES - 1)));
		const entry = read(at);
		if ((entry & Pte.present) === 0n) return undefined;
		isWritable &&= (entry & Pte.write) !== 0n;
		isExecutable &&= (entry & Pte.nx) === 0n;
		const isLarge = (entry & Pte.large) !== 0n && shift !== 12n;
		if (isLarge && shift === 39n) return undefined;
		table = entry & ADDRESS & ~mask;
		if (shift !== 12n && !isLarge) continue;
		const offset = linear(va) & ((1n << shift) - 1n);
		const gpa = Number(table - (table & ((1n << shift) - 1n)) + offset);
		return { gpa, isWritable, isPrivate: (entry & mask) !== 0n, isExecutable, entry: at };
	}
	return undefined;
}

/** Pages that {@link intermediateTables} fills: PML4, then PDPT and PD of each of the two maps. */
export const INTERMEDIATE_PAGES = 5;

/**
 * The page table between the firmware's and the source's: the 2 MiB around a page of the trampoline, at its guest-physical address
 * and at the address where the source's kernel has it. One PDPT and PD do for both if the two addresses differ in bits 47:39 alone,
 * as they do with the direct map of a kernel without KASLR.
 *
 * @param root guest-physical address of the first of {@link INTERMEDIATE_PAGES} pages
 * @param gpa of a page of the trampoline: all of them in the same 2 MiB
 * @param va where the source's kernel has it, 64 bits: an input, since KASLR moves it
 * @param cBit its position, 0 without SEV
 * @throws RangeError for a `va` that is not canonical, or not as far into its 2 MiB as `gpa`
 */
export function intermediateTables(o: { root: number; gpa: number; va: bigint; cBit: number }): Uint8Array {
	const { root, cBit } = o;
	const gpa = BigInt(o.gpa);
	if (!isCanonical(o.va)) throw new RangeError(`VA: expected a canonical address, got 0x${o.va.toString(16)}`);
	if (o.va % LARGE !== gpa % LARGE) {
		throw new RangeError(
			`VA: expected the same place in 2 MiB as GPA 0x${gpa.toString(16)}, got 0x${o.va.toString(16)}`,
		);
	}
	const entries = new BigUint64Array(INTERMEDIATE_PAGES * ENTRIES);
	const link = maskOf(cBit) | Pte.present | Pte.write | Pte.accessed;
	const leaf = (gpa - (gpa % LARGE)) | link | Pte.dirty | Pte.large;
	const index = (va: bigint, shift: bigint): number => Number((linear(va) >> shift) & BigInt(ENTRIES - 1));
	const pageAt = (page: number): bigint => BigInt(root + page * PAGE_SIZE);
	const map = (va: bigint, first: number): void => {
		entries[index(va, 39n)] = pageAt(first) | link;
		entries[first * ENTRIES + index(va, 30n)] = pageAt(first + 1) | link;
		entries[(first + 1) * ENTRIES + index(va, 21n)] = leaf;
	};
	map(gpa, 1);
	if (linear(o.va) % (1n << 39n) === gpa) entries[index(o.va, 39n)] = pageAt(1) | link;
	else if (index(o.va, 39n) !== index(gpa, 39n)) map(o.va, 3);
	else {
		// The same PDPT serves both.
		const pd = index(o.va, 30n) === index(gpa, 30n) ? 2 : 3;
		entries[ENTRIES + index(o.va, 30n)] = pageAt(pd) | link;
		entries[pd * ENTRIES + index(o.va, 21n)] = leaf;
	}
	const bytes = new Uint8Array(8 * entries.length);
	const view = new DataView(bytes.buffer);
	for (const [i, entry] of entries.entries()) view.setBigUint64(8 * i, entry, true);
	return bytes;
}
