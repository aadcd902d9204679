import { ExitCode, GhcbError, GhcbException, GhcbResult, ghcb, IoInfo, JumpTableAction } from '../../abi/ghcb.js';
import { isSince } from '../../kernel.js';
import { VmWord } from '../../vm/state.js';
import { PendingKind, Register } from '../../vm/vcpu-state.js';
import { type CoreParts, EXIT, GO_ON } from '../core.js';
import { accessMsr, completeIn, completeMsr, emulateCpuid } from '../host-instructions.js';
import { setEdxEax } from '../msrs.js';
import { createDeviceAccess, type Malformed } from './device-access.js';
import { HYPERVISOR_FEATURES, holdReset, ResetHold, terminate } from './msr-protocol.js';
import type { GhcbPage, PlainMemory } from './page.js';

const EINVAL = 22;
/** KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON. */
const UNEXPECTED_EXIT = 4;
const CODE_AT = ghcb.offsetOf('swExitCode');
const INFO1_AT = ghcb.offsetOf('swExitInfo1');
const INFO2_AT = ghcb.offsetOf('swExitInfo2');
const SCRATCH_AT = ghcb.offsetOf('swScratch');

/**
 * The non-automatic exits that a guest reports through its GHCB (GHCB standard §4.1), after its fields were checked.
 *
 * DEVIATION(Linux arch/x86/kvm/x86.c kvm_emulate_rdpmc): the exceptions of RDPMC and RDTSCP are answers in the GHCB; KVM injects
 * them.
 *
 * UNCERTAIN(Linux arch/x86/kvm/svm/svm.c io_interception): KVM does not look at the operand size of IOIO, and no processor
 * makes another than 1, 2 and 4; here others are invalid input.
 */
export interface Events {
	dispatch(): number;
	/** Finishes an exit that the VMM answered; `kind` of `PendingKind`. */
	complete(kind: number): number;
}

