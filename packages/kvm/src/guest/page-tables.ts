import { PAGE_SIZE } from '@cvm/layout';
import type { GuestCpu } from '../vcpu/program.js';
import { MemoryMap } from './boot-protocol.js';
import { KernelData } from './kernel-data.js';

/** Bytes of a large page. */
export const LARGE_PAGE = 0x200000;
const GIB = 0x40000000;
/** Gibibytes that the kernel maps one to one: RAM, and the flash below 4 GiB. */
const MAPPED_GIB = 4;

const PRESENT = 1n;
const WRITE = 2n;
const PAGE_SIZE_BIT = 0x80n;
const ADDRESS = 0x000f_ffff_ffff_f000n;

const Cr0 = { pe: 1n, wp: 1n << 16n, pg: 1n << 31n } as const;
const Cr4 = { pae: 1n << 5n } as const;
const Efer = { lme: 1n << 8n, lma: 1n << 10n } as const;

const mask = (cBit: number): bigint => (cBit === 0 ? 0n : 1n << BigInt(cBit));

/** The C-bit as a mask, 0 if SEV is not active. */
const cBitMask = (cpu: GuestCpu): bigint => mask(cpu.loadU32(KernelData.cBit));

/** Turns paging on with the kernel's tables. `cBit` is the C-bit's position or 0. */
export function enterKernelTables(cpu: GuestCpu, cBit: number): void {
	cpu.cr4 |= Cr4.pae;
	cpu.efer |= Efer.lme | Efer.lma;
	cpu.cr3 = BigInt(MemoryMap.kernelPageTables) | mask(cBit);
	cpu.cr0 |= Cr0.pe | Cr0.wp | Cr0.pg;
}

/**
 * Builds the kernel's tables: one to one, 2 MiB leaves, private but for `.bss..decrypted`, as Linux's early boot code maps
 * it (arch/x86/kernel/head64.c `__startup_64`).
 */
export function buildTables(cpu: GuestCpu, cBit: number): void {
	const pool = MemoryMap.kernelPageTables;
	cpu.fill(pool, MemoryMap.kernelPageTablesEnd - pool, 0);
	const link = PRESENT | WRITE | mask(cBit);
	const pdpt = pool + PAGE_SIZE;
	cpu.storeU64(pool, BigInt(pdpt) | link);
	const table = new Uint8Array(PAGE_SIZE);
	const view = new DataView(table.buffer);
	for (let g = 0; g < MAPPED_GIB; g++) {
		const pd = pdpt + PAGE_SIZE * (g + 1);
		cpu.storeU64(pdpt + 8 * g, BigInt(pd) | link);
		for (let i = 0; i < 512; i++) {
			const at = g * GIB + i * LARGE_PAGE;
			const isShared = at >= MemoryMap.bssDecrypted && at < MemoryMap.bssDecryptedEnd;
			view.setBigUint64(8 * i, BigInt(at) | PRESENT | WRITE | PAGE_SIZE_BIT | (isShared ? 0n : mask(cBit)), true);
		}
		cpu.store(pd, table);
	}
}

/** A page-table leaf. */
export interface Leaf {
	/** Physical address, without C-bit. */
	readonly address: number;
	/** 4 KiB or 2 MiB. */
	readonly size: number;
	/** Physical address of the entry. */
	readonly entry: number;
	readonly isEncrypted: boolean;
}

/** Physical address of the table that `entry` points to, or −1 if it is not present. */
function tableOf(entry: bigint, cBit: bigint): number {
	return (entry & PRESENT) === 0n ? -1 : Number(entry & ADDRESS & ~cBit);
}

/** Address of the PDE that maps `va`, or −1. */
function pdeOf(cpu: GuestCpu, va: number, cBit: bigint): number {
	const root = Number(cpu.cr3 & ADDRESS & ~cBit);
	const pdpt = tableOf(cpu.loadU64(root + 8 * (Math.floor(va / (512 * GIB)) % 512)), cBit);
	if (pdpt < 0) return -1;
	const pd = tableOf(cpu.loadU64(pdpt + 8 * (Math.floor(va / GIB) % 512)), cBit);
	return pd < 0 ? -1 : pd + 8 * (Math.floor(va / LARGE_PAGE) % 512);
}

