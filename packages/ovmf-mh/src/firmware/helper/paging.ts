import type { GuestCpu } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { HelperGeometry } from '../../geometry.js';

/**
 * First address of the map that shows guest memory without the C-bit: 0xFFFFFF8000000000, page-table slot 511 of 512, as the
 * posted handler has it (edk2 branch sev-mirror2-patches, UNENC_VIRT_ADDR_BASE). A negative number: see `GuestCpu`.
 */
export const SHARED_ALIAS = -(2 ** 39);

/** Present, writable, accessed. */
const LINK = 0x23n;
/** The same with dirty, and a leaf. */
const LEAF = 0xe3n;
const ENTRIES = 512;

const { pageTables } = HelperGeometry;
const mask = (cBit: number): bigint => (cBit === 0 ? 0n : 1n << BigInt(cBit));

/** What the helper loads into CR3: the whole address with the C-bit, where the posted one keeps 32 bits of it (K16). */
export const helperCr3 = (cBit: number): bigint => BigInt(pageTables) | mask(cBit);

/**
 * The three pages of tables, in leaves of 1 GiB as posted: slot 0 maps 512 GiB one to one and private, slot 511 the first GiB
 * shared. The C-bit stands where this processor has it (K15).
 */
export function helperTables(cBit: number): Uint8Array {
	const entries = new BigUint64Array(3 * ENTRIES);
	const [, low, high] = [0, ENTRIES, 2 * ENTRIES] as const;
	entries[0] = BigInt(pageTables + PAGE_SIZE) | mask(cBit) | LINK;
	entries[ENTRIES - 1] = BigInt(pageTables + 2 * PAGE_SIZE) | mask(cBit) | LINK;
	for (let i = 0; i < ENTRIES; i++) entries[low + i] = (BigInt(i) << 30n) | mask(cBit) | LEAF;
	entries[high] = LEAF;
	const bytes = new Uint8Array(8 * entries.length);
	const view = new DataView(bytes.buffer);
	for (const [i, entry] of entries.entries()) view.setBigUint64(8 * i, entry, true);
	return bytes;
}

/** Goes over to the helper's tables. The mode is long mode already. */
export function enterHelperTables(cpu: GuestCpu, cBit: number): void {
	cpu.cr3 = helperCr3(cBit);
}
