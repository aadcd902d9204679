import type { VmState } from '../vm/state.js';
import { Register } from '../vm/vcpu-state.js';
import { writeEfer } from './msrs.js';
import { hex, TripleFault } from './triple-fault.js';

const MSR_EFER = 0xc0000080;
const MSR_PAT = 0x277;
const EFER_LME = 1n << 8n;
/** SCE, LME, LMA, NXE, FFXSR. */
const EFER_VALID = 0x4d01n;
const CR0_PG = 1n << 31n;

/** MSRs that KVM lets a SEV-ES guest have to itself, and their registers (Linux 6.1 arch/x86/kvm/svm/svm.c direct_access_msrs, svm/sev.c sev_es_init_vmcb). */
const OWN: ReadonlyMap<number, number> = new Map([
	[0x174, Register.sysenterCs],
	[0x175, Register.sysenterEsp],
	[0x176, Register.sysenterEip],
	[MSR_PAT, Register.pat],
	[MSR_EFER, Register.efer],
	[0xc0000081, Register.star],
	[0xc0000082, Register.lstar],
	[0xc0000083, Register.cstar],
	[0xc0000084, Register.sfmask],
	[0xc0000100, Register.fsBase],
	[0xc0000101, Register.gsBase],
	[0xc0000102, Register.kernelGsBase],
]);
const ADDRESSES: ReadonlySet<number> = new Set([
	Register.sysenterEsp,
	Register.sysenterEip,
	Register.lstar,
	Register.cstar,
	Register.fsBase,
	Register.gsBase,
	Register.kernelGsBase,
]);

/** The MSRs in the save area: no hypervisor sees them, unless the VMM's filter denies them, which KVM does by intercepting. */
export interface OwnMsrs {
	/** `undefined`: intercepted. */
	read(index: number): bigint | undefined;
	/** false: intercepted. @throws TripleFault `gp` for a value that the processor refuses */
	write(index: number, value: bigint): boolean;
}

export function createOwnMsrs(o: {
	readonly vm: VmState;
	readonly registers: BigUint64Array;
	onEfer(): void;
}): OwnMsrs {
	const { vm, registers } = o;
	const isRefused = (index: number, register: number, value: bigint): boolean => {
		if (ADDRESSES.has(register)) return BigInt.asUintN(64, BigInt.asIntN(48, value)) !== value;
		if (index === MSR_PAT) return !isPat(value);
		if (index !== MSR_EFER) return false;
		const changesMode = ((value ^ (registers[Register.efer] ?? 0n)) & EFER_LME) !== 0n;
		return (value & ~EFER_VALID) !== 0n || (changesMode && ((registers[Register.cr0] ?? 0n) & CR0_PG) !== 0n);
	};
	return {
		read: (index) => {
			const register = OWN.get(index);
			if (register === undefined || !vm.isMsrAllowed(index, 'read')) return undefined;
			return registers[register];
		},
		write: (index, value) => {
			const register = OWN.get(index);
			if (register === undefined || !vm.isMsrAllowed(index, 'write')) return false;
			if (isRefused(index, register, value)) {
				throw new TripleFault('gp', `MSR ${hex(index)}: expected a value that the processor takes: #GP`);
			}
			if (index === MSR_EFER) {
				writeEfer(registers, value);
				o.onEfer();
			} else {
				registers[register] = value;
			}
			return true;
		},
	};
}

/** Whether each of the eight memory types is one. */
function isPat(value: bigint): boolean {
	for (let at = 0n; at < 64n; at += 8n) {
		const type = (value >> at) & 0xffn;
		if (type > 7n || type === 2n || type === 3n) return false;
	}
	return true;
}
