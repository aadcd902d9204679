import { GhcbFeature, GhcbMsr, sevInfoResponse } from '../../abi/ghcb.js';
import { isSince } from '../../kernel.js';
import { type VmState, VmWord } from '../../vm/state.js';
import { MpState, Register, VcpuWord } from '../../vm/vcpu-state.js';
import { type CoreParts, EXIT, GO_ON } from '../core.js';
import { emulateCpuid } from '../host-instructions.js';

const EINVAL = 22;
/** KVM_SYSTEM_EVENT_SEV_TERM. */
const SEV_TERM = 6;
const INFO_MASK = 0xfffn;
const MIN_VERSION = 1;

/** `Register.apResetHold`. */
export const ResetHold = { none: 0n, page: 1n, msr: 2n } as const;

/** What the hypervisor offers: Linux 6.10's GHCB_HV_FT_SUPPORTED, the same for every guest. */
export const HYPERVISOR_FEATURES = BigInt(GhcbFeature.SNP);

/** A SEV information response, which the GHCB MSR also begins with. */
const infoResponse = (vm: VmState): bigint =>
	sevInfoResponse(Math.max(Atomics.load(vm.words, VmWord.ghcbVersion), MIN_VERSION), MIN_VERSION, vm.cbitPosition);

/** KVM_EXIT_SYSTEM_EVENT for a guest that asks for its end; kernels before 5.18 leave KVM_RUN with −EINVAL. */
export function terminate({ vm, run }: CoreParts, ghcbMsr: bigint): number {
	if (!isSince(vm.kernel, '5.18')) return -EINVAL;
	run.exitSystemEvent(SEV_TERM, [ghcbMsr]);
	return EXIT;
}

/** Waits for INIT and SIPI; without a local APIC in KVM the VMM is told. */
export function holdReset({ vm, run, words, registers }: CoreParts, kind: bigint): number {
	registers[Register.apResetHold] = kind;
	if (!vm.hasIrqchip) {
		run.exitApResetHold();
		return EXIT;
	}
	Atomics.store(words, VcpuWord.mpState, MpState.apResetHold);
	return GO_ON;
}

/**
 * VMGEXIT with a message in the GHCB MSR (GHCB standard §2.3.1; Linux arch/x86/kvm/svm/sev.c
 * sev_handle_vmgexit_msr_protocol). What KVM does not know leaves the MSR as it is; before 5.16 it is −EINVAL.
 */
export function msrProtocol(parts: CoreParts): number {
	const { vm, handle, registers } = parts;
	const { kernel } = vm;
	const message = registers[Register.ghcbMsr] ?? 0n;
	const answer = (value: bigint): number => {
		registers[Register.ghcbMsr] = BigInt.asUintN(64, value);
		return GO_ON;
	};
	const unknown = isSince(kernel, '5.16') ? GO_ON : -EINVAL;
	const isVersion2 = isSince(kernel, '6.10');
	switch (Number(message & INFO_MASK)) {
		case GhcbMsr.SEV_INFO_REQUEST:
			return answer(infoResponse(vm));
		case GhcbMsr.CPUID_REQUEST: {
			registers[Register.rax] = message >> 32n;
			registers[Register.rcx] = 0n;
			emulateCpuid(handle, registers);
			const order = [Register.rax, Register.rbx, Register.rcx, Register.rdx] as const;
			const value = registers[order[Number((message >> 30n) & 3n)] ?? Register.rax] ?? 0n;
			// The register's number and what is reserved stay.
			return answer((value << 32n) | (message & 0xfffff000n) | BigInt(GhcbMsr.CPUID_RESPONSE));
		}
		case GhcbMsr.AP_RESET_HOLD_REQUEST:
			if (!isVersion2) return unknown;
			// No SIPI was seen; one that comes changes this.
			answer(BigInt(GhcbMsr.AP_RESET_HOLD_RESPONSE));
			return holdReset(parts, ResetHold.msr);
		case GhcbMsr.FEATURE_REQUEST:
			return isVersion2 ? answer((HYPERVISOR_FEATURES << 12n) | BigInt(GhcbMsr.FEATURE_RESPONSE)) : unknown;
		case GhcbMsr.PREFERRED_GPA_REQUEST:
		case GhcbMsr.REGISTER_GPA_REQUEST:
		case GhcbMsr.PAGE_STATE_REQUEST:
			// Only a SEV-SNP guest may ask.
			return isVersion2 ? terminate(parts, message) : unknown;
		case GhcbMsr.TERMINATE:
			return terminate(parts, message);
		default:
			return unknown;
	}
}
