import { PAGE_SIZE } from '@cvm/layout';
import { isCanonical } from './page-tables.js';

/**
 * Offsets in a save area (AMD64 APM vol. 2 table B-4) of what the trampoline restores. All u64 but the last four groups; a segment
 * is u16 selector, u16 attributes, u32 limit, u64 base.
 */
export const SaveAreaOffset = {
	cs: 0x010,
	ss: 0x020,
	fs: 0x040,
	gs: 0x050,
	gdtr: 0x060,
	idtr: 0x080,
	tr: 0x090,
	/** u8. */
	cpl: 0x0cb,
	efer: 0x0d0,
	cr4: 0x148,
	cr3: 0x150,
	cr0: 0x158,
	rflags: 0x170,
	rip: 0x178,
	rsp: 0x1d8,
	rax: 0x1f8,
	star: 0x200,
	lstar: 0x208,
	cstar: 0x210,
	sfmask: 0x218,
	kernelGsBase: 0x220,
	sysenterCs: 0x228,
	sysenterEsp: 0x230,
	sysenterEip: 0x238,
	cr2: 0x240,
	gPat: 0x268,
	rcx: 0x308,
	rdx: 0x310,
	rbx: 0x318,
	rbp: 0x328,
	rsi: 0x330,
	rdi: 0x338,
	r8: 0x340,
	r9: 0x348,
	r10: 0x350,
	r11: 0x358,
	r12: 0x360,
	r13: 0x368,
	r14: 0x370,
	r15: 0x378,
	slotPaddr: 0x388,
	xcr0: 0x3e8,
	/** From here to the end: 1648 bytes are all that a save area has. */
	end: 0x670,
	x87Dp: 0x400,
	/** u32. */
	mxcsr: 0x408,
	/** u16. */
	ftw: 0x40c,
	fsw: 0x40e,
	fcw: 0x410,
	fop: 0x412,
	x87Rip: 0x418,
	/** 80 bytes: the low 8 of ST(0) … ST(7), then the high 2 of each. */
	x87: 0x420,
	/** 256 bytes each. */
	xmm: 0x470,
	ymm: 0x570,
} as const;
const At = SaveAreaOffset;

const Limit = 4;
const Base = 8;
const Efer = { lme: 1n << 8n, lma: 1n << 10n, svme: 1n << 12n } as const;
const Cr0 = { pe: 1n, pg: 1n << 31n } as const;
const CR4_PAE = 1n << 5n;
/** Bits 63:59 and 57 of the slot's address mean nothing; the firmware hands out 64 bytes each. */
const SLOT_BYTES = 64n;

/** The MSRs of a save area that KVM lets a SEV-ES guest write itself: index, offset. */
export const SAVE_AREA_MSRS: readonly (readonly [index: number, offset: number])[] = [
	[0x277, At.gPat],
	[0x174, At.sysenterCs],
	[0x175, At.sysenterEsp],
	[0x176, At.sysenterEip],
	[0xc0000081, At.star],
	[0xc0000082, At.lstar],
	[0xc0000083, At.cstar],
	[0xc0000084, At.sfmask],
	[0xc0000100, At.fs + Base],
	[0xc0000101, At.gs + Base],
	[0xc0000102, At.kernelGsBase],
];

/** A save area as it is read. */
export interface SaveAreaView {
	/** A u64. */
	get(offset: number): bigint;
	selector(segment: number): number;
	limit(segment: number): number;
	base(segment: number): bigint;
	readonly cpl: number;
	/** As the guest sees it: without the bit that VMRUN wants. */
	readonly efer: bigint;
}

/** Looks into a page of 4096 bytes. */
export function viewSaveArea(page: Uint8Array): SaveAreaView {
	const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
	return {
		get: (offset) => view.getBigUint64(offset, true),
		selector: (segment) => view.getUint16(segment, true),
		limit: (segment) => view.getUint32(segment + Limit, true),
		base: (segment) => view.getBigUint64(segment + Base, true),
		cpl: view.getUint8(At.cpl) & 3,
		efer: view.getBigUint64(At.efer, true) & ~Efer.svme,
	};
}

