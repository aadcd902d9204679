import { vmsa } from '@cvm/sev-hw/abi';
import { Register } from '../vm/vcpu-state.js';

const offset = (field: Parameters<typeof vmsa.offsetOf>[0]): number => vmsa.offsetOf(field);

/** u64 fields of a save area and where the register file has them: register, offset, in turn. */
const LONGS: readonly number[] = [
	[Register.efer, offset('efer')],
	[Register.xss, offset('xss')],
	[Register.cr4, offset('cr4')],
	[Register.cr3, offset('cr3')],
	[Register.cr0, offset('cr0')],
	[Register.dr7, offset('dr7')],
	[Register.dr6, offset('dr6')],
	[Register.rflags, offset('rflags')],
	[Register.rip, offset('rip')],
	[Register.dr0, offset('dr0')],
	[Register.dr1, offset('dr1')],
	[Register.dr2, offset('dr2')],
	[Register.dr3, offset('dr3')],
	[Register.rsp, offset('rsp')],
	[Register.rax, offset('rax')],
	[Register.star, offset('star')],
	[Register.lstar, offset('lstar')],
	[Register.cstar, offset('cstar')],
	[Register.sfmask, offset('sfmask')],
	[Register.kernelGsBase, offset('kernelGsBase')],
	[Register.sysenterCs, offset('sysenterCs')],
	[Register.sysenterEsp, offset('sysenterEsp')],
	[Register.sysenterEip, offset('sysenterEip')],
	[Register.cr2, offset('cr2')],
	[Register.pat, offset('gPat')],
	[Register.rcx, offset('rcx')],
	[Register.rdx, offset('rdx')],
	[Register.rbx, offset('rbx')],
	[Register.rbp, offset('rbp')],
	[Register.rsi, offset('rsi')],
	[Register.rdi, offset('rdi')],
	[Register.r8, offset('r8')],
	[Register.r9, offset('r9')],
	[Register.r10, offset('r10')],
	[Register.r11, offset('r11')],
	[Register.r12, offset('r12')],
	[Register.r13, offset('r13')],
	[Register.r14, offset('r14')],
	[Register.r15, offset('r15')],
	// PROJECT: the processor writes these for a guest that reflects #VC; here it does so for every guest.
	[Register.exitInfo1, offset('guestExitInfo1')],
	[Register.exitInfo2, offset('guestExitInfo2')],
	[Register.nrip, offset('guestNrip')],
	[Register.xcr0, offset('xcr0')],
].flat();

/** Registers of which a save area has 32 bits. */
const INTS: readonly number[] = [
	[Register.pkru, offset('pkru')],
	[Register.tscAux, offset('tscAux')],
].flat();

/** Segments: base register (the next one holds selector, attributes and limit), offset. */
const SEGMENTS: readonly number[] = [
	[Register.esBase, offset('es')],
	[Register.csBase, offset('cs')],
	[Register.ssBase, offset('ss')],
	[Register.dsBase, offset('ds')],
	[Register.fsBase, offset('fs')],
	[Register.gsBase, offset('gs')],
	[Register.ldtrBase, offset('ldtr')],
	[Register.trBase, offset('tr')],
	[Register.gdtrBase, offset('gdtr')],
	[Register.idtrBase, offset('idtr')],
].flat();

/** A segment's limit in a save area. The tables have no more than it. */
const LIMIT = 4;
const BASE = 8;
const isTable = (base: number): boolean => base === Register.gdtrBase || base === Register.idtrBase;

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
const X87_REGISTERS = 8;
/** x87, SSE, AVX. */
const COMPONENTS = 7n;

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/**
 * Register file and XSAVE area → save area (4096 bytes): every field that the register file knows, as it is. The other
 * bytes of the page stay.
 */
