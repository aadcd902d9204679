import { toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { kernelHashesTable } from '../src/owner/kernel-hashes.js';
import { vmsa, vmsaSegment } from '../src/vmsa/layout.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, publicFile } from './public-data.js';
import { ES_ASID, initialised, provider } from './rig.js';

const RESET = 0xfffffff0;
/** CPUID signature of QEMU's EPYC-v4. */
const EPYC_V4 = 0x800f12n;

/** The save area of the first vCPU before its first instruction, as QEMU and KVM hand it to LAUNCH_UPDATE_VMSA. */
function resetSaveArea(): Uint8Array {
	const data = vmsaSegment.encode({ attrib: 0x93, limit: 0xffff });
	const table = vmsaSegment.encode({ limit: 0xffff });
	return vmsa.encode({
		es: data,
		cs: vmsaSegment.encode({ selector: 0xf000, attrib: 0x9b, limit: 0xffff, base: BigInt(RESET - (RESET % 0x10000)) }),
		ss: data,
		ds: data,
		fs: data,
		gs: data,
		gdtr: table,
		ldtr: vmsaSegment.encode({ attrib: 0x82, limit: 0xffff }),
		idtr: table,
		tr: vmsaSegment.encode({ attrib: 0x8b, limit: 0xffff }),
		efer: 0x1000n,
		cr4: 0x40n,
		cr0: 0x10n,
		dr7: 0x400n,
		dr6: 0xffff0ff0n,
		rflags: 2n,
		rip: BigInt(RESET % 0x10000),
		gPat: 0x0007040600070406n,
		rdx: EPYC_V4,
		xcr0: 1n,
		mxcsr: 0x1f80,
		fcw: 0x37f,
	});
}

describe.runIf(hasPublicData)(`the save area's layout ${NEEDS_PUBLIC_DATA}`, () => {
	it('gives the published launch digest of a SEV-ES guest, through the firmware (virtee/sev-snp-measure)', () => {
		const rig = initialised({ es: true });
		const { handle = 0 } = rig.must('LAUNCH_START', { policy: Policy.ES });
		rig.must('ACTIVATE', { handle, asid: ES_ASID });
		const empty = new Uint8Array(0);
		const data = [
			publicFile('ovmf', 'ovmf_AmdSev_suffix.bin'),
			kernelHashesTable(provider, { kernel: empty, initrd: empty, commandLine: empty }),
		];
		for (const part of data) {
			rig.must('LAUNCH_UPDATE_DATA', { handle, paddr: rig.put(part), length: part.length });
		}
		rig.must('LAUNCH_UPDATE_VMSA', { handle, paddr: rig.put(resetSaveArea()), length: 4096 });
		rig.must('LAUNCH_MEASURE', { handle, paddr: BigInt(rig.allocate(48)), length: 48 });
		expect(toHex(rig.platform.guests.get(handle)?.launchDigest ?? empty)).toBe(
			'13810ae661ea11e2bb205621f582fee268f0367c8f97bc297b7fadef3e12002c',
		);
	});
});

describe('the save area', () => {
	it('has the offsets that no public digest depends on where Linux has them', () => {
		// struct sev_es_save_area, arch/x86/include/asm/svm.h.
		const names = ['cpl', 'cr3', 'rsp', 'rax', 'rcx', 'rbx', 'rbp', 'rsi', 'rdi', 'r8', 'r15', 'sevFeatures'] as const;
		expect(names.map((name) => vmsa.offsetOf(name))).toEqual([
			0xcb, 0x150, 0x1d8, 0x1f8, 0x308, 0x318, 0x328, 0x330, 0x338, 0x340, 0x378, 0x3b0,
		]);
	});
});

/** Offsets in `struct sev_es_save_area` of Linux `arch/x86/include/asm/svm.h`. */
const OFFSETS = {
	...{ es: 0x0, cs: 0x10, ss: 0x20, ds: 0x30, fs: 0x40, gs: 0x50, gdtr: 0x60, ldtr: 0x70, idtr: 0x80, tr: 0x90 },
	...{ pl0Ssp: 0xa0, pl1Ssp: 0xa8, pl2Ssp: 0xb0, pl3Ssp: 0xb8, uCet: 0xc0, vmpl: 0xca, cpl: 0xcb, efer: 0xd0 },
	...{ xss: 0x140, cr4: 0x148, cr3: 0x150, cr0: 0x158, dr7: 0x160, dr6: 0x168, rflags: 0x170, rip: 0x178 },
	...{ dr0: 0x180, dr1: 0x188, dr2: 0x190, dr3: 0x198 },
	...{ dr0AddrMask: 0x1a0, dr1AddrMask: 0x1a8, dr2AddrMask: 0x1b0, dr3AddrMask: 0x1b8 },
	...{ rsp: 0x1d8, sCet: 0x1e0, ssp: 0x1e8, isstAddr: 0x1f0, rax: 0x1f8, star: 0x200, lstar: 0x208, cstar: 0x210 },
	...{ sfmask: 0x218, kernelGsBase: 0x220, sysenterCs: 0x228, sysenterEsp: 0x230, sysenterEip: 0x238, cr2: 0x240 },
	...{ gPat: 0x268, dbgctl: 0x270, brFrom: 0x278, brTo: 0x280, lastExcpFrom: 0x288, lastExcpTo: 0x290 },
	...{ pkru: 0x2e8, tscAux: 0x2ec, guestTscScale: 0x2f0, guestTscOffset: 0x2f8 },
	...{ rcx: 0x308, rdx: 0x310, rbx: 0x318, rbp: 0x328, rsi: 0x330, rdi: 0x338 },
	...{ r8: 0x340, r9: 0x348, r10: 0x350, r11: 0x358, r12: 0x360, r13: 0x368, r14: 0x370, r15: 0x378 },
	...{ guestExitInfo1: 0x390, guestExitInfo2: 0x398, guestExitIntInfo: 0x3a0, guestNrip: 0x3a8 },
	...{ sevFeatures: 0x3b0, vintrCtrl: 0x3b8, guestExitCode: 0x3c0, virtualTom: 0x3c8, tlbId: 0x3d0, pcpuId: 0x3d8 },
	...{ eventInj: 0x3e0, xcr0: 0x3e8, x87Dp: 0x400, mxcsr: 0x408, ftw: 0x40c, fsw: 0x40e, fcw: 0x410, fop: 0x412 },
	...{ x87Ds: 0x414, x87Cs: 0x416, x87Rip: 0x418, x87: 0x420, xmm: 0x470, ymm: 0x570 },
} as const;

describe('the save area', () => {
	it('has each field where Linux has it, and two of the firmware’s', () => {
		const ours = Object.fromEntries(Object.entries(vmsa.fields).map(([name, { offset }]) => [name, offset]));
		expect(ours).toEqual({ ...OFFSETS, firmwareZero: 0x380, slotPaddr: 0x388 });
	});

	it('is 1648 bytes in a page', () => {
		expect(Math.max(...Object.values(vmsa.fields).map(({ offset, size }) => offset + size))).toBe(1648);
		expect(vmsa.size).toBe(4096);
	});
});
