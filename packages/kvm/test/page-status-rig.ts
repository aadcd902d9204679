import { expect } from 'vitest';
import { SERIES, type Series } from '../src/abi/generation.js';
import { liveMigrationFeature } from '../src/abi/page-status.js';
import { ExitReason } from '../src/abi/run-page.js';
import { PAGE } from './host.js';
import { createVmRig, programOf, type VmRig } from './vm-rig.js';

export const program = programOf({
	reset: (cpu) => cpu.vmmcall('after'),
	after: (cpu) => cpu.out(0xf4, 1, 'after'),
	wrmsr: (cpu) => cpu.wrmsr('after'),
	rdmsr: (cpu) => cpu.rdmsr('after'),
});
export const PAGES = 64;
export const IN_KVM = SERIES.slice(0, SERIES.indexOf('v11'));
export const BITMAPS = SERIES.slice(0, SERIES.indexOf('v10'));

export const made = (series: Series, sev = true): VmRig => {
	const rig = createVmRig({ program, series, sev, ramBytes: PAGES * PAGE });
	rig.setRegister('cr0', 0x80000011n);
	rig.setRegister('efer', 0x500n);
	return rig;
};
/** Makes the hypercall. RAX, or undefined if it exits. */
export function call(
	rig: VmRig,
	at: bigint | number,
	pages: bigint | number,
	enc: bigint | number,
): bigint | undefined {
	rig.at('reset');
	rig.setRegister('rax', 12n);
	rig.setRegister('rbx', BigInt(at));
	rig.setRegister('rcx', BigInt(pages));
	rig.setRegister('rdx', BigInt(enc));
	expect(rig.run()).toBe(0);
	return rig.reason() === ExitReason.IO ? BigInt.asIntN(64, rig.register('rax')) : undefined;
}
export function enable(rig: VmRig, msr: number, value = 1n): void {
	rig.at('wrmsr');
	rig.setRegister('rcx', BigInt(msr));
	rig.setRegister('rax', value);
	rig.setRegister('rdx', 0n);
	rig.run();
	expect(rig.reason()).toBe(ExitReason.IO);
}
export const ready = (rig: VmRig): void => {
	const feature = liveMigrationFeature(rig.host.kvm.kernel.series);
	if (feature?.inKvm) enable(rig, feature.msr);
};
/** Shared frames among the first 128, as KVM_GET_PAGE_ENC_BITMAP says. */
export function shared(rig: VmRig): number[] {
	const bitmap = new Uint8Array(16);
	const start = rig.host.kvm.kernel.series === 'v1' ? { slot: 0 } : { startGfn: 0 };
	expect(rig.vm.pageStatus.getBitmap({ ...start, numPages: 128, bitmap })).toBe(0);
	return Array.from({ length: 128 }, (_, i) => i).filter((i) => (((bitmap[i >> 3] ?? 0) >> (i & 7)) & 1) === 0);
}
export const bits = (...clear: number[]): Uint8Array => {
	const out = new Uint8Array(16).fill(0xff);
	for (const i of clear) out[i >> 3] = (out[i >> 3] ?? 0) & ~(1 << (i & 7));
	return out;
};