/**
 * What is wrong with a page that should be a save area of a vCPU in 64-bit mode; `undefined`: nothing that can be seen.
 *
 * The helper's page is mapped by the host, who may have put another page of the guest there, or an old content of the right one: the
 * key opens both. The processor's checksum would tell; it is in memory that only the firmware and the processor reach. So this check
 * catches accidents, not a host that has found a page of the guest which looks like a save area. See docs/threat-model.md.
 */
export function saveAreaProblem(page: Uint8Array): 'length' | 'not-a-save-area' | 'mode' | 'address' | undefined {
	if (page.length !== PAGE_SIZE) return 'length';
	const { get, base, selector, cpl } = viewSaveArea(page);
	const slot = get(At.slotPaddr);
	const isOne =
		(get(At.efer) & Efer.svme) !== 0n &&
		slot !== 0n &&
		slot % SLOT_BYTES === 0n &&
		page.subarray(At.end).every((byte) => byte === 0);
	if (!isOne) return 'not-a-save-area';
	const is64 =
		(get(At.efer) & (Efer.lme | Efer.lma)) === (Efer.lme | Efer.lma) &&
		(get(At.cr0) & (Cr0.pe | Cr0.pg)) === (Cr0.pe | Cr0.pg) &&
		(get(At.cr4) & CR4_PAE) !== 0n &&
		base(At.cs) === 0n &&
		(selector(At.cs) & 3) === cpl;
	if (!is64) return 'mode';
	const addresses = [get(At.rip), get(At.rsp), base(At.gdtr), base(At.idtr), base(At.tr)];
	return addresses.every(isCanonical) ? undefined : 'address';
}

/** Offsets in the legacy region and the standard form of XSAVE (APM vol. 2 §11.5). */
const Xsave = {
	fcw: 0,
	fsw: 2,
	ftw: 4,
	fop: 6,
	rip: 8,
	dp: 16,
	mxcsr: 24,
	st: 32,
	xmm: 160,
	header: 512,
	ymm: 576,
} as const;
const COMPONENTS = 7n;

/** The x87, SSE and AVX state of a save area as XRSTOR takes it: 4096 bytes. */
export function xsaveOfSaveArea(page: Uint8Array): Uint8Array {
	const from = new DataView(page.buffer, page.byteOffset, page.byteLength);
	const image = new Uint8Array(PAGE_SIZE);
	const to = new DataView(image.buffer);
	to.setUint16(Xsave.fcw, from.getUint16(At.fcw, true), true);
	to.setUint16(Xsave.fsw, from.getUint16(At.fsw, true), true);
	to.setUint8(Xsave.ftw, from.getUint16(At.ftw, true) & 0xff);
	to.setUint16(Xsave.fop, from.getUint16(At.fop, true), true);
	to.setBigUint64(Xsave.rip, from.getBigUint64(At.x87Rip, true), true);
	to.setBigUint64(Xsave.dp, from.getBigUint64(At.x87Dp, true), true);
	to.setUint32(Xsave.mxcsr, from.getUint32(At.mxcsr, true), true);
	for (let i = 0; i < 8; i++) {
		image.set(page.subarray(At.x87 + 8 * i, At.x87 + 8 * i + 8), Xsave.st + 16 * i);
		image.set(page.subarray(At.x87 + 64 + 2 * i, At.x87 + 66 + 2 * i), Xsave.st + 16 * i + 8);
	}
	image.set(page.subarray(At.xmm, At.xmm + 256), Xsave.xmm);
	image.set(page.subarray(At.ymm, At.ymm + 256), Xsave.ymm);
	to.setBigUint64(Xsave.header, from.getBigUint64(At.xcr0, true) & COMPONENTS, true);
	return image;
}
