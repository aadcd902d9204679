import { AP_MAILBOX_MAGIC, apMailbox, initGhcb, loadIdt, MemoryMap, writeGhcbMsr } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu } from '@cvm/kvm/vcpu';
import { guidToBytes, isAligned, PAGE_SIZE } from '@cvm/layout';
import { CODE_BASE, FirmwareMemory, isSevEs, setWorkWord, workWord } from './work-area.js';

/** SEV_STATUS (AMD APM vol. 2 §15.34.10): bit 0 says that this guest runs with SEV. Its read is never intercepted. */
const SEV_STATUS = 0xc0010131n;
/** Starts the table of launch secrets: a GUID, then the length of the whole in a u32 (Linux drivers/virt/coco/efi_secret). */
const SECRET_TABLE = guidToBytes('1e74f542-71dd-4d66-963e-ef4287ff173b');
const LARGE_PAGE = 0x200000;
/** Present, writable, accessed, dirty. */
const PAGE = 0x63n;
const LARGE = 0x80n;
const CR0_PG = 0x80000000n;
const CR0_PG_PE = 0x80000001n;
const CR4_PAE = 0x20n;
const EFER_LME = 0x100n;

const pageTable = (entry: (index: number) => bigint): Uint8Array =>
	new Uint8Array(BigUint64Array.from({ length: 512 }, (_, i) => entry(i)).buffer);

/** Bytes of the secret table that LAUNCH_SECRET left, 0 without one: then the area holds what the memory held before. */
function secretLength(cpu: GuestCpu): number {
	const { secret, secretBytes } = MemoryMap;
	const guid = new Uint8Array(SECRET_TABLE.length);
	cpu.load(secret, guid);
	const length = cpu.loadU32(secret + guid.length);
	return SECRET_TABLE.every((byte, i) => byte === guid[i]) && length <= secretBytes ? length : 0;
}

/**
 * 4 GiB, mapped one to one and private, in 2 MiB leaves; the leaf around the GHCB is split and the GHCB shared. With SEV-ES so
 * are the GHCBs of the other processors.
 */
function buildPageTables(cpu: GuestCpu, mask: bigint, isEs: boolean): void {
	const top = MemoryMap.secPageTables;
	const pointers = top + PAGE_SIZE;
	const directories = top + 2 * PAGE_SIZE;
	const split = FirmwareMemory.ghcbPageTable;
	const shared = (address: number) =>
		(address >= MemoryMap.ghcb && address < MemoryMap.ghcb + MemoryMap.ghcbPages * PAGE_SIZE) ||
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

/**
 * Makes pages below one 2 MiB leaf shared in the firmware's page tables, splitting the leaf into `table` if need be.
 * The caller flushes the TLB.
 *
 * @throws RangeError if the range is not whole pages of one leaf: the caller's mistake
 */
export function clearEncryptionMask(cpu: GuestCpu, address: number, pages: number, table: number): void {
	const leaf = Math.floor(address / LARGE_PAGE) * LARGE_PAGE;
	if (!isAligned(address, PAGE_SIZE) || address + pages * PAGE_SIZE > leaf + LARGE_PAGE) {
		throw new RangeError(`shared range: expected pages of one 2 MiB leaf, got ${pages} from 0x${address.toString(16)}`);
	}
	const mask = workWord(cpu, 'encryptionMask');
	const entry = MemoryMap.secPageTables + 2 * PAGE_SIZE + 8 * (leaf / LARGE_PAGE);
	if (cpu.loadU64(entry) & LARGE) {
		cpu.store(
			table,
			pageTable((i) => BigInt(leaf + i * PAGE_SIZE) | PAGE | mask),
		);
		cpu.storeU64(entry, BigInt(table) | PAGE | mask);
	}
	for (let page = 0; page < pages; page++) {
		const at = table + 8 * ((address - leaf) / PAGE_SIZE + page);
		cpu.storeU64(at, cpu.loadU64(at) & ~mask);
	}
}

const low32 = (value: bigint) => value & 0xffffffffn;

const blocks = {
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
		// Defined contents for all memory that stays the firmware's, except the owner's secret.
		const { firmware, firmwareEnd, secret } = MemoryMap;
		const secretEnd = secret + secretLength(cpu);
		cpu.fill(firmware, secret - firmware, 0);
		cpu.fill(secretEnd, firmwareEnd - secretEnd, 0);
		setWorkWord(cpu, 'encryptionMask', mask);
		setWorkWord(cpu, 'sevStatus', cpu.reg('r13'));
		buildPageTables(cpu, mask, isSevEs(cpu));
		if (isSevEs(cpu)) loadIdt(cpu, FirmwareMemory.idt, 'fw.vc.handler');
		cpu.cr4 |= CR4_PAE;
		cpu.cr3 = BigInt(MemoryMap.secPageTables);
		cpu.efer |= EFER_LME;
		cpu.cr0 |= CR0_PG_PE;
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
		return cpu.jump('fw.ap.wait');
	},
	'fw.ap.wait': (cpu) => {
		const mailbox = MemoryMap.apMailbox;
		if (cpu.loadU64(mailbox + apMailbox.offsetOf('magic')) !== AP_MAILBOX_MAGIC) return cpu.hlt('fw.ap.wait');
		return cpu.jump(cpu.loadNum(mailbox + apMailbox.offsetOf('entry')));
	},
} satisfies Record<string, Block>;

/** Reset vector, first page tables, and the loop in which the other processors wait for the kernel. */
export const secFragment: CodeFragment = {
	name: 'ovmf-sec',
	base: CODE_BASE,
	blocks,
	at: { reset: MemoryMap.resetVector },
};
