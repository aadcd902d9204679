import { PAGE_SIZE } from '@cvm/layout';
import type { GuestCpu } from '../vcpu/program.js';
import { KernelOffset, MemoryMap } from './boot-protocol.js';
import { cBitOf } from './kernel-data.js';

/** Bytes of a large page. */
export const LARGE_PAGE = 0x200000;
/** Bytes of the largest page. */
const HUGE_PAGE = 0x40000000;
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
const cBitMask = (cpu: GuestCpu): bigint => mask(cBitOf(cpu));

/** Turns paging on with the tables of the kernel that was loaded at `base`. `cBit` is the C-bit's position or 0. */
export function enterKernelTables(cpu: GuestCpu, base: number, cBit: number): void {
	cpu.cr4 |= Cr4.pae;
	cpu.efer |= Efer.lme | Efer.lma;
	cpu.cr3 = BigInt(base + KernelOffset.pageTables) | mask(cBit);
	cpu.cr0 |= Cr0.pe | Cr0.wp | Cr0.pg;
}

/** A page of 512 entries. */
const tableOfEntries = (entry: (index: number) => bigint): Uint8Array =>
	new Uint8Array(BigUint64Array.from({ length: 512 }, (_, i) => entry(i)).buffer);

/**
 * Builds the tables of the kernel at `base`: one to one, 2 MiB leaves, private but for `.bss..decrypted`, as Linux's early
 * boot code maps it (arch/x86/kernel/head64.c `__startup_64`). With `gbPages`, the GiB without it get leaves of 1 GiB.
 */
export function buildTables(cpu: GuestCpu, base: number, cBit: number, gbPages: boolean): void {
	const pool = base + KernelOffset.pageTables;
	const bss = base + KernelOffset.bssDecrypted;
	const bssEnd = base + KernelOffset.end;
	cpu.fill(pool, KernelOffset.pageTablesEnd - KernelOffset.pageTables, 0);
	const link = PRESENT | WRITE | mask(cBit);
	const pdpt = pool + PAGE_SIZE;
	cpu.storeU64(pool, BigInt(pdpt) | link);
	for (let g = 0; g < MAPPED_GIB; g++) {
		if (gbPages && (bssEnd <= g * HUGE_PAGE || bss >= (g + 1) * HUGE_PAGE)) {
			cpu.storeU64(pdpt + 8 * g, BigInt(g * HUGE_PAGE) | link | PAGE_SIZE_BIT);
			continue;
		}
		cpu.storeU64(pdpt + 8 * g, BigInt(pdpt + PAGE_SIZE * (g + 1)) | link);
		const leafAt = (i: number): bigint => {
			const at = g * HUGE_PAGE + i * LARGE_PAGE;
			return BigInt(at) | PRESENT | WRITE | PAGE_SIZE_BIT | (at >= bss && at < bssEnd ? 0n : mask(cBit));
		};
		cpu.store(pdpt + PAGE_SIZE * (g + 1), tableOfEntries(leafAt));
	}
}

/** A page-table leaf. */
export interface Leaf {
	/** Physical address, without C-bit. */
	readonly address: number;
	/** 4 KiB, 2 MiB or 1 GiB. */
	readonly size: number;
	/** Physical address of the entry. */
	readonly entry: number;
	/** What stands there. */
	readonly value: bigint;
	readonly isEncrypted: boolean;
}

/** Finds the leaf that maps a virtual address, as Linux's `lookup_address`. */
export function lookupLeaf(cpu: GuestCpu, va: number): Leaf | undefined {
	const cBit = cBitMask(cpu);
	let table = Number(cpu.cr3 & ADDRESS & ~cBit);
	for (let size = 512 * HUGE_PAGE; ; size /= 512) {
		const entry = table + 8 * (Math.floor(va / size) % 512);
		const value = cpu.loadU64(entry);
		if ((value & PRESENT) === 0n) return undefined;
		const address = Number(value & ADDRESS & ~cBit);
		if (size === PAGE_SIZE || (value & PAGE_SIZE_BIT) !== 0n) {
			return { address, size, entry, value, isEncrypted: (value & cBit) !== 0n };
		}
		table = address;
	}
}

/** A leaf's entry with the C-bit set or clear. */
export const withEncryption = (cpu: GuestCpu, value: bigint, encrypted: boolean): bigint => {
	const cBit = cBitMask(cpu);
	return encrypted ? value | cBit : value & ~cBit;
};

const EFAULT = 14;
const ENOMEM = 12;

/**
 * Sets or clears the C-bit of the pages from `va` to `end` that share one leaf's region, and returns where the next region
 * begins. A large leaf that lies within the range keeps its size; one that does not is split first, as Linux's
 * `__change_page_attr` does. The caller holds the lock and flushes TLBs afterwards.
 *
 * −EFAULT: nothing is mapped there. −ENOMEM: a page above RAM would have to be split, which has no table.
 */
export function changeAttributes(cpu: GuestCpu, va: number, end: number, encrypted: boolean): number {
	let leaf = lookupLeaf(cpu, va);
	while (leaf !== undefined && leaf.size > PAGE_SIZE) {
		const start = va - (va % leaf.size);
		const next = start + leaf.size;
		if (leaf.isEncrypted === encrypted) return next;
		if (va === start && end >= next) {
			cpu.storeU64(leaf.entry, withEncryption(cpu, leaf.value, encrypted));
			return next;
		}
		if (!splitLeaf(cpu, va, leaf)) return -ENOMEM;
		leaf = lookupLeaf(cpu, va);
	}
	if (leaf === undefined) return -EFAULT;
	const regionEnd = va - (va % LARGE_PAGE) + LARGE_PAGE;
	const count = Math.ceil((Math.min(end, regionEnd) - va) / PAGE_SIZE);
	const entries = new Uint8Array(8 * count);
	const view = new DataView(entries.buffer);
	cpu.load(leaf.entry, entries);
	for (let i = 0; i < count; i++) {
		const old = view.getBigUint64(8 * i, true);
		if ((old & PRESENT) === 0n) return -EFAULT;
		view.setBigUint64(8 * i, withEncryption(cpu, old, encrypted), true);
	}
	cpu.store(leaf.entry, entries);
	return regionEnd;
}

/**
 * Replaces the large leaf that maps `va` by a table of the next smaller leaves with its attributes; false if the region has
 * no table. Each region has a table of its own: with one pool for all, the memory of a guest would depend on which vCPU
 * splits first.
 */
export function splitLeaf(cpu: GuestCpu, va: number, leaf: Leaf): boolean {
	const root = Number(cpu.cr3 & ADDRESS & ~cBitMask(cpu));
	const isHuge = leaf.size === HUGE_PAGE;
	const table = isHuge
		? root + PAGE_SIZE * (2 + Math.floor(va / HUGE_PAGE))
		: MemoryMap.splitPageTables + PAGE_SIZE * Math.floor(va / LARGE_PAGE);
	if (!isHuge && table >= MemoryMap.splitPageTablesEnd) return false;
	const step = BigInt(leaf.size / 512);
	const first = isHuge ? leaf.value : leaf.value & ~PAGE_SIZE_BIT;
	cpu.store(
		table,
		tableOfEntries((i) => first + BigInt(i) * step),
	);
	cpu.storeU64(leaf.entry, withEncryption(cpu, BigInt(table) | PRESENT | WRITE, true));
	return true;
}
