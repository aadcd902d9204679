import { layout, u32, u64 } from '@cvm/layout';
import { PublishedGeometry } from '../../geometry.js';

/** Offsets in the entry page. */
export const EntryOffset = { code32: 0, code64: 0x200, addresses: 0x400, gdt: 0x600 } as const;
/** Bytes that are copied of each stub. */
const STUB_BYTES = 0x50;
/** Selector of the 64-bit code segment. */
export const CODE64 = 0x38;

/** What the stubs read, 24 bytes at + 0x400. */
export const entryAddresses = layout('MIGRATION_HANDLER_ADDRESSES', 24, {
	/** 32 bits as posted (K16). */
	cr3: u32(0),
	cr3High: u32(4),
	/** The first RSP. */
	stackBase: u64(8),
	/** Where the loop is. */
	mhBase: u64(16),
});

const BASE = PublishedGeometry.entry;
const le32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
const MSR_EFER = 0xc0000080;
const EFER_LME_BIT = 8;
const CR0_PG_BIT = 31;

/** Instructions one after the other, and zeros up to what is copied. */
function stub(...instructions: readonly (readonly number[])[]): Uint8Array {
	const out = new Uint8Array(STUB_BYTES);
	out.set(instructions.flat());
	return out;
}

/**
 * The 32-bit stub: loads CR3, sets EFER.LME and CR0.PG, and goes to the other one in 64-bit code.
 *
 * UNCERTAIN(edk2 commit 1d4b9511f6): which instructions set the bits, and what follows the stub in the copied bytes; here BTS, as
 * elsewhere in edk2's start-up code, and zeros.
 */
export const entryStub32 = (): Uint8Array =>
	stub(
		[0xa1, ...le32(BASE + EntryOffset.addresses)], // mov eax, [0x823400]
		[0x0f, 0x22, 0xd8], // mov cr3, eax
		[0xb9, ...le32(MSR_EFER)], // mov ecx, 0xc0000080
		[0x0f, 0x32], // rdmsr
		[0x0f, 0xba, 0xe8, EFER_LME_BIT], // bts eax, 8
		[0x0f, 0x30], // wrmsr
		[0x0f, 0x20, 0xc0], // mov eax, cr0
		[0x0f, 0xba, 0xe8, CR0_PG_BIT], // bts eax, 31
		[0x0f, 0x22, 0xc0], // mov cr0, eax
		[0xea, ...le32(BASE + EntryOffset.code64), CODE64, 0], // jmp 0x38:0x823200
	);

/**
 * The 64-bit stub: loads RSP and jumps to the loop. K24: its operands are absolute, although it is assembled with RIP-relative
 * addressing by default and copied afterwards: NASM does not make constants relative. So the copy reads what it should.
 */
export const entryStub64 = (): Uint8Array =>
	stub(
		[0x48, 0x8b, 0x24, 0x25, ...le32(BASE + EntryOffset.addresses + entryAddresses.offsetOf('stackBase'))], // mov rsp, [0x823408]
		[0xff, 0x24, 0x25, ...le32(BASE + EntryOffset.addresses + entryAddresses.offsetOf('mhBase'))], // jmp [0x823410]
	);

/** A descriptor of base 0 and a limit of 4 GiB less one byte (APM vol. 2 §4.7, §4.8). `flags` has the limit's upper bits. */
const flat = (access: number, flags: number): number[] => [0xff, 0xff, 0, 0, 0, access, flags, 0];
const NONE = [0, 0, 0, 0, 0, 0, 0, 0];

/**
 * The GDT of DXE: null, data, conforming code, data, code, 16-bit code, data, 64-bit code, spare; 8 bytes each.
 *
 * UNCERTAIN(edk2 UefiCpuPkg/CpuDxe/CpuGdt.c): access and flags but of the last three, which are not used.
 */
export const dxeGdt = (): Uint8Array =>
	Uint8Array.from([
		...NONE,
		...flat(0x92, 0xcf),
		...flat(0x9f, 0xcf),
		...flat(0x93, 0xcf),
		...flat(0x9a, 0xcf),
		...flat(0x9a, 0x8f),
		...flat(0x92, 0xcf),
		...flat(0x9a, 0xaf),
		...NONE,
	]);
