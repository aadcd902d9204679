import type { GuestCpu } from '@cvm/kvm/vcpu';
import { layout, PAGE_SIZE, u64 } from '@cvm/layout';

/**
 * Base of the alias without C-bit, 0xFFFFFF8000000000: PML4 entry 511, PDPT entry 0. Negative, as {@link GuestCpu} has addresses
 * of the upper half.
 */
export const UNENCRYPTED_BASE: number = -(2 ** 39);

/** The pool that page tables are allocated from, at its start (edk2 UefiCpuPkg, `PAGE_TABLE_POOL`). */
export const poolHeader = layout('PAGE_TABLE_POOL', 24, {
	/** Pools are a ring: the only one points to itself. UNCERTAIN(edk2 UefiCpuPkg): what stands here; that the field is there is known. */
	nextPool: u64(0),
	/** Of the first free byte. */
	offset: u64(8),
	freePages: u64(16),
});

const POOL_PAGES = 11;
/** Bytes of the pool with its header. */
export const POOL_BYTES: number = POOL_PAGES * PAGE_SIZE;
const ENTRIES = 512;
/** Present, writable, accessed. */
const TABLE = 0x23n;
/** The same, dirty and large. */
const LEAF = 0xe3n;
const GIB_SHIFT = 30n;

const table = (entry: (index: number) => bigint): Uint8Array =>
	new Uint8Array(BigUint64Array.from({ length: ENTRIES }, (_, i) => entry(i)).buffer);

/** Address of the top table of a pool. */
export const rootOf = (pool: number): number => pool + PAGE_SIZE;

/**
 * A pool with the handler's page tables in it, {@link POOL_BYTES} bytes (edk2 commit c46cf443cb): header; PML4; private one-to-one map of
 * 512 GiB; alias of the first GiB without C-bit; seven spare pages. Leaves are 1 GiB each.
 *
 * @param pool guest-physical address, page-aligned
 * @param mask the C-bit, as a table entry has it
 */
export function handlerPageTables(pool: number, mask: bigint): Uint8Array {
	const root = rootOf(pool);
	const low = BigInt(root + PAGE_SIZE);
	const high = BigInt(root + 2 * PAGE_SIZE);
	const out = new Uint8Array(POOL_BYTES);
	const header = { nextPool: BigInt(pool), offset: BigInt(PAGE_SIZE), freePages: BigInt(POOL_PAGES - 1) };
	const pages = [
		poolHeader.encode(header),
		table((i) => (i === 0 ? low | mask | TABLE : i === ENTRIES - 1 ? high | mask | TABLE : 0n)),
		table((i) => (BigInt(i) << GIB_SHIFT) | mask | LEAF),
		table((i) => (i === 0 ? LEAF : 0n)),
	];
	for (const [i, page] of pages.entries()) out.set(page, i * PAGE_SIZE);
	return out;
}

/** Writes them to guest memory. */
export const buildPageTables = (cpu: GuestCpu, pool: number, mask: bigint): void =>
	cpu.store(pool, handlerPageTables(pool, mask));
