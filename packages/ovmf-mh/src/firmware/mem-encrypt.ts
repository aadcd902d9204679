import { EfiStatus, MemoryMap } from '@cvm/kvm/guest';
import type { Block, GuestCpu } from '@cvm/kvm/vcpu';
import { isAligned, PAGE_SIZE } from '@cvm/layout';
import { type FirmwareOptions, REPORT_CALLS } from './options.js';
import { LARGE_PAGE, splitLargePage } from './sec.js';
import { FirmwareMemory, setWorkWord, VARIABLE_FLASH, workWord } from './work-area.js';

const LARGE = 0x80n;
/** Which page splits a leaf: each has one of its own. */
const SPLIT_TABLES: readonly (readonly [leaf: number, table: number])[] = [
	[MemoryMap.firmware, FirmwareMemory.ghcbPageTable],
	[MemoryMap.firmware + LARGE_PAGE, FirmwareMemory.windowPageTable],
	[VARIABLE_FLASH.base, FirmwareMemory.flashPageTable],
];
const alignUp = (address: number): number => Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
const leafOf = (address: number): number => address - (address % LARGE_PAGE);

/** Whether the firmware has what it needs to change the C-bit of these pages. */
function canSplit(first: number, end: number): boolean {
	for (let leaf = leafOf(first); leaf < end; leaf += LARGE_PAGE) {
		if (!SPLIT_TABLES.some(([own]) => own === leaf)) return false;
	}
	return true;
}

/** Sets or clears the C-bit of pages in the firmware's tables; whether any was changed. */
function changeMask(cpu: GuestCpu, first: number, end: number, encrypted: boolean): boolean {
	const mask = workWord(cpu, 'encryptionMask');
	let touched = false;
	for (let page = first; page < end; page += PAGE_SIZE) {
		const leaf = leafOf(page);
		const table = SPLIT_TABLES.find(([own]) => own === leaf)?.[1] ?? 0;
		const entry = MemoryMap.secPageTables + 2 * PAGE_SIZE + 8 * (leaf / LARGE_PAGE);
		const value = cpu.loadU64(entry);
		if (value & LARGE) splitLargePage(cpu, leaf, table, entry);
		const at = table + 8 * ((page - leaf) / PAGE_SIZE);
		const old = cpu.loadU64(at);
		const changed = encrypted ? old | mask : old & ~mask;
		if (changed !== old) cpu.storeU64(at, changed);
		touched ||= changed !== old;
	}
	return touched;
}

/**
 * `fw.enc_dec`: SetMemoryEncDec of OVMF's BaseMemEncryptSevLib with the live-migration patches v6. RDI = address, RSI = bytes, RDX = 1
 * to encrypt, 0 to decrypt; RAX = EFI_STATUS. The pages that the range touches change in the tables, the TLB is flushed, and then, if
 * any C-bit changed, one report is made.
 *
 * `fw.report`: SetMemoryEncDecHypercall3. RDI, RSI, RDX the same; RAX = EFI_STATUS: UNSUPPORTED without the feature, NO_MAPPING if the
 * host did not take it. Which pages it names, see {@link ReportOptions.range}.
 *
 * Both keep RBP, RDI, RSI and R12 … R15.
 */
export function memEncryptBlocks({
	abi = 'upstream',
	reportsPages = true,
	reports = {},
}: FirmwareOptions): Record<string, Block> {
	const { status = 'fixed', range = 'fixed', call = 'lm6' } = reports;
	const form = REPORT_CALLS[call];
	// v12's host knows 0 and 1.
	const encryptedValue = abi === 'v12' && call === 'lm6' ? 1 : form.encrypted;
	return {
		'fw.enc_dec': (cpu) => {
			const [address, bytes] = [cpu.num('rdi'), cpu.num('rsi')];
			const [first, end] = [address - (address % PAGE_SIZE), alignUp(address + bytes)];
			if (bytes === 0 || !canSplit(first, end)) {
				cpu.setReg('rax', bytes === 0 ? EfiStatus.invalidParameter : EfiStatus.unsupported);
				return cpu.ret();
			}
			const touched = changeMask(cpu, first, end, cpu.num('rdx') === 1);
			cpu.setReg('rax', EfiStatus.success);
			if (!touched) return cpu.ret();
			cpu.flushTlb();
			return cpu.call('fw.report', 'fw.enc_dec.status');
		},
		'fw.enc_dec.status': (cpu) => {
			if (status === 'fixed' && cpu.reg('rax') === EfiStatus.unsupported) cpu.setReg('rax', EfiStatus.success);
			return cpu.ret();
		},

		'fw.report': (cpu) => {
			if (!reportsPages || workWord(cpu, 'hypercall') === 0n) {
				cpu.setReg('rax', EfiStatus.unsupported);
				return cpu.ret();
			}
			const [address, bytes] = [cpu.num('rdi'), cpu.num('rsi')];
			const skipped = range === 'fixed' ? address % PAGE_SIZE : 0;
			const pages = alignUp(skipped + bytes) / PAGE_SIZE;
			cpu.setNum('rax', form.number);
			cpu.setNum('rbx', address - (address % PAGE_SIZE));
			cpu.setNum('rcx', form.unit === 'page' ? pages : pages * PAGE_SIZE);
			cpu.setNum('rdx', cpu.num('rdx') === 1 ? encryptedValue : form.decrypted);
			return cpu.vmmcall('fw.report.result');
		},
		'fw.report.result': (cpu) => {
			const refused = cpu.reg('rax') !== 0n && form.checksResult;
			// A host that did not take the report must not be told that it has them all.
			if (refused) setWorkWord(cpu, 'refused', 1n);
			cpu.setReg('rax', refused ? NO_MAPPING : EfiStatus.success);
			return cpu.ret();
		},
	};
}

/** EFI_NO_MAPPING (UEFI 2.10 appendix D). */
export const NO_MAPPING = 0x8000000000000011n;

/**
 * Loads the registers of `fw.enc_dec` and `fw.report`.
 *
 * @throws RangeError for a range that is not whole pages: the firmware's own are
 */
export function pagesArgument(cpu: GuestCpu, start: number, end: number, encrypted = false): void {
	if (!isAligned(start, PAGE_SIZE) || !isAligned(end, PAGE_SIZE)) {
		throw new RangeError(`pages: expected whole pages, got 0x${start.toString(16)} to 0x${end.toString(16)}`);
	}
	cpu.setNum('rdi', start);
	cpu.setNum('rsi', end - start);
	cpu.setNum('rdx', encrypted ? 1 : 0);
}
