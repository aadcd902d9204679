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
