import { type Infer, ignored, layout, PAGE_SIZE, u16, u64 } from '@cvm/layout';

/** "CPUSTATE" and "ENDSTATE" as little-endian u64s. */
const MAGIC = 0x4554415453555043n;
const END_MAGIC = 0x4554415453444e45n;
const VERSION = 0x0100n;

/**
 * What the demonstrator carries of a CPU (secure-migration/resume-from-efi-edk2, branch mh-state-dev, struct cpu_state): packed,
 * little-endian, 0x170 bytes. From `ip` to `ss` it is the frame of an IRETQ.
 */
export const cpuStateLayout = layout('cpu_state', 0x170, {
	magic: u64(0x000),
	version: u64(0x008),
	r15: u64(0x010),
	r14: u64(0x018),
	r13: u64(0x020),
	r12: u64(0x028),
	rbp: u64(0x030),
	rbx: u64(0x038),
	r11: u64(0x040),
	r10: u64(0x048),
	r9: u64(0x050),
	r8: u64(0x058),
	rax: u64(0x060),
	rcx: u64(0x068),
	rdx: u64(0x070),
	rsi: u64(0x078),
	rdi: u64(0x080),
	/** As in Linux's pt_regs; the tool stores RAX here too. */
	origRax: u64(0x088),
	rip: u64(0x090),
	cs: u64(0x098),
	rflags: u64(0x0a0),
	rsp: u64(0x0a8),
	ss: u64(0x0b0),
	ds: u16(0x0b8),
	es: u16(0x0ba),
	fs: u16(0x0bc),
	gs: u16(0x0be),
	tr: u16(0x0c0),
	pad0: ignored(0x0c2, 6),
	fsBase: u64(0x0c8),
	gsBase: u64(0x0d0),
	kernelGsBase: u64(0x0d8),
	cr0: u64(0x0e0),
	cr2: u64(0x0e8),
	cr3: u64(0x0f0),
	cr4: u64(0x0f8),
	efer: u64(0x100),
	sysenterCs: u64(0x108),
	sysenterEsp: u64(0x110),
	sysenterEip: u64(0x118),
	star: u64(0x120),
	lstar: u64(0x128),
	cstar: u64(0x130),
	fmask: u64(0x138),
	tscAux: u64(0x140),
	pad1: ignored(0x148, 6),
	gdtLimit: u16(0x14e),
	gdtBase: u64(0x150),
	pad2: ignored(0x158, 6),
	idtLimit: u16(0x15e),
	idtBase: u64(0x160),
	endMagic: u64(0x168),
});

type Fields = Infer<typeof cpuStateLayout>;
/** {@link cpuStateLayout} without what is the same in every blob. */
export type CpuState = Omit<Fields, 'magic' | 'version' | 'endMagic' | 'origRax'>;

/** Why a blob is none. */
export type CpuStateProblem = 'magic' | 'version' | 'end-magic' | 'length';

/** A blob. */
export const encodeCpuState = (state: CpuState): Uint8Array =>
	cpuStateLayout.encode({ ...state, origRax: state.rax, magic: MAGIC, version: VERSION, endMagic: END_MAGIC });

/** Reads a blob from the front of `data`; what comes back instead says what is wrong. Padding is not looked at. */
export function decodeCpuState(data: Uint8Array): CpuState | CpuStateProblem {
	if (data.length < cpuStateLayout.size) return 'length';
	const { magic, version, endMagic, origRax: _, ...state } = cpuStateLayout.decodePrefix(data);
	if (magic !== MAGIC) return 'magic';
	if (version !== VERSION) return 'version';
	return endMagic === END_MAGIC ? state : 'end-magic';
}

/**
 * Where the demonstrator has its pages; guest-physical. They are boot services data, so that the kernel's direct map has them. Our own
 * firmware has other things at the first three: give the trampoline other pages.
 */
export const DEMONSTRATOR_PAGES = {
	/** Code of phase 2. */
	phase2: 0x80b000,
	/** Code of phase 3. */
	phase3: 0x80c000,
	/** The blob at + {@link BLOB_OFFSET}. */
	data: 0x80d000,
	/** Not used. */
	mailbox: 0x80e000,
	/** Where the host puts the blob by fw_cfg. */
	landing: 0x80f000,
} as const;

/** So that the end of the frame is 16-byte aligned. */
export const BLOB_OFFSET = 8;
/** From the blob on: the host says that RAM and devices are loaded. */
export const COMPLETION_OFFSET = 0xf00;
export const COMPLETION = 0x3c3c3c3c3c3c3c3cn;
/** PROJECT: u32 {@link ResumeState} and u32 {@link ResumeProblem}, for whoever looks. */
export const STATE_OFFSET = 0xf08;

/** Where Linux without KASLR maps physical memory. */
export const DIRECT_MAP = 0xffff888000000000n;

/** The data page with a blob in it, the flag clear. */
export function cpuStatePage(state: CpuState): Uint8Array {
	const page = new Uint8Array(PAGE_SIZE);
	page.set(encodeCpuState(state), BLOB_OFFSET);
	return page;
}
