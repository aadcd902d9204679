import { Errno } from '../abi/errno.js';
import { Register, XSAVE_SIZE } from '../vm/vcpu-state.js';

/** struct kvm_fpu: x87 and SSE state. */
export interface KvmFpu {
	/** ST(0) … ST(7) in 16 bytes each. */
	readonly fpr: Uint8Array;
	readonly fcw: number;
	readonly fsw: number;
	/** The abridged tag word: a bit per register. */
	readonly ftwx: number;
	readonly lastOpcode: number;
	readonly lastIp: bigint;
	readonly lastDp: bigint;
	/** XMM0 … XMM15. */
	readonly xmm: Uint8Array;
	readonly mxcsr: number;
}

/** An extended control register: struct kvm_xcr. */
export interface KvmXcr {
	readonly xcr: number;
	readonly value: bigint;
}

/** Offsets in the legacy region of an XSAVE area, and its header (APM vol. 2 §11.5). */
const At = {
	fcw: 0,
	fsw: 2,
	ftw: 4,
	fop: 6,
	rip: 8,
	rdp: 16,
	mxcsr: 24,
	fpr: 32,
	xmm: 160,
	xstateBv: 512,
	ymm: 576,
} as const;
const FPR_BYTES = 128;
const XMM_BYTES = 256;
/** x87, SSE, AVX: what the model's processors have. */
const XCR0_SUPPORTED = 7n;
const X87 = 1n;
const SSE = 2n;
const AVX = 4n;
/** Bits of MXCSR that exist, with DAZ and misaligned SSE: MXCSR_MASK, which XSAVE stores and no save area has. */
export const MXCSR_MASK = 0x2ffff;
/** Where XSAVE stores it. */
export const MXCSR_MASK_AT = 28;
const MAX_XCRS = 16;

/** FNINIT and the reset value of MXCSR. */
const RESET_FCW = 0x37f;
const RESET_MXCSR = 0x1f80;

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The state of a new vCPU: fpstate_reset. */
export function resetFpu(xsave: Uint8Array): void {
	xsave.fill(0);
	viewOf(xsave).setUint16(At.fcw, RESET_FCW, true);
	viewOf(xsave).setUint32(At.mxcsr, RESET_MXCSR, true);
}

/** KVM_GET_FPU. */
export function readFpu(xsave: Uint8Array): KvmFpu {
	const view = viewOf(xsave);
	return {
		fpr: new Uint8Array(xsave.slice(At.fpr, At.fpr + FPR_BYTES)),
		fcw: view.getUint16(At.fcw, true),
		fsw: view.getUint16(At.fsw, true),
		ftwx: view.getUint8(At.ftw),
		lastOpcode: view.getUint16(At.fop, true),
		lastIp: view.getBigUint64(At.rip, true),
		lastDp: view.getBigUint64(At.rdp, true),
		xmm: new Uint8Array(xsave.slice(At.xmm, At.xmm + XMM_BYTES)),
		mxcsr: view.getUint32(At.mxcsr, true),
	};
}

/** KVM_GET_FPU of a protected vCPU. */
export const hiddenFpu = (): KvmFpu => readFpu(new Uint8Array(XSAVE_SIZE));

/** KVM_SET_FPU; what is left out stays. As in Linux, MXCSR is not set. */
export function writeFpu(xsave: Uint8Array, fpu: Partial<KvmFpu>): number {
	if (fpu.fpr !== undefined && fpu.fpr.length !== FPR_BYTES) return -Errno.EINVAL;
	if (fpu.xmm !== undefined && fpu.xmm.length !== XMM_BYTES) return -Errno.EINVAL;
	const next = { ...readFpu(xsave), ...fpu };
	const view = viewOf(xsave);
	xsave.set(next.fpr, At.fpr);
	view.setUint16(At.fcw, next.fcw & 0xffff, true);
	view.setUint16(At.fsw, next.fsw & 0xffff, true);
	view.setUint8(At.ftw, next.ftwx & 0xff);
	view.setUint16(At.fop, next.lastOpcode & 0xffff, true);
	view.setBigUint64(At.rip, next.lastIp, true);
	view.setBigUint64(At.rdp, next.lastDp, true);
	xsave.set(next.xmm, At.xmm);
	view.setBigUint64(At.xstateBv, view.getBigUint64(At.xstateBv, true) | X87 | SSE, true);
	return 0;
}

/**
 * KVM_SET_XSAVE of 4096 bytes: −EINVAL for a component that the processor does not have, or for a bit that MXCSR has not. A
 * component that XSTATE_BV does not name gets its reset value, whatever its bytes are.
 */
export function writeXsave(xsave: Uint8Array, data: Uint8Array): number {
	if (data.length !== XSAVE_SIZE) return -Errno.EINVAL;
	const view = viewOf(data);
	if ((view.getBigUint64(At.xstateBv, true) & ~XCR0_SUPPORTED) !== 0n) return -Errno.EINVAL;
	if ((view.getUint32(At.mxcsr, true) & ~MXCSR_MASK) !== 0) return -Errno.EINVAL;
	const given = view.getBigUint64(At.xstateBv, true);
	xsave.set(data);
	const state = viewOf(xsave);
	if ((given & X87) === 0n) {
		xsave.fill(0, 0, At.mxcsr);
		xsave.fill(0, At.fpr, At.fpr + FPR_BYTES);
		state.setUint16(At.fcw, RESET_FCW, true);
	}
	if ((given & SSE) === 0n) xsave.fill(0, At.xmm, At.xmm + XMM_BYTES);
	if ((given & AVX) === 0n) xsave.fill(0, At.ymm, At.ymm + XMM_BYTES);
	if ((given & (SSE | AVX)) === 0n) state.setUint32(At.mxcsr, RESET_MXCSR, true);
	return 0;
}

/** KVM_GET_XCRS. */
export const readXcrs = (registers: BigUint64Array): readonly KvmXcr[] => [
	{ xcr: 0, value: registers[Register.xcr0] ?? 0n },
];

/** KVM_SET_XCRS: the first XCR0 of the list counts. −EINVAL: more than 16, or a value that XSETBV would refuse. */
export function writeXcrs(registers: BigUint64Array, xcrs: readonly KvmXcr[]): number {
	if (xcrs.length > MAX_XCRS) return -Errno.EINVAL;
	const value = xcrs.find(({ xcr }) => xcr === 0)?.value;
	if (value === undefined) return 0;
	if ((value & X87) === 0n || (value & ~XCR0_SUPPORTED) !== 0n) return -Errno.EINVAL;
	if ((value & AVX) !== 0n && (value & SSE) === 0n) return -Errno.EINVAL;
	registers[Register.xcr0] = value;
	return 0;
}
