import { MsrExitReason } from '../abi/capabilities.js';
import { Register } from '../vcpu-state.js';
import type { VmState } from '../vm-state.js';
import type { RunPage } from './run-page.js';
import { hex, TripleFault } from './triple-fault.js';

const MSR_EFER = 0xc0000080;
/** APM vol. 2 §15.34.10. The hardware answers it in the guest; no hypervisor can intercept the read. */
const MSR_SEV_STATUS = 0xc0010131;

const Efer = { lme: 1n << 8n, lma: 1n << 10n } as const;
/** SCE, LME, LMA, NXE, SVME, FFXSR. */
const EFER_VALID = 0x5d01n;
const CR0_PG = 1n << 31n;

/** Sets EFER as WRMSR would; LMA is the processor's own. */
export function writeEfer(registers: BigUint64Array, value: bigint): void {
	registers[Register.efer] = (value & ~Efer.lma) | ((registers[Register.efer] ?? 0n) & Efer.lma);
}

/** Sets CR0 and, with PG, the long-mode-active bit. @throws TripleFault `gp` for long mode without CR4.PAE */
export function writeCr0(registers: BigUint64Array, value: bigint): void {
	const efer = registers[Register.efer] ?? 0n;
	const isLong = (value & CR0_PG) !== 0n && (efer & Efer.lme) !== 0n;
	if (isLong && ((registers[Register.cr4] ?? 0n) & 0x20n) === 0n) {
		throw new TripleFault('gp', 'CR0.PG: expected CR4.PAE for long mode, got it clear: #GP');
	}
	registers[Register.cr0] = value;
	registers[Register.efer] = isLong ? efer | Efer.lma : efer & ~Efer.lma;
}

/**
 * RDMSR and WRMSR as KVM handles them (Linux 5.12 arch/x86/kvm/x86.c `kvm_emulate_rdmsr`): the filter first, then what KVM
 * knows, which here is EFER; what it refuses goes to the VMM if KVM_CAP_X86_USER_SPACE_MSR asks for that reason, else #GP.
 * MSR_KVM_MIGRATION_CONTROL is unknown to KVM in both ABIs: the VMM implements it behind a filter.
 *
 * The result is `true` if `run` was filled for an exit.
 */
export interface Msrs {
	/** @throws TripleFault `gp` */
	read(): boolean;
	/** @throws TripleFault `gp` */
	write(): boolean;
}

/** `onEfer` runs after EFER changed. */
export function createMsrs(vm: VmState, registers: BigUint64Array, run: RunPage, onEfer: () => void): Msrs {
	const index = (): number => Number(BigInt.asUintN(32, registers[Register.rcx] ?? 0n));

	const refuse = (isWrite: boolean, msr: number, reason: number, data: bigint): true => {
		if ((vm.msrExitMask & reason) === 0) {
			throw new TripleFault('gp', `MSR ${hex(msr)}: expected one that may be ${isWrite ? 'written' : 'read'}: #GP`);
		}
		run.exitMsr(isWrite, reason, msr, data);
		return true;
	};

	return {
		read: () => {
			const msr = index();
			if (msr === MSR_SEV_STATUS) {
				setEdxEax(registers, vm.sevActive ? 1n : 0n);
				return false;
			}
			if (!vm.isMsrAllowed(msr, 'read')) return refuse(false, msr, MsrExitReason.FILTER, 0n);
			if (msr !== MSR_EFER) return refuse(false, msr, MsrExitReason.UNKNOWN, 0n);
			setEdxEax(registers, registers[Register.efer] ?? 0n);
			return false;
		},
		write: () => {
			const msr = index();
			const value =
				(BigInt.asUintN(32, registers[Register.rdx] ?? 0n) << 32n) | BigInt.asUintN(32, registers[Register.rax] ?? 0n);
			if (msr === MSR_SEV_STATUS) throw new TripleFault('gp', `MSR ${hex(msr)}: expected no write: #GP`);
			if (!vm.isMsrAllowed(msr, 'write')) return refuse(true, msr, MsrExitReason.FILTER, value);
			if (msr !== MSR_EFER) return refuse(true, msr, MsrExitReason.UNKNOWN, value);
			const changesMode = ((value ^ (registers[Register.efer] ?? 0n)) & Efer.lme) !== 0n;
			const isPaging = ((registers[Register.cr0] ?? 0n) & CR0_PG) !== 0n;
			if ((value & ~EFER_VALID) !== 0n || (changesMode && isPaging)) {
				return refuse(true, msr, MsrExitReason.INVAL, value);
			}
			writeEfer(registers, value);
			onEfer();
			return false;
		},
	};
}

/** EDX:EAX ← a 64-bit value; the upper halves of both registers become zero. */
export function setEdxEax(registers: BigUint64Array, value: bigint): void {
	registers[Register.rax] = BigInt.asUintN(32, value);
	registers[Register.rdx] = value >> 32n;
}
