import { MemoryMap } from '@cvm/kvm/guest';
import type { GuestCpu } from '@cvm/kvm/vcpu';
import { HANDLER_ITEMS } from '../fw-cfg-names.js';
import { HelperGeometry } from '../geometry.js';

/**
 * PROJECT: what the firmware keeps in its memory besides the contract's places. Page tables follow OVMF: six pages for
 * 4 GiB in 2 MiB leaves, and one page that splits the leaf around the GHCB (edk2 OvmfPkg/OvmfPkgX64.fdf).
 */
export const FirmwareMemory = {
	/** Splits the 2 MiB leaf of the variable flash. */
	flashPageTable: 0x806000,
	/** Splits the 2 MiB leaf of the firmware area, for the GHCB. */
	ghcbPageTable: 0x807000,
	/** Splits the 2 MiB leaf in which the windows of the migration helpers end. */
	windowPageTable: 0x80f000,
	/** SEV-ES: the interrupt descriptor table. */
	idt: 0x808000,
	/** {@link WorkArea}. */
	workArea: 0x80b000,
	stack: 0x810000,
	stackTop: 0x820000,
	/** Cleared before the kernel starts, up to `scratchEnd`, as the stack is. */
	scratch: 0x880000,
	/** One directory entry of fw_cfg. */
	directoryEntry: 0x880000,
	/** Contents of the fw_cfg files, {@link FILE_BYTES} each. */
	files: 0x881000,
	scratchEnd: 0x8a0000,
	/** Firmware with a migration handler: the database of dynamic PCDs, the HOB list, the memory map at ExitBootServices. */
	pcdDatabase: 0x850000,
	hobList: 0x851000,
	/** u64 number of descriptors, then these. */
	memoryMap: 0x852000,
	memoryMapEnd: 0x853000,
} as const;

/** Room for one fw_cfg file; a larger one is treated as absent. */
export const FILE_BYTES = 0x1000;

/** Offsets of 64-bit words in the work area. */
const Word = {
	/** The C-bit as a page-table entry has it, or 0 without SEV. */
	encryptionMask: 0,
	/** 1 if the page-status hypercall may be used. */
	hypercall: 8,
	/** 1 if the host refused a report. */
	refused: 16,
	ramBytes: 24,
	cpus: 32,
	/** SEV_STATUS. */
	sevStatus: 40,
	/** 1: there is a hardened migration helper; the kernel is to know. */
	helper: 48,
	/** 1: a migration target. The processors come to rest instead of starting an OS. */
	target: 56,
} as const;
const FILE_TABLE = 0x40;
/** One byte per processor: it waits to be started. */
const WAITING = 0x100;

/** Reads a word of the work area. */
export const workWord = (cpu: GuestCpu, word: keyof typeof Word): bigint =>
	cpu.loadU64(FirmwareMemory.workArea + Word[word]);
/** Writes a word of the work area. */
export const setWorkWord = (cpu: GuestCpu, word: keyof typeof Word, value: bigint): void =>
	cpu.storeU64(FirmwareMemory.workArea + Word[word], value);

/** Whether a processor waits to be started, or says so. */
export const isWaiting = (cpu: GuestCpu, index: number): boolean =>
	cpu.loadU8(FirmwareMemory.workArea + WAITING + index) !== 0;
export const setWaiting = (cpu: GuestCpu, index: number): void =>
	cpu.storeU8(FirmwareMemory.workArea + WAITING + index, 1);

/** 'CVMTARGT' as a little-endian u64: memory that was never written reads as noise. */
const TARGET_MAGIC = 0x54475241544d5643n;
/** Beside the gate, since it must not migrate: a guest that arrives brings its own word for everything else. */
const TARGET_MARK = HelperGeometry.gate + 0x10;
/** Says that this machine waits for a guest: processors that come to wait for the kernel are to rest for good. */
export const markTarget = (cpu: GuestCpu): void => cpu.storeU64(TARGET_MARK, TARGET_MAGIC);
/** Which processor is to run the handler, above a magic number in the low half: 'HAP0'. */
const HANDLER_MAGIC = 0x30504148n;
const HANDLER_MARK = TARGET_MARK + 8;
/** Says that a waiting processor is to run the migration handler. */
export const markHandler = (cpu: GuestCpu, index: number): void =>
	cpu.storeU64(HANDLER_MARK, (BigInt(index) << 32n) | HANDLER_MAGIC);
/** That processor's index, 0 if there is none. */
export function markedHandler(cpu: GuestCpu): number {
	const mark = cpu.loadU64(HANDLER_MARK);
	return (mark & 0xffffffffn) === HANDLER_MAGIC ? Number(mark >> 32n) : 0;
}
export const isTargetMarked = (cpu: GuestCpu): boolean => cpu.loadU64(TARGET_MARK) === TARGET_MAGIC;

/** Whether the registers of this guest are encrypted. */
export const isSevEs = (cpu: GuestCpu): boolean => (workWord(cpu, 'sevStatus') & 2n) !== 0n;

/** The fw_cfg files that the firmware asks for, by number. */
export const FILES = [
	'etc/e820',
	...(['opt/cvm/workload', 'opt/cvm/seed', 'opt/cvm/steps', 'opt/cvm/kexecs'] as const),
	...HANDLER_ITEMS.map(({ name }) => name),
] as const;

/** Size and selector of a file of {@link FILES}; a selector of 0 means that the directory does not have it. */
export function fileEntry(cpu: GuestCpu, file: number): { size: number; key: number } {
	const at = FirmwareMemory.workArea + FILE_TABLE + 8 * file;
	return { size: cpu.loadU32(at), key: cpu.loadU32(at + 4) };
}
/** Notes where a file is. */
export function setFileEntry(cpu: GuestCpu, file: number, size: number, key: number): void {
	const at = FirmwareMemory.workArea + FILE_TABLE + 8 * file;
	cpu.storeU32(at, size);
	cpu.storeU32(at + 4, key);
}
/** Whether the directory has a file, of a size that this firmware takes. */
export const hasFile = (cpu: GuestCpu, name: (typeof FILES)[number]): boolean =>
	fileEntry(cpu, FILES.indexOf(name)).key !== 0;
/** The contents of a file, as read; empty if there is none. */
export function fileContents(cpu: GuestCpu, name: (typeof FILES)[number]): Uint8Array {
	const file = FILES.indexOf(name);
	const { size, key } = fileEntry(cpu, file);
	const out = new Uint8Array(key === 0 ? 0 : size);
	cpu.load(FirmwareMemory.files + FILE_BYTES * file, out);
	return out;
}

/** The variable part of a 4 MiB OVMF flash: shared with the host, as MMIO is. Our machines put no memory there. */
export const VARIABLE_FLASH = { base: MemoryMap.firmwareText, bytes: 0x84000 } as const;
/** Where the firmware's code begins: behind the variable flash, as in OVMF. */
export const CODE_BASE: number = VARIABLE_FLASH.base + VARIABLE_FLASH.bytes;
