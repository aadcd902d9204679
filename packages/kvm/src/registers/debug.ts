import { Errno } from '../abi/errno.js';
import { Register } from '../vm/vcpu-state.js';

/** struct kvm_debugregs. */
export interface KvmDebugRegs {
	/** DR0 … DR3. */
	readonly db: readonly [bigint, bigint, bigint, bigint];
	readonly dr6: bigint;
	readonly dr7: bigint;
	/** 0. */
	readonly flags: bigint;
}

/** DR7 without any breakpoint: bit 10 is always one. */
export const DR7_FIXED = 0x400n;
/** DR6 without any event. */
export const DR6_RESET = 0xffff0ff0n;

/** KVM_GET_DEBUGREGS. */
export const readDebugRegs = (registers: BigUint64Array): KvmDebugRegs => ({
	db: [
		registers[Register.dr0] ?? 0n,
		registers[Register.dr1] ?? 0n,
		registers[Register.dr2] ?? 0n,
		registers[Register.dr3] ?? 0n,
	],
	dr6: registers[Register.dr6] ?? 0n,
	dr7: registers[Register.dr7] ?? 0n,
	flags: 0n,
});

/** KVM_GET_DEBUGREGS of a protected vCPU. */
export const hiddenDebugRegs = (): KvmDebugRegs => ({ db: [0n, 0n, 0n, 0n], dr6: 0n, dr7: 0n, flags: 0n });

/** KVM_SET_DEBUGREGS; what is left out stays. −EINVAL: a flag, or DR6 or DR7 of more than 32 bits. */
export function writeDebugRegs(registers: BigUint64Array, given: Partial<KvmDebugRegs>): number {
	const { db, dr6, dr7, flags } = { ...readDebugRegs(registers), ...given };
	if (flags !== 0n || dr6 >> 32n !== 0n || dr7 >> 32n !== 0n) return -Errno.EINVAL;
	for (const [i, value] of db.entries()) registers[Register.dr0 + i] = value;
	registers[Register.dr6] = dr6;
	registers[Register.dr7] = dr7;
	return 0;
}