export function saveAreaFromRegisters(registers: BigUint64Array, xsave: Uint8Array, page: Uint8Array): void {
	const view = viewOf(page);
	for (let i = 0; i < LONGS.length; i += 2) {
		view.setBigUint64(LONGS[i + 1] ?? 0, registers[LONGS[i] ?? 0] ?? 0n, true);
	}
	for (let i = 0; i < INTS.length; i += 2) {
		view.setUint32(INTS[i + 1] ?? 0, Number(BigInt.asUintN(32, registers[INTS[i] ?? 0] ?? 0n)), true);
	}
	for (let i = 0; i < SEGMENTS.length; i += 2) {
		const base = SEGMENTS[i] ?? 0;
		const at = SEGMENTS[i + 1] ?? 0;
		const rest = registers[base + 1] ?? 0n;
		if (isTable(base)) view.setUint32(at + LIMIT, Number(BigInt.asUintN(32, rest)), true);
		else view.setBigUint64(at, rest, true);
		view.setBigUint64(at + BASE, registers[base] ?? 0n, true);
	}
	page[offset('cpl')] = Number((registers[Register.cpl] ?? 0n) & 3n);
	const from = viewOf(xsave);
	view.setBigUint64(offset('x87Dp'), from.getBigUint64(Xsave.dp, true), true);
	view.setUint32(offset('mxcsr'), from.getUint32(Xsave.mxcsr, true), true);
	view.setUint16(offset('ftw'), from.getUint8(Xsave.ftw), true);
	view.setUint16(offset('fsw'), from.getUint16(Xsave.fsw, true), true);
	view.setUint16(offset('fcw'), from.getUint16(Xsave.fcw, true), true);
	view.setUint16(offset('fop'), from.getUint16(Xsave.fop, true), true);
	view.setBigUint64(offset('x87Rip'), from.getBigUint64(Xsave.rip, true), true);
	const x87 = offset('x87');
	for (let i = 0; i < X87_REGISTERS; i++) {
		const st = Xsave.st + 16 * i;
		page.set(xsave.subarray(st, st + 8), x87 + 8 * i);
		page.set(xsave.subarray(st + 8, st + 10), x87 + 64 + 2 * i);
	}
	page.set(xsave.subarray(Xsave.xmm, Xsave.xmm + 256), offset('xmm'));
	page.set(xsave.subarray(Xsave.ymm, Xsave.ymm + 256), offset('ymm'));
}

/** Save area → register file and XSAVE area: the inverse. XSTATE_BV becomes what XCR0 enables of x87, SSE and AVX. */
export function registersFromSaveArea(page: Uint8Array, registers: BigUint64Array, xsave: Uint8Array): void {
	const view = viewOf(page);
	for (let i = 0; i < LONGS.length; i += 2) {
		registers[LONGS[i] ?? 0] = view.getBigUint64(LONGS[i + 1] ?? 0, true);
	}
	for (let i = 0; i < INTS.length; i += 2) {
		registers[INTS[i] ?? 0] = BigInt(view.getUint32(INTS[i + 1] ?? 0, true));
	}
	for (let i = 0; i < SEGMENTS.length; i += 2) {
		const base = SEGMENTS[i] ?? 0;
		const at = SEGMENTS[i + 1] ?? 0;
		registers[base + 1] = isTable(base) ? BigInt(view.getUint32(at + LIMIT, true)) : view.getBigUint64(at, true);
		registers[base] = view.getBigUint64(at + BASE, true);
	}
	registers[Register.cpl] = BigInt((page[offset('cpl')] ?? 0) & 3);
	const to = viewOf(xsave);
	to.setBigUint64(Xsave.dp, view.getBigUint64(offset('x87Dp'), true), true);
	to.setUint32(Xsave.mxcsr, view.getUint32(offset('mxcsr'), true), true);
	to.setUint8(Xsave.ftw, view.getUint16(offset('ftw'), true) & 0xff);
	to.setUint16(Xsave.fsw, view.getUint16(offset('fsw'), true), true);
	to.setUint16(Xsave.fcw, view.getUint16(offset('fcw'), true), true);
	to.setUint16(Xsave.fop, view.getUint16(offset('fop'), true), true);
	to.setBigUint64(Xsave.rip, view.getBigUint64(offset('x87Rip'), true), true);
	const x87 = offset('x87');
	for (let i = 0; i < X87_REGISTERS; i++) {
		const st = Xsave.st + 16 * i;
		xsave.set(page.subarray(x87 + 8 * i, x87 + 8 * i + 8), st);
		xsave.set(page.subarray(x87 + 64 + 2 * i, x87 + 66 + 2 * i), st + 8);
	}
	xsave.set(page.subarray(offset('xmm'), offset('xmm') + 256), Xsave.xmm);
	xsave.set(page.subarray(offset('ymm'), offset('ymm') + 256), Xsave.ymm);
	to.setBigUint64(Xsave.header, (registers[Register.xcr0] ?? 0n) & COMPONENTS, true);
}