/** Finds the leaf that maps a virtual address, as Linux's `lookup_address`. */
export function lookupLeaf(cpu: GuestCpu, va: number): Leaf | undefined {
	const cBit = cBitMask(cpu);
	const pde = pdeOf(cpu, va, cBit);
	if (pde < 0) return undefined;
	const large = cpu.loadU64(pde);
	const table = tableOf(large, cBit);
	if (table < 0) return undefined;
	if ((large & PAGE_SIZE_BIT) !== 0n) return leaf(large, pde, LARGE_PAGE, cBit);
	const entry = table + 8 * (Math.floor(va / PAGE_SIZE) % 512);
	const small = cpu.loadU64(entry);
	return (small & PRESENT) === 0n ? undefined : leaf(small, entry, PAGE_SIZE, cBit);
}

const leaf = (value: bigint, entry: number, size: number, cBit: bigint): Leaf => ({
	address: Number(value & ADDRESS & ~cBit),
	size,
	entry,
	isEncrypted: (value & cBit) !== 0n,
});

const EFAULT = 14;
const ENOMEM = 12;

/**
 * Sets or clears the C-bit of the pages from `va` to `end` that share one 2 MiB region, and returns where the next region
 * begins. A large leaf that lies within the range keeps its size; one that does not is split first, as Linux's
 * `__change_page_attr` does. The caller holds the lock and flushes TLBs afterwards.
 *
 * −EFAULT: nothing is mapped there. −ENOMEM: a page above RAM would have to be split, which has no table.
 */
export function changeAttributes(cpu: GuestCpu, va: number, end: number, encrypted: boolean): number {
	const cBit = cBitMask(cpu);
	const pde = pdeOf(cpu, va, cBit);
	if (pde < 0) return -EFAULT;
	let value = cpu.loadU64(pde);
	if ((value & PRESENT) === 0n) return -EFAULT;
	const regionEnd = va - (va % LARGE_PAGE) + LARGE_PAGE;
	if ((value & PAGE_SIZE_BIT) !== 0n) {
		if (((value & cBit) !== 0n) === encrypted) return regionEnd;
		if (va % LARGE_PAGE === 0 && end >= regionEnd) {
			cpu.storeU64(pde, encrypted ? value | cBit : value & ~cBit);
			return regionEnd;
		}
		value = splitLargePage(cpu, pde, va, value, cBit);
		if (value === 0n) return -ENOMEM;
	}
	const first = Math.floor(va / PAGE_SIZE) % 512;
	const count = Math.ceil((Math.min(end, regionEnd) - va) / PAGE_SIZE);
	const at = tableOf(value, cBit) + 8 * first;
	const entries = new Uint8Array(8 * count);
	const view = new DataView(entries.buffer);
	cpu.load(at, entries);
	for (let i = 0; i < count; i++) {
		const old = view.getBigUint64(8 * i, true);
		if ((old & PRESENT) === 0n) return -EFAULT;
		view.setBigUint64(8 * i, encrypted ? old | cBit : old & ~cBit, true);
	}
	cpu.store(at, entries);
	return regionEnd;
}

/**
 * Replaces a 2 MiB leaf by a table of 4 KiB leaves with its attributes. Returns the new PDE, 0 if the region has no table. Each
 * region has a table of its own: with one pool for all, the memory of a guest would depend on which vCPU splits first.
 */
function splitLargePage(cpu: GuestCpu, pde: number, va: number, value: bigint, cBit: bigint): bigint {
	const table = MemoryMap.splitPageTables + PAGE_SIZE * Math.floor(va / LARGE_PAGE);
	if (table >= MemoryMap.splitPageTablesEnd) return 0n;
	const entries = new Uint8Array(PAGE_SIZE);
	const view = new DataView(entries.buffer);
	for (let i = 0; i < 512; i++) {
		view.setBigUint64(8 * i, (value & ~PAGE_SIZE_BIT) + BigInt(i * PAGE_SIZE), true);
	}
	cpu.store(table, entries);
	const replaced = BigInt(table) | PRESENT | WRITE | cBit;
	cpu.storeU64(pde, replaced);
	return replaced;
}
