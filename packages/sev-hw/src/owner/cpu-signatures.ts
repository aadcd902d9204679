/**
 * CPUID Fn0000_0001_EAX of a processor: its family, model and stepping, as AMD's CPUID Specification (publication 25481)
 * packs them. It is the RDX of a virtual CPU at its reset.
 */
export function cpuSignature(o: {
	readonly family: number;
	readonly model: number;
	readonly stepping: number;
}): number {
	const { family, model, stepping } = o;
	const [base, extended] = family > 0xf ? [0xf, (family - 0xf) & 0xff] : [family, 0];
	return (extended << 20) | (((model >> 4) & 0xf) << 16) | (base << 8) | ((model & 0xf) << 4) | (stepping & 0xf);
}

const epyc = cpuSignature({ family: 23, model: 1, stepping: 2 });
const rome = cpuSignature({ family: 23, model: 49, stepping: 0 });
const milan = cpuSignature({ family: 25, model: 1, stepping: 1 });
const genoa = cpuSignature({ family: 25, model: 17, stepping: 0 });
const turin = cpuSignature({ family: 26, model: 0, stepping: 0 });

/** Signatures of QEMU's models of AMD server processors, by QEMU's names (virtee/sev-snp-measure `vcpu_types.py`). */
export const CPU_SIGNATURES = {
	EPYC: epyc,
	'EPYC-v1': epyc,
	'EPYC-v2': epyc,
	'EPYC-IBPB': epyc,
	'EPYC-v3': epyc,
	'EPYC-v4': epyc,
	'EPYC-Rome': rome,
	'EPYC-Rome-v1': rome,
	'EPYC-Rome-v2': rome,
	'EPYC-Rome-v3': rome,
	'EPYC-Milan': milan,
	'EPYC-Milan-v1': milan,
	'EPYC-Milan-v2': milan,
	'EPYC-Genoa': genoa,
	'EPYC-Genoa-v1': genoa,
	'EPYC-Turin': turin,
} as const satisfies Readonly<Record<string, number>>;

/** A processor model whose signature is known. */
export type CpuName = keyof typeof CPU_SIGNATURES;
