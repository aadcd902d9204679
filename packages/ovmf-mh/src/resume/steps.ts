/** One step of a phase: what an author has to know to write it as code. */
export interface ResumeStep {
	readonly phase: '0' | '1' | '2' | '3a' | '3b' | '3c' | '3d' | '3e';
	readonly does: string;
	/** Whose page tables are in effect. */
	readonly tables: 'firmware' | 'intermediate' | 'source';
	/** Instructions that a hypervisor intercepts in a SEV-ES guest: each is #VC there. */
	readonly intercepted: readonly string[];
}

const step = (
	phase: ResumeStep['phase'],
	tables: ResumeStep['tables'],
	does: string,
	...intercepted: readonly string[]
): ResumeStep => ({ phase, does, tables, intercepted });

/** The demonstrator's steps, for a guest without SEV-ES. */
export const DEMONSTRATOR_STEPS: readonly ResumeStep[] = [
	step(
		'0',
		'firmware',
		'copy the phases and the blob; intermediate page table; clear NX for phase 3 in the source’s tables',
	),
	step('1', 'firmware', 'VA of phase 3, intermediate CR3, source CR4, address of phase 2 in registers; jump'),
	step('2', 'intermediate', 'CR3; CR4 without PGE; CR3 again; CR4 with PGE; jump to phase 3'),
	step('3a', 'source', 'CLI; CR3; flush as in 2; CR0 without WP; CR2; EFER'),
	step('3b', 'source', 'wait for the completion flag', 'OUT for progress'),
	step(
		'3c',
		'source',
		'CR3 again; general registers; LGDT, LIDT, LLDT 0; DS, ES, FS, GS; MSRs; LTR; CR0 with WP',
		'WRMSR',
	),
	step('3d', 'source', 'TSC; local APIC; end of interrupts', 'WRMSR TSC', 'WRMSR x2APIC'),
	step('3e', 'source', 'registers that were used; RSP to the frame; IRETQ'),
];

/**
 * Ours for a SEV-ES guest: what needs an MSR is done before 3a, on the firmware's side of it, where nothing is lost; nobody waits for
 * devices, as START comes after them; the timers are the host's.
 */
export const SAVE_AREA_STEPS: readonly ResumeStep[] = [
	step(
		'0',
		'firmware',
		'wait for the gate; check the save area; walk the source’s tables; frame in the slot of the vCPU',
	),
	step('1', 'firmware', 'MSRs of the save area, which KVM lets the guest have; x87, SSE, AVX; wipe the save area'),
	step('3a', 'source', 'CR3; CR4 without PGE and with; EFER; CR0 without WP; CR2'),
	step('3c', 'source', 'LGDT, LIDT; LTR; CR0 with WP'),
	step('3e', 'source', 'general registers from the slot; RSP to the frame; IRETQ'),
];

/** Phases after which nobody handles an exception: no stack, and an IDT that is neither one's. */
const POINT_OF_NO_RETURN: ReadonlySet<ResumeStep['phase']> = new Set(['3a', '3b', '3c', '3d', '3e']);

/**
 * Instructions between 3a and 3e that are #VC in a SEV-ES guest: there is no stack then, and the IDT is about to be the source's
 * (PROJECT rule after an inference of the authors). Empty for steps that a SEV-ES guest may have.
 */
export const interceptedSteps = (steps: readonly ResumeStep[]): readonly string[] =>
	steps
		.filter(({ phase }) => POINT_OF_NO_RETURN.has(phase))
		.flatMap(({ phase, intercepted }) => intercepted.map((instruction) => `${phase}: ${instruction}`));

/** What the demonstrator's blob does not have, or has and does not restore. */
export const BLOB_NOT_RESTORED = [
	'x87, SSE and AVX state',
	'debug registers',
	'LDT: LLDT 0',
	'SYSENTER MSRs: in the blob, never written back',
	'PAT',
	'MTRRs',
	'XCR0',
	'TPR (CR8)',
	'local APIC but for constants',
	'kvm-clock MSRs',
	'pending interrupts and exceptions',
	'interrupt shadow',
] as const;

/**
 * The demonstrator's constants of phase 3d: MSR, value. DEVIATION(demonstrator): not written here; there are neither timers nor
 * interrupts in this model, and a guest with SEV-ES could not.
 */
export const APIC_CONSTANTS = {
	/** High and low half of the TSC. */
	tsc: [9, 0],
	lvt0: [0x835, 0x10700],
	spurious: [0x80f, 0x1ff],
	timerInitialCount: [0x838, 0x3cf53],
	lvtTimer: [0x832, 0xec],
	/** WRMSR 0x80B of 0, so many times. */
	endOfInterrupt: [0x80b, 4096],
} as const;

/** What the trampoline of a save area does not restore, and why. The save area has it all. */
export const SAVE_AREA_NOT_RESTORED = [
	['debug registers', 'writes of DR7 are intercepted; DR0 to DR3 are the host’s without debug swap'],
	['TSC_AUX', 'its MSR is intercepted'],
	['XCR0, XSS, PKRU', 'no such instructions in this model'],
	['LDTR, DS, ES, FS and GS selectors', 'no such instructions in this model; FS and GS bases are restored'],
	['attributes of CS, SS and TR', 'a flat 64-bit CS; descriptors are not looked at in this model'],
	['shadow stacks (PLx_SSP, U_CET, S_CET, SSP, ISST)', 'no such instructions in this model'],
	['TPR (CR8), event injection', 'control state of the host, no interrupts in this model'],
	['guest TSC, kvm-clock MSRs, MTRRs, local APIC', 'the host’s: its own state carries them'],
	[
		'GHCB MSR, AP jump table',
		'not in a save area: `saveEsVcpu` of `@cvm/kvm` carries them, and the host sees them anyway',
	],
] as const;

/**
 * How a SEV-ES guest's vCPU gets its registers at the target. `vmsaCreate`: the helper builds a save area in private memory and asks
 * for a vCPU with it (authors' proposal for SEV-SNP).
 */
export type CpuRestore = 'trampoline' | 'vmsaCreate';

/** @throws RangeError for `vmsaCreate`: AP creation is SEV-SNP's, which is not modelled */
export function requireTrampoline(how: CpuRestore): void {
	if (how !== 'trampoline') throw new RangeError(`cpuRestore: expected trampoline, got ${how}, which needs SEV-SNP`);
}
