import type { Vcpu } from '../vm/vcpu.js';

/** What is loaded into a mirror vCPU. */
export interface MirrorRegisters {
	readonly sregs: Parameters<Vcpu['setSregs']>[0];
	readonly regs: Parameters<Vcpu['setRegs']>[0];
	readonly xsave: Parameters<Vcpu['setXsave']>[0];
	readonly xcrs: Parameters<Vcpu['setXcrs']>[0];
	readonly debugRegs: Parameters<Vcpu['setDebugRegs']>[0];
	/** KVM_SET_TSC_KHZ, only when everything is loaded. What it returns does not matter. */
	readonly setTscKhz?: () => number;
}

/** When registers are loaded: before KVM_RUN, after a reset, or when a machine was made. */
export type LoadLevel = 'runtime' | 'reset' | 'full';

/**
 * Loads a mirror vCPU as the mirror_vm branch does, in its order: system registers, when everything is loaded the TSC's frequency,
 * general registers, XSAVE, XCRs, debug registers. MSRs are left out, as KVM refuses some of them without an interrupt
 * controller; so are nested state, MP state and pending events.
 *
 * @returns 0, or the −errno of the first ioctl that failed: the ones after it were not called
 */
export function loadMirrorRegisters(vcpu: Vcpu, registers: MirrorRegisters, level: LoadLevel): number {
	const { sregs, regs, xsave, xcrs, debugRegs, setTscKhz } = registers;
	const system = vcpu.setSregs(sregs);
	if (system !== 0) return system;
	if (level === 'full') setTscKhz?.();
	return vcpu.setRegs(regs) || vcpu.setXsave(xsave) || vcpu.setXcrs(xcrs) || vcpu.setDebugRegs(debugRegs);
}
