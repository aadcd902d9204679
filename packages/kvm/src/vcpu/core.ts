import type { RandomSource } from '@cvm/crypto';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import type { VmState } from '../vm/state.js';
import type { VcpuHandle } from '../vm/vcpu-state.js';
import type { Apic } from './apic.js';
import type { Hypercalls } from './hypercalls.js';
import type { Msrs } from './msrs.js';
import type { Processor } from './processor.js';
import type { GuestProgram } from './program.js';
import type { PvPages } from './pv-pages.js';
import type { RunPage } from './run-page.js';

/** What a step of KVM_RUN returns when the guest goes on. All other values are KVM_RUN's own: 0 or a negative errno. */
export const GO_ON = 1;
/** KVM_RUN returns 0, and kvm_run says why. */
export const EXIT = 0;

/** SVM's VMEXIT_INVALID, −1: VMRUN refused (Linux arch/x86/kvm/svm/svm.c `pre_svm_run`). */
export const VMEXIT_INVALID = 0xffffffffffffffffn;

/** A guest without protected registers, or one with: how its instructions leave the guest, and come back. */
export interface Core {
	readonly processor: Processor;
	/** Finishes the exit that the VMM has answered: {@link GO_ON}, or what KVM_RUN returns. */
	complete(): number;
	/** VMRUN. {@link GO_ON}, or what KVM_RUN returns. */
	enter(): number;
	/** Carries out the instruction that a block ended in. {@link GO_ON}, or what KVM_RUN returns. @throws TripleFault */
	finish(): number;
	/** #VMEXIT: after it nobody but the VMM touches the vCPU. */
	leave(): void;
	/** INIT came. */
	reset(): void;
	/** A SIPI came after it. */
	start(vector: number): void;
}

/** What both kinds of core work with: KVM's side of a vCPU. */
export interface CoreParts {
	readonly vm: VmState;
	readonly handle: VcpuHandle;
	readonly controller: MemoryController;
	readonly program: GuestProgram;
	/** The register file that the VMM sees. */
	readonly registers: BigUint64Array;
	readonly xsave: Uint8Array;
	/** What RDRAND draws from. */
	readonly random: RandomSource;
	/** Of the vCPU: `VcpuWord`. */
	readonly words: Int32Array;
	readonly run: RunPage;
	/** Over `registers`. */
	readonly msrs: Msrs;
	readonly hypercalls: Hypercalls;
	readonly pvPages: PvPages;
	readonly apic: Apic;
	/** HLT: waits for the timer or the VMM. */
	halt(): void;
	flushAllTlbs(): void;
}