export function createEvents(o: {
	readonly parts: CoreParts;
	readonly page: GhcbPage;
	readonly memory: PlainMemory;
	readonly malformed: Malformed;
}): Events {
	const { parts, page, malformed } = o;
	const { vm, handle, registers, run, hypercalls } = parts;
	const devices = createDeviceAccess(parts, page, o.memory, malformed);

	const raise = (exception: number): number => {
		page.set('swExitInfo1', BigInt(GhcbResult.EXCEPTION));
		page.set('swExitInfo2', BigInt(exception));
		return GO_ON;
	};
	const wait = (kind: number, size = 0): number => {
		registers[Register.pendingKind] = BigInt(kind);
		registers[Register.pendingA] = BigInt(size);
		return EXIT;
	};

	const msr = (kind: number): number => {
		const outcome = accessMsr(parts, kind, registers);
		if (outcome === 'exit') return wait(kind);
		if (outcome === 'gp') return raise(GhcbException.GP);
		if (kind === PendingKind.rdmsr) setEdxEax(registers, outcome);
		else parts.pvPages.serve();
		return GO_ON;
	};

	const hypercall = (): number => {
		const get = (index: number): bigint => registers[index] ?? 0n;
		const outcome = hypercalls.dispatch({
			nr: get(Register.rax),
			a0: get(Register.rbx),
			a1: get(Register.rcx),
			a2: get(Register.rdx),
			a3: get(Register.rsi),
			cpl: Number(get(Register.cpl)),
			isLong: true,
		});
		if (outcome === 'exit') return wait(PendingKind.hypercall);
		if (outcome === 'leave') return EXIT;
		registers[Register.rax] = outcome;
		return GO_ON;
	};

	const portIo = (info1: bigint, info2: bigint): number => {
		const info = Number(info1 & 0xffffffffn);
		const isIn = (info & IoInfo.in) !== 0;
		const size = (info >>> IoInfo.sizeShift) & IoInfo.sizeMask;
		const port = info >>> IoInfo.portShift;
		if ((info & IoInfo.string) !== 0) return devices.stringIo(isIn, port, size, info2, page.long(SCRATCH_AT));
		if (size !== 1 && size !== 2 && size !== 4) {
			return isSince(vm.kernel, '5.16') ? malformed(GhcbError.INVALID_INPUT) : -EINVAL;
		}
		run.exitIo(!isIn, port, size, isIn ? 0 : Number(BigInt.asUintN(32, registers[Register.rax] ?? 0n)));
		return wait(isIn ? PendingKind.ioIn : PendingKind.ioOut, size);
	};

	const jumpTable = (info1: bigint, info2: bigint): number => {
		const at = VmWord.apJumpTable;
		if (info1 === BigInt(JumpTableAction.set)) {
			Atomics.store(vm.words, at, Number(BigInt.asIntN(32, info2)));
			Atomics.store(vm.words, at + 1, Number(BigInt.asIntN(32, info2 >> 32n)));
			return GO_ON;
		}
		if (info1 === BigInt(JumpTableAction.get)) {
			const low = BigInt(Atomics.load(vm.words, at) >>> 0);
			page.set('swExitInfo2', (BigInt(Atomics.load(vm.words, at + 1) >>> 0) << 32n) | low);
			return GO_ON;
		}
		return isSince(vm.kernel, '5.16') ? malformed(GhcbError.INVALID_INPUT) : raise(GhcbException.UD);
	};

	return {
		dispatch: () => {
			const info1 = page.long(INFO1_AT);
			const info2 = page.long(INFO2_AT);
			const scratch = page.long(SCRATCH_AT);
			const code = page.long(CODE_AT);
			switch (Number(code)) {
				case ExitCode.CPUID:
					emulateCpuid(handle, registers);
					return GO_ON;
				case ExitCode.IOIO:
					return portIo(info1, info2);
				case ExitCode.MSR:
					return msr(info1 === 0n ? PendingKind.rdmsr : PendingKind.wrmsr);
				case ExitCode.VMMCALL:
					return hypercall();
				case ExitCode.MMIO_READ:
					return devices.mmio(false, info1, info2, scratch);
				case ExitCode.MMIO_WRITE:
					return devices.mmio(true, info1, info2, scratch);
				case ExitCode.AP_RESET_HOLD:
					return holdReset(parts, ResetHold.page);
				case ExitCode.AP_JUMP_TABLE:
					return jumpTable(info1, info2);
				case ExitCode.HYPERVISOR_FEATURES:
					page.set('swExitInfo2', HYPERVISOR_FEATURES);
					return GO_ON;
				case ExitCode.TERMINATE:
					return terminate(parts, registers[Register.ghcbMsr] ?? 0n);
				case ExitCode.UNSUPPORTED_EVENT:
					return -EINVAL;
				case ExitCode.RDPMC:
					// There is no counter.
					return raise(GhcbException.GP);
				case ExitCode.RDTSCP:
					// KVM never intercepts it, and takes it for an invalid opcode.
					return raise(GhcbException.UD);
				case ExitCode.RDTSC:
					// KVM never intercepts it and has no handler (Linux arch/x86/kvm/svm/svm.c svm_handle_invalid_exit).
					run.exitInternalError(UNEXPECTED_EXIT, [code, BigInt(handle.index)]);
					return EXIT;
				default:
					// DR7 stays the guest's own; INVD, WBINVD, MONITOR, MWAIT and the end of an NMI have nothing to do here.
					return GO_ON;
			}
		},
		complete: (kind) => {
			switch (kind) {
				case PendingKind.hypercall:
					registers[Register.rax] = hypercalls.complete(true);
					return GO_ON;
				case PendingKind.rdmsr:
				case PendingKind.wrmsr:
					return completeMsr(run, kind, registers) ? GO_ON : raise(GhcbException.GP);
				case PendingKind.ioIn:
					completeIn(run, Number(registers[Register.pendingA] ?? 0n), registers);
					return GO_ON;
				case PendingKind.mmioRead:
				case PendingKind.mmioWrite:
				case PendingKind.stringIn:
				case PendingKind.stringOut:
					return devices.complete(kind);
				default:
					return GO_ON;
			}
		},
	};
}
