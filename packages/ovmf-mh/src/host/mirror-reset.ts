import type { KvmDtable, KvmSegment } from '@cvm/kvm';
import { PublishedGeometry } from '../geometry.js';

/** What a mirror vCPU is loaded with: the form of `loadMirrorRegisters` of `@cvm/kvm/mirror`. */
export interface MirrorResetState {
	readonly sregs: Readonly<Record<'cr0' | 'cr2' | 'cr3' | 'cr4' | 'cr8' | 'efer' | 'apicBase' | 'cpl', bigint>> &
		Readonly<Record<'cs' | 'ds' | 'es' | 'ss' | 'fs' | 'gs' | 'ldt' | 'tr', KvmSegment>> &
		Readonly<Record<'gdt' | 'idt', KvmDtable>> & {
			readonly interruptBitmap: readonly bigint[];
		};
	readonly regs: Readonly<Record<(typeof GENERAL)[number] | 'rip' | 'rflags', bigint>>;
	/** 4096 bytes in the standard form. */
	readonly xsave: Uint8Array;
	readonly xcrs: readonly { readonly xcr: number; readonly value: bigint }[];
	readonly debugRegs: {
		readonly db: readonly [bigint, bigint, bigint, bigint];
		readonly dr6: bigint;
		readonly dr7: bigint;
		readonly flags: bigint;
	};
	/** Not loaded: MSRs of a mirror vCPU are not. */
	readonly pat: bigint;
	/** Not loaded. */
	readonly smbase: number;
	/** All addresses are used: nothing masks A20. Not loaded. */
	readonly a20Mask: number;
	/** A mirror vCPU is made stopped; the VMM's command that starts the handler starts it. */
	readonly halted: boolean;
}

const GENERAL = [
	...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
	...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
];

const FLAT = 0xffffffff;
const segment = (selector: number, limit: number, type: number, s: number): KvmSegment => ({
	...{ base: 0n, limit, selector, type, present: 1, dpl: 0, s, l: 0, avl: 0, unusable: 0 },
	// 32 bits and whole pages, but for the system segments.
	...{ db: s, g: s },
});
/** Code, readable, accessed. The descriptor at 0x38 is one of 64-bit code; the stub's far jump loads that. */
const CODE = segment(0x38, FLAT, 0xb, 1);
/** Data, writable, accessed. */
const DATA = segment(0x30, FLAT, 0x3, 1);
const LDT = segment(0, 0xffff, 2, 0);
/** A busy TSS. */
const TSS = segment(0, 0xffff, 0xb, 0);

/** WP, NE, ET, MP, PE. */
const CR0 = 0x10033n;
/** DE, PAE, MCE, OSFXSR, OSXMMEXCPT. */
const CR4 = 0x668n;
const GDT_OFFSET = 0x600;
const GDT_LIMIT = 0x47;
const XSAVE_BYTES = 4096;
const FCW = 0x37f;
const MXCSR_AT = 24;
const MXCSR = 0x1f80;
const XSTATE_BV_AT = 512;
const X87_SSE = 3n;
const PAT = 0x0007040600070406n;
const SMBASE = 0x30000;

/**
 * The state in which the VMM starts a mirror vCPU (QEMU v2 patch 8/12): protected mode at the entry page, paging off, segments
 * as the GDT in that page has them; all that is not named there is 0.
 *
 * @param o `helper`: PROJECT: number of the helper, in RBX; 0 as posted. `entry`: guest-physical address of the entry page, the
 * hard-coded one by default
 */
export function mirrorResetState(o: { readonly helper?: number; readonly entry?: number } = {}): MirrorResetState {
	const { helper = 0, entry = PublishedGeometry.entry } = o;
	const xsave = new Uint8Array(XSAVE_BYTES);
	const view = new DataView(xsave.buffer);
	view.setUint16(0, FCW, true);
	view.setUint32(MXCSR_AT, MXCSR, true);
	view.setBigUint64(XSTATE_BV_AT, X87_SSE, true);
	const general = Object.fromEntries(GENERAL.map((name) => [name, 0n])) as Record<(typeof GENERAL)[number], bigint>;
	return {
		sregs: {
			...{ cr0: CR0, cr2: 0n, cr3: 0n, cr4: CR4, cr8: 0n, efer: 0n, apicBase: 0n, cpl: 0n },
			...{ cs: CODE, ds: DATA, es: DATA, ss: DATA, fs: DATA, gs: DATA, ldt: LDT, tr: TSS },
			gdt: { base: BigInt(entry + GDT_OFFSET), limit: GDT_LIMIT },
			idt: { base: 0n, limit: 0 },
			interruptBitmap: [0n, 0n, 0n, 0n],
		},
		regs: { ...general, rbx: BigInt(helper), rip: BigInt(entry), rflags: 2n },
		xsave,
		xcrs: [{ xcr: 0, value: 1n }],
		debugRegs: { db: [0n, 0n, 0n, 0n], dr6: 0xffff0ff0n, dr7: 0x400n, flags: 0n },
		...{ pat: PAT, smbase: SMBASE, a20Mask: -1, halted: true },
	};
}
