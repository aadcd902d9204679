import { PAGE_SIZE } from '@cvm/layout';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import { ExitCode } from '../abi/ghcb.js';
import type { VmState } from '../vm/state.js';
import { Register } from '../vm/vcpu-state.js';
import { hex, TripleFault } from './triple-fault.js';

/** Entries of the TLB, direct-mapped by virtual page number. */
const TLB_ENTRIES = 1024;
/** Entries for 2 MiB leaves, by number of the 2 MiB region. */
const LARGE_ENTRIES = 256;
const WRITABLE = 1;
const PRIVATE = 2;
/** Nested paging lets nobody store there. */
const LOCKED = 4;

const LARGE_PAGE = 0x200000;
const HUGE_PAGE = 0x40000000;
/** Bits of a page fault's error code. */
const Pf = { present: 1, write: 2, user: 4, reserved: 8 } as const;
const Pte = { present: 1, write: 2, large: 0x80 } as const;
/** First address that is not canonical in the lower half; the upper half begins at its negative. */
const VA_END = 2 ** 47;
/** Addresses that four levels tell apart. */
const VA_SPAN = 2 ** 48;
const CR0_PG = 1n << 31n;
const EFER_LMA = 1n << 10n;

/**
 * Address translation of one vCPU (APM vol. 2 §5.3, §15.34.5): long-mode tables of 4 levels, leaves of 4 KiB, 2 MiB and 1 GiB.
 * Under SEV, tables are read through the guest's key whatever their C-bits say, and an access is private if its leaf has the
 * C-bit; without paging every access is private. Accessed and dirty bits are not set: PROJECT.
 */
export interface Mmu {
	/**
	 * Translates one address and leaves the result in the fields below. The upper half is negative: −2^47 ≤ `va` < 2^47.
	 *
	 * DEVIATION(APM vol. 2 §5.3.1): an address that is not canonical is #PF, not #GP or #SS.
	 *
	 * @throws TripleFault `translation` or `memory`
	 */
	translate(va: number, isWrite: boolean): void;
	/** System-physical address. */
	readonly spa: number;
	/** Guest-physical address without C-bit. */
	readonly gpa: number;
	/** Key of the access: the VM's ASID, or 0 for DRAM as it is. */
	readonly asid: number;
	/** What an access that begins below 0 and ends above is answered with: nothing goes round. */
	wrapFault(isWrite: boolean): TripleFault;
	/** Forgets all translations. */
	flush(): void;
}

/** A nested page fault, which a SEV-ES guest sees as #VC. */
function noMemory(message: string, gpa: number, isWrite: boolean): TripleFault {
	return new TripleFault('memory', message, {
		errorCode: ExitCode.NPF,
		info1: BigInt(isWrite ? Pf.write : 0),
		info2: BigInt(gpa),
	});
}

/** A virtual address as the processor shows it. */
const hexVa = (va: number): string => hex(va < 0 ? BigInt.asUintN(64, BigInt(va)) : va);

