import { type GhcbError, GhcbMsr, GhcbResult, ghcb } from '../../abi/ghcb.js';
import { isSince } from '../../kernel.js';
import { PendingKind, Register } from '../../vm/vcpu-state.js';
import { type CoreParts, GO_ON } from '../core.js';
import { createEvents } from './events.js';
import { msrProtocol, ResetHold } from './msr-protocol.js';
import { createGhcbPage, createPlainMemory } from './page.js';
import { validateGhcb } from './validate.js';

const EINVAL = 22;
/** KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON. */
const UNEXPECTED_EXIT = 4;

const AT = {
	code: ghcb.offsetOf('swExitCode'),
	cpl: ghcb.offsetOf('cpl'),
	xcr0: ghcb.offsetOf('xcr0'),
} as const;
/** What KVM takes from a GHCB. */
const INPUTS = [
	[Register.rax, ghcb.offsetOf('rax')],
	[Register.rbx, ghcb.offsetOf('rbx')],
	[Register.rcx, ghcb.offsetOf('rcx')],
	[Register.rdx, ghcb.offsetOf('rdx')],
	[Register.rsi, ghcb.offsetOf('rsi')],
] as const;
/** What it gives back. */
const OUTPUTS = ['rax', 'rbx', 'rcx', 'rdx'] as const;

/** VMGEXIT as KVM handles it (Linux arch/x86/kvm/svm/sev.c sev_handle_vmgexit), over KVM's registers of the vCPU. */
export interface Vmgexit {
	/** The guest executed VMGEXIT. `GO_ON`, or what KVM_RUN returns. */
	handle(): number;
	/** Finishes the exit that the VMM has answered, and hands the results to the guest. */
	complete(): number;
	/** A SIPI for a vCPU that waits in an AP reset hold, or for none. */
	endResetHold(): void;
}

export function createVmgexit(parts: CoreParts): Vmgexit {
	const { vm, handle, registers, run } = parts;
	const { kernel } = vm;
	const memory = createPlainMemory(vm, parts.controller);
	const page = createGhcbPage(vm, memory);
	const malformed = (error: GhcbError): number => {
		page.set('swExitInfo1', BigInt(GhcbResult.MALFORMED));
		page.set('swExitInfo2', BigInt(error));
		return GO_ON;
	};
	const events = createEvents({ parts, page, memory, malformed });
	/** Before 5.16 what is wrong with a GHCB ends KVM_RUN. */
	const isStrict = !isSince(kernel, '5.16');

	const takeInputs = (): void => {
		registers.fill(0n, Register.rax, Register.rip + 1);
		for (const [register, at] of INPUTS) if (page.isValid(at)) registers[register] = page.long(at);
		registers[Register.cpl] = page.isValid(AT.cpl) ? BigInt(page.bytes[AT.cpl] ?? 0) : 0n;
		if (page.isValid(AT.xcr0)) registers[Register.xcr0] = page.long(AT.xcr0);
		page.clearValid();
	};
	const giveOutputs = (): void => {
		for (const name of OUTPUTS) page.set(name, registers[Register[name]] ?? 0n);
	};

	const exchange = (): number => {
		if (isStrict && validateGhcb(kernel, page) !== 0) {
			run.exitInternalError(UNEXPECTED_EXIT, [page.long(AT.code), BigInt(handle.index)]);
			return -EINVAL;
		}
		takeInputs();
		const error = isStrict ? 0 : validateGhcb(kernel, page);
		if (error !== 0) return malformed(error);
		page.set('swExitInfo1', BigInt(GhcbResult.SUCCESS));
		page.set('swExitInfo2', 0n);
		return events.dispatch();
	};

	return {
		handle: () => {
			registers[Register.apResetHold] = ResetHold.none;
			const msr = registers[Register.ghcbMsr] ?? 0n;
			if ((msr & 0xfffn) !== 0n) return msrProtocol(parts);
			if (msr === 0n || !page.map(msr)) return isStrict ? -EINVAL : GO_ON;
			const result = exchange();
			if (result === GO_ON) giveOutputs();
			else if (result === 0) registers[Register.ghcbExit] = 1n;
			return result;
		},
		complete: () => {
			const kind = Number(registers[Register.pendingKind] ?? 0n);
			if (kind === PendingKind.none && registers[Register.ghcbExit] === 0n) return GO_ON;
			registers[Register.pendingKind] = BigInt(PendingKind.none);
			// The guest has not run since, so it is the page of the exit; without one the answer is lost.
			const isMapped = page.map(registers[Register.ghcbMsr] ?? 0n);
			const result = kind === PendingKind.none || !isMapped ? GO_ON : events.complete(kind);
			if (result !== GO_ON) return result;
			registers[Register.ghcbExit] = 0n;
			if (isMapped) giveOutputs();
			return GO_ON;
		},
		endResetHold: () => {
			const kind = registers[Register.apResetHold] ?? ResetHold.none;
			registers[Register.apResetHold] = ResetHold.none;
			if (kind === ResetHold.page && page.map(registers[Register.ghcbMsr] ?? 0n)) {
				page.set('swExitInfo2', 1n);
			} else if (kind === ResetHold.msr) {
				registers[Register.ghcbMsr] = (1n << 12n) | BigInt(GhcbMsr.AP_RESET_HOLD_RESPONSE);
			}
		},
	};
}
