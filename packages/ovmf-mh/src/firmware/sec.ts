import { AP_MAILBOX_MAGIC, apMailbox, initGhcb, loadIdt, MemoryMap, writeGhcbMsr } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { guidToBytes, PAGE_SIZE } from '@cvm/layout';
import { PublishedGeometry } from '../geometry.js';
import type { FirmwareOptions } from './options.js';
import {
	CODE_BASE,
	FirmwareMemory,
	isSevEs,
	isTargetMarked,
	markedHandler,
	setWorkWord,
	workWord,
} from './work-area.js';

/** SEV_STATUS (AMD APM vol. 2 §15.34.10): bit 0 says that this guest runs with SEV. Its read is never intercepted. */
const SEV_STATUS = 0xc0010131n;
/** Starts the table of launch secrets: a GUID, then the length of the whole in a u32 (Linux drivers/virt/coco/efi_secret). */
const SECRET_TABLE = guidToBytes('1e74f542-71dd-4d66-963e-ef4287ff173b');
/** Bytes of a large page. */
export const LARGE_PAGE = 0x200000;
/** Present, writable, accessed, dirty. */
const PAGE = 0x63n;
const LARGE = 0x80n;
const CR0_PG = 0x80000000n;
const CR0_PG_PE = 0x80000001n;
const CR4_PAE = 0x20n;
const EFER_LME = 0x100n;

const pageTable = (entry: (index: number) => bigint): Uint8Array =>
	new Uint8Array(BigUint64Array.from({ length: 512 }, (_, i) => entry(i)).buffer);

/** GHCB pages of the boot processor that are shared. */
export const sharedGhcbPages = ({ reports }: FirmwareOptions): number =>
	(reports?.ghcb ?? 'bothShared') === 'bothShared' ? MemoryMap.ghcbPages : 1;

/** Bytes of the secret table that LAUNCH_SECRET left, 0 without one: then the area holds what the memory held before. */
function secretLength(cpu: GuestCpu): number {
	const { secret, secretBytes } = MemoryMap;
	const guid = new Uint8Array(SECRET_TABLE.length);
	cpu.load(secret, guid);
	const length = cpu.loadU32(secret + guid.length);
	return SECRET_TABLE.every((byte, i) => byte === guid[i]) && length <= secretBytes ? length : 0;
}

/**
 * Gives all memory that stays the firmware's defined contents, except the owner's secret, variables that outlive a reset, and the mailbox
 * of the handler of 2021, which as posted nobody touches before the handler does.
 */
function clearOwnMemory(cpu: GuestCpu, { helper, variableStore }: FirmwareOptions): void {
	const { firmware, firmwareEnd, secret, variableStore: store, variableStoreBytes } = MemoryMap;
	const { mailbox, mailboxBytes } = PublishedGeometry;
	const kept = [[secret, secret + secretLength(cpu)]];
	if (helper === 'rfc-2021') kept.push([mailbox, mailbox + mailboxBytes]);
	if (variableStore === 'kept') kept.push([store, store + variableStoreBytes]);
	let at: number = firmware;
	for (const [from = at, to = at] of [...kept, [firmwareEnd, firmwareEnd]]) {
		cpu.fill(at, from - at, 0);
		at = to;
	}
}

/**
 * 4 GiB, mapped one to one and private, in 2 MiB leaves; the leaf around the GHCB is split and the GHCB shared. With SEV-ES so
 * are the GHCBs of the other processors. `ghcbPages` of the boot processor's two are.
 */
function buildPageTables(cpu: GuestCpu, mask: bigint, isEs: boolean, ghcbPages: number): void {
	const top = MemoryMap.secPageTables;
	const pointers = top + PAGE_SIZE;
	const directories = top + 2 * PAGE_SIZE;
	const split = FirmwareMemory.ghcbPageTable;
	const shared = (address: number) =>
		(address >= MemoryMap.ghcb && address < MemoryMap.ghcb + ghcbPages * PAGE_SIZE) ||
		(isEs && address >= MemoryMap.apGhcb && address < MemoryMap.apGhcbEnd);
	cpu.store(
		top,
		pageTable((i) => (i === 0 ? BigInt(pointers) | PAGE | mask : 0n)),
	);
	cpu.store(
		pointers,
		pageTable((i) => (i < 4 ? BigInt(directories + i * PAGE_SIZE) | PAGE | mask : 0n)),
	);
	for (let d = 0; d < 4; d++) {
		const leaf = (i: number) => {
			const address = (d * 512 + i) * LARGE_PAGE;
			if (address === MemoryMap.firmware) return BigInt(split) | PAGE | mask;
			return BigInt(address) | PAGE | LARGE | mask;
		};
		cpu.store(directories + d * PAGE_SIZE, pageTable(leaf));
	}
	const page = (i: number) => {
		const address = MemoryMap.firmware + i * PAGE_SIZE;
		return BigInt(address) | PAGE | (shared(address) ? 0n : mask);
	};
	cpu.store(split, pageTable(page));
}

/** Turns on paging with the firmware's tables. */
export function enterFirmwareTables(cpu: GuestCpu): void {
	cpu.cr4 |= CR4_PAE;
	cpu.cr3 = BigInt(MemoryMap.secPageTables);
	cpu.efer |= EFER_LME;
	cpu.cr0 |= CR0_PG_PE;
}

/** Replaces the 2 MiB leaf at `entry` by 4 KiB leaves in `table`, all private. */
export function splitLargePage(cpu: GuestCpu, leaf: number, table: number, entry: number): void {
	const mask = workWord(cpu, 'encryptionMask');
	cpu.store(
		table,
		pageTable((i) => BigInt(leaf + i * PAGE_SIZE) | PAGE | mask),
	);
	cpu.storeU64(entry, BigInt(table) | PAGE | mask);
}

