import { SHARED_ALIAS_OFFSET } from './strategy.js';

/** A u64 of a page table and where it stands. */
export interface TableEntry {
	readonly gpa: number;
	readonly value: bigint;
}

const PRESENT = 1n;
const WRITE = 2n;
const LARGE = 0x80n;
const LARGE_PAGE = 0x20_0000;
const GIB = 2 ** 30;
const PML4_SPAN = 2 ** 39;

/** What a prototype's page tables are made of. */
export interface IdentityTablesOptions {
	/** Address of the first of {@link identityTableBytes} bytes for the tables: page-aligned guest-physical. */
	readonly at: number;
	/** Bytes from 0 on that are mapped: at most 512 GiB. */
	readonly mappedBytes: number;
	readonly cbitPosition: number;
	/** Distance of the shared alias: a multiple of 512 GiB, {@link SHARED_ALIAS_OFFSET} by default. */
	readonly sharedOffset?: number;
}

/** Bytes of the tables: one of level 4, one of level 3 and those of level 2 for each of the two views. */
export const identityTableBytes = (mappedBytes: number): number => 4096 * (3 + 2 * Math.ceil(mappedBytes / GIB));

/**
 * Page tables of the prototype's migration handler, in entries that are not 0: every page private at its own address, and
 * shared at `sharedOffset` above it, in leaves of 2 MiB (APM vol. 2 §5.3.4, §15.34.5). The tables themselves are read as private.
 */
export function* identityPageTables(o: IdentityTablesOptions): Generator<TableEntry> {
	const { at, mappedBytes, cbitPosition, sharedOffset = SHARED_ALIAS_OFFSET } = o;
	const cbit = 1n << BigInt(cbitPosition);
	const directories = Math.ceil(mappedBytes / GIB);
	const link = (to: number): bigint => BigInt(to) | PRESENT | WRITE | cbit;
	for (const [view, leafBit] of [cbit, 0n].entries()) {
		const level3 = at + 4096 * (1 + view * (1 + directories));
		yield { gpa: at + 8 * (view * (sharedOffset / PML4_SPAN)), value: link(level3) };
		for (let d = 0; d < directories; d++) {
			const level2 = level3 + 4096 * (1 + d);
			yield { gpa: level3 + 8 * d, value: link(level2) };
			for (let i = 0; i < 512 && d * GIB + i * LARGE_PAGE < mappedBytes; i++) {
				yield { gpa: level2 + 8 * i, value: BigInt(d * GIB + i * LARGE_PAGE) | PRESENT | WRITE | LARGE | leafBit };
			}
		}
	}
}
