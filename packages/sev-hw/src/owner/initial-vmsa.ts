import { vmsa, vmsaSegment } from '../vmsa/layout.js';
import { OwnerError } from './error.js';

/** Where the first virtual CPU starts. */
const RESET_VECTOR = 0xfffffff0;

const data = vmsaSegment.encode({ attrib: 0x93, limit: 0xffff });
const table = vmsaSegment.encode({ limit: 0xffff });

/** How a virtual CPU of an SEV-ES guest starts, as far as it differs between launches. */
export interface VcpuStart {
	/** CPUID Fn0000_0001_EAX of the guest's processor model: `CPU_SIGNATURES`. */
	readonly signature: number;
	/** Where all but the first start: the firmware's SEV-ES reset block, `readSevBlocks`. */
	readonly apResetVector?: number;
	/** SEV_FEATURES: 0, the default, in SEV-ES guests. */
	readonly sevFeatures?: bigint;
	/**
	 * Whether MXCSR and FCW hold their reset values: true, the default, for guests of KVM_SEV_INIT2. KVM_SEV_ES_INIT leaves
	 * the floating-point part of the measured page zero (Linux), and so does `sevctl vmsa build`.
	 */
	readonly fpuInit?: boolean;
}

/**
 * The save area (4096 bytes) that KVM hands to LAUNCH_UPDATE_VMSA for a virtual CPU of a QEMU guest, as it enters the
 * launch digest (virtee/sev-snp-measure `vmsa.py`).
 *
 * @param o.vcpu 0 for the one that boots
 * @throws OwnerError `firmware` if another one has no reset vector
 */
export function initialVmsa(o: VcpuStart & { readonly vcpu: number }): Uint8Array {
	const { vcpu, signature, sevFeatures = 0n, fpuInit = true } = o;
	const start = vcpu === 0 ? RESET_VECTOR : o.apResetVector;
	if (start === undefined) {
		throw new OwnerError('firmware', `virtual CPU ${vcpu}: expected the firmware's SEV-ES reset vector, got none`);
	}
	return vmsa.encode({
		es: data,
		cs: vmsaSegment.encode({ selector: 0xf000, attrib: 0x9b, limit: 0xffff, base: BigInt(start) & 0xffff0000n }),
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
		rip: BigInt(start) & 0xffffn,
		gPat: 0x0007040600070406n,
		rdx: BigInt(signature),
		sevFeatures,
		xcr0: 1n,
		...(fpuInit && { mxcsr: 0x1f80, fcw: 0x37f }),
	});
}