/** To the kernel if it wakes processors, else to `again` at the next tick. */
function awaitKernel(cpu: GuestCpu, again: string): Next {
	const mailbox = MemoryMap.apMailbox;
	if (cpu.loadU64(mailbox + apMailbox.offsetOf('magic')) !== AP_MAILBOX_MAGIC) return cpu.hlt(again);
	return cpu.jump(cpu.loadNum(mailbox + apMailbox.offsetOf('entry')));
}

const low32 = (value: bigint) => value & 0xffffffffn;

const secBlocks = (o: FirmwareOptions): Record<string, Block> => ({
	/** The read of this register neither exits nor raises #VC, whatever the guest is. */
	reset: (cpu) => {
		cpu.setReg('rcx', SEV_STATUS);
		return cpu.rdmsr('fw.sec.reset');
	},
	// CPUID raises #VC in a SEV-ES guest, and there is no GHCB yet.
	'fw.sec.reset': (cpu) => {
		if ((cpu.reg('rax') & 2n) === 0n) return cpu.jump('fw.sec');
		cpu.setNum('rsp', FirmwareMemory.stackTop);
		loadIdt(cpu, FirmwareMemory.idt, 'fw.vc.no_ghcb');
		return cpu.jump('fw.sec');
	},

	'fw.sec': (cpu) => {
		cpu.setNum('rax', 1);
		cpu.setNum('rcx', 0);
		return cpu.cpuid('fw.sec.which_cpu');
	},
	'fw.sec.which_cpu': (cpu) => {
		if (low32(cpu.reg('rbx')) >> 24n !== 0n) return cpu.jump('fw.ap.wait');
		cpu.setNum('rax', 0x80000000);
		return cpu.cpuid('fw.sec.leaves');
	},
	'fw.sec.leaves': (cpu) => {
		cpu.setNum('r12', 0);
		cpu.setNum('r13', 0);
		if (low32(cpu.reg('rax')) < 0x8000001fn) return cpu.jump('fw.sec.tables');
		cpu.setNum('rax', 0x8000001f);
		return cpu.cpuid('fw.sec.sev_leaf');
	},
	'fw.sec.sev_leaf': (cpu) => {
		// CPUID is the host's word; it only says whether the register below exists and where the C-bit is.
		if ((cpu.reg('rax') & 2n) === 0n) return cpu.jump('fw.sec.tables');
		cpu.setReg('r12', 1n << (cpu.reg('rbx') & 0x3fn));
		cpu.setReg('rcx', SEV_STATUS);
		return cpu.rdmsr('fw.sec.sev_status');
	},
	'fw.sec.sev_status': (cpu) => {
		if ((cpu.reg('rax') & 1n) === 0n) cpu.setNum('r12', 0);
		else cpu.setReg('r13', cpu.reg('rax'));
		return cpu.jump('fw.sec.tables');
	},
	'fw.sec.tables': (cpu) => {
		const mask = cpu.reg('r12');
		clearOwnMemory(cpu, o);
		setWorkWord(cpu, 'encryptionMask', mask);
		setWorkWord(cpu, 'sevStatus', cpu.reg('r13'));
		buildPageTables(cpu, mask, isSevEs(cpu), sharedGhcbPages(o));
		if (isSevEs(cpu)) loadIdt(cpu, FirmwareMemory.idt, 'fw.vc.handler');
		enterFirmwareTables(cpu);
		cpu.setNum('rsp', FirmwareMemory.stackTop);
		return cpu.jump('fw.sec.ghcb');
	},
	'fw.sec.ghcb': (cpu) => {
		// Through the new mapping: the host may read these pages, so they must not hold what the private view left there.
		cpu.fill(MemoryMap.ghcb, MemoryMap.ghcbPages * PAGE_SIZE, 0);
		if (!isSevEs(cpu)) return cpu.jump('fw.pei');
		for (let at: number = MemoryMap.apGhcb; at < MemoryMap.apGhcbEnd; at += PAGE_SIZE) initGhcb(cpu, at, 1);
		initGhcb(cpu, MemoryMap.ghcb, 1);
		cpu.gsBase = MemoryMap.ghcb;
		return writeGhcbMsr(cpu, MemoryMap.ghcb, 0, 'fw.pei');
	},

	// From a kernel that hands over to another one: first of all away from its page tables.
	'fw.ap.reset': (cpu) => {
		cpu.cr0 &= ~CR0_PG;
		return cpu.jump('fw.ap.again');
	},
	// Not the loop below: a guest that arrived here goes on, and its machine was a target only before.
	'fw.ap.again': (cpu) => awaitKernel(cpu, 'fw.ap.again'),
	'fw.ap.wait': (cpu) => {
		// The mailbox may come with the guest that a target waits for; the other word is the machine's own.
		if (o.helper !== undefined && o.helper !== 'none' && isTargetMarked(cpu)) return cpu.jump('fw.ap.park');
		if (o.handlerOn === 'applicationProcessor' && markedHandler(cpu) !== 0) return cpu.jump('fw.ap.handler');
		return cpu.jump('fw.ap.mailbox');
	},
	'fw.ap.mailbox': (cpu) => awaitKernel(cpu, 'fw.ap.wait'),
});

/** Reset vector, first page tables, and the loop in which the other processors wait for the kernel. */
export const secFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-sec',
	base: CODE_BASE,
	blocks: secBlocks(options),
	at: { reset: MemoryMap.resetVector },
});