export function createMmu(vm: VmState, memory: MemoryController, registers: BigUint64Array): Mmu {
	const tags = new Float64Array(TLB_ENTRIES).fill(-1);
	const spas = new Float64Array(TLB_ENTRIES);
	const gpas = new Float64Array(TLB_ENTRIES);
	const bits = new Uint8Array(TLB_ENTRIES);
	const largeTags = new Float64Array(LARGE_ENTRIES).fill(-1);
	const largeGpas = new Float64Array(LARGE_ENTRIES);
	const largeBits = new Uint8Array(LARGE_ENTRIES);
	const entry = new Uint8Array(8);
	const entryWords = new Uint32Array(entry.buffer);

	// The access that misses the TLB.
	let accessed = 0;
	let isWriteAccess = false;
	const pageFault = (message: string, errorCode: number): TripleFault => {
		const access = (isWriteAccess ? Pf.write : 0) | ((registers[Register.cpl] ?? 0n) === 3n ? Pf.user : 0);
		return new TripleFault('translation', message, { errorCode: errorCode | access, address: accessed });
	};
	const faultAt = (va: number, isWrite: boolean, message: string): TripleFault => {
		accessed = va;
		isWriteAccess = isWrite;
		return pageFault(message, Pf.present);
	};

	/** Reads a table entry into `entryWords`. */
	const readEntry = (table: number, index: number): void => {
		const gpa = table + 8 * index;
		const spa = vm.translateNested(gpa);
		if (spa < 0) throw noMemory(`page table at GPA ${hex(gpa)}: expected a memslot, got none`, gpa, false);
		memory.read(vm.sevActive ? vm.asid : 0, spa, entry);
	};

	// The leaf that `walk` found last.
	let leafAddress = 0;
	let leafSize = 0;
	let leafBits = 0;
	/** The page of that access. */
	const missed = (): string => hexVa(accessed - (accessed & (PAGE_SIZE - 1)));

	/** @param linear bits 47:0 of a canonical address */
	const walk = (linear: number): void => {
		leafBits = WRITABLE | PRIVATE;
		if (((registers[Register.cr0] ?? 0n) & CR0_PG) === 0n) {
			leafAddress = linear - (linear % LARGE_PAGE);
			leafSize = LARGE_PAGE;
			return;
		}
		if (((registers[Register.efer] ?? 0n) & EFER_LMA) === 0n) {
			throw pageFault(`VA ${missed()}: expected long mode, got legacy paging, which is not modelled`, 0);
		}
		const cBit = vm.sevActive ? 2 ** (vm.cbitPosition - 32) : 0;
		// Bits 51:32 of an address, without the C-bit.
		const highMask = 0xfffff & ~cBit;
		const cr3 = registers[Register.cr3] ?? 0n;
		let table = Number(cr3 & 0xfffff000n) + (Number((cr3 >> 32n) & 0xffffffffn) & highMask) * 2 ** 32;
		for (let shift = 2 ** 39; ; shift /= 512) {
			readEntry(table, Math.floor(linear / shift) % 512);
			const low = entryWords[0] ?? 0;
			const high = entryWords[1] ?? 0;
			if ((low & Pte.present) === 0) {
				throw pageFault(`VA ${missed()}: expected a present mapping, got none`, 0);
			}
			if ((low & Pte.write) === 0) leafBits &= ~WRITABLE;
			const isLarge = (low & Pte.large) !== 0 && shift !== PAGE_SIZE;
			if (isLarge && shift > HUGE_PAGE) {
				throw pageFault(`VA ${missed()}: expected leaves of at most 1 GiB, got a larger one`, Pf.present | Pf.reserved);
			}
			const address = ((low & 0xfffff000) >>> 0) + (high & highMask) * 2 ** 32;
			if (shift === PAGE_SIZE || isLarge) {
				if ((high & cBit) === 0) leafBits &= ~PRIVATE;
				leafAddress = address - (address % shift);
				leafSize = shift;
				if (shift === HUGE_PAGE) {
					// The TLB keeps a 1 GiB leaf as its 2 MiB parts, as processors without large enough entries do.
					leafAddress += (linear % HUGE_PAGE) - (linear % LARGE_PAGE);
					leafSize = LARGE_PAGE;
				}
				return;
			}
			table = address;
		}
	};

	/** Fills entry `slot` of the TLB for the page at `page`; `offset` is for the message. */
	const fill = (page: number, slot: number, offset: number): void => {
		if (!(page >= -VA_END && page < VA_END)) {
			throw pageFault(`VA ${hexVa(page)}: expected a canonical address, got another`, 0);
		}
		const linear = page < 0 ? page + VA_SPAN : page;
		const region = linear - (linear % LARGE_PAGE);
		const large = (region / LARGE_PAGE) % LARGE_ENTRIES;
		if (largeTags[large] === region) {
			leafAddress = largeGpas[large] ?? 0;
			leafSize = LARGE_PAGE;
			leafBits = largeBits[large] ?? 0;
		} else {
			walk(linear);
			if (leafSize === LARGE_PAGE) {
				largeTags[large] = region;
				largeGpas[large] = leafAddress;
				largeBits[large] = leafBits;
			}
		}
		const gpa = leafAddress + (linear % leafSize);
		const spa = vm.translateNested(gpa);
		if (spa < 0) throw noMemory(`GPA ${hex(gpa + offset)}: expected a memslot, got none`, gpa + offset, isWriteAccess);
		tags[slot] = page;
		spas[slot] = spa;
		gpas[slot] = gpa;
		bits[slot] = (vm.sevActive ? leafBits : leafBits & ~PRIVATE) | (vm.isSaveArea(gpa) ? LOCKED : 0);
	};

	const mmu = {
		spa: 0,
		gpa: 0,
		asid: 0,
		translate: (va: number, isWrite: boolean): void => {
			// Masks and not remainders: they are right below 0 as well. The tag is the page itself, so halves cannot meet.
			const offset = va & (PAGE_SIZE - 1);
			const page = va - offset;
			const slot = (page / PAGE_SIZE) & (TLB_ENTRIES - 1);
			if (tags[slot] !== page) {
				accessed = va;
				isWriteAccess = isWrite;
				fill(page, slot, offset);
			}
			const flags = bits[slot] ?? 0;
			mmu.gpa = (gpas[slot] ?? 0) + offset;
			if (isWrite) {
				if ((flags & WRITABLE) === 0) {
					throw faultAt(va, isWrite, `VA ${hexVa(va)}: expected a writable mapping, got a read-only one`);
				}
				if ((flags & LOCKED) !== 0) {
					throw noMemory(`GPA ${hex(mmu.gpa)}: expected writable memory, got a save area`, mmu.gpa, true);
				}
				if (!vm.isWritable(mmu.gpa)) {
					throw noMemory(`GPA ${hex(mmu.gpa)}: expected a writable memslot, got a read-only one`, mmu.gpa, true);
				}
			}
			mmu.spa = (spas[slot] ?? 0) + offset;
			mmu.asid = (flags & PRIVATE) !== 0 ? vm.asid : 0;
		},
		wrapFault: (isWrite: boolean): TripleFault =>
			faultAt(0, isWrite, 'VA 0x0: expected an access that ends in the upper half, got one that goes on'),
		flush: (): void => {
			tags.fill(-1);
			largeTags.fill(-1);
		},
	};
	return mmu;
}
