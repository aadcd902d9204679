import { describe, expect, it } from 'vitest';
import { Cap } from '../src/abi/index.js';
import { KvmError, type Vcpu } from '../src/index.js';
import { openVcpuState, Register } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { esVm, must, plainSaveArea, runningEsVm } from './es-rig.js';
import { bootHost } from './host.js';

const EINVAL = -22;

/** A vCPU whose state is encrypted, and a look at its save area. */
function protectedVcpu(typed: boolean) {
	const host = bootHost();
	const { vm, vcpus } = runningEsVm(host, { vcpus: 1, typed });
	const [vcpu] = vcpus;
	if (vcpu === undefined) throw new Error('vcpu: expected one');
	return { host, vm, vcpu, saveArea: () => plainSaveArea(host, vm, 0) };
}

const GETTERS: readonly [name: string, get: (vcpu: Vcpu) => unknown][] = [
	['KVM_GET_REGS', (vcpu) => vcpu.getRegs()],
	['KVM_GET_SREGS', (vcpu) => vcpu.getSregs()],
	['KVM_GET_FPU', (vcpu) => vcpu.getFpu()],
	['KVM_GET_XSAVE', (vcpu) => vcpu.getXsave()],
	['KVM_GET_XCRS', (vcpu) => vcpu.getXcrs()],
	['KVM_GET_DEBUGREGS', (vcpu) => vcpu.getDebugRegs()],
];
const SETTERS: readonly [name: string, set: (vcpu: Vcpu) => number][] = [
	['KVM_SET_REGS', (vcpu) => vcpu.setRegs({ rip: 0x4000n, r10: 5n })],
	['KVM_SET_SREGS', (vcpu) => vcpu.setSregs({ cr3: 0x5000n })],
	['KVM_SET_FPU', (vcpu) => vcpu.setFpu({ fcw: 0x27f })],
	['KVM_SET_XSAVE', (vcpu) => vcpu.setXsave(new Uint8Array(4096).fill(1, 32, 64))],
	['KVM_SET_XCRS', (vcpu) => vcpu.setXcrs([{ xcr: 0, value: 7n }])],
	['KVM_SET_DEBUGREGS', (vcpu) => vcpu.setDebugRegs({ db: [1n, 2n, 3n, 4n] })],
];

describe('registers of a protected vCPU of KVM_SEV_ES_INIT', () => {
	it('KVM_GET_REGS finds what the last exchange through the GHCB left, and zeros', () => {
		const { vcpu } = protectedVcpu(false);
		const zeros = Object.fromEntries(Object.keys(vcpu.getRegs()).map((name) => [name, 0n]));
		expect(vcpu.getRegs()).toEqual(zeros);
		const { registers } = openVcpuState(vcpu.share());
		for (const [i, name] of (['rax', 'rbx', 'rcx', 'rdx', 'rsi'] as const).entries()) {
			registers[Register[name]] = BigInt(i + 1);
		}
		expect(vcpu.getRegs()).toEqual({ ...zeros, rax: 1n, rbx: 2n, rcx: 3n, rdx: 4n, rsi: 5n });
	});

	it('KVM_GET_SREGS finds zeros, and the copies that traps made of CR0, CR4 and EFER', () => {
		const { vcpu } = protectedVcpu(false);
		const { registers } = openVcpuState(vcpu.share());
		registers[Register.cr4] = 0x20n;
		registers[Register.efer] = 0x500n;
		registers[Register.cpl] = 3n;
		const { cr0, cr2, cr3, cr4, efer, apicBase, cs, ss, tr, gdt, idt, cpl } = vcpu.getSregs();
		expect({ cr0, cr2, cr3, cr4, efer }).toEqual({ cr0: 0x60000010n, cr2: 0n, cr3: 0n, cr4: 0x20n, efer: 0x500n });
		expect(apicBase).toBe(0xfee00900n);
		expect([cpl, gdt, idt]).toEqual([0n, { base: 0n, limit: 0 }, { base: 0n, limit: 0 }]);
		for (const segment of [cs, ss, tr]) {
			expect(Object.values(segment).every((value) => Number(value) === 0)).toBe(true);
		}
	});

	it('KVM_GET_FPU, KVM_GET_XSAVE and KVM_GET_DEBUGREGS find zeros', () => {
		const { vcpu } = protectedVcpu(false);
		const { fpr, xmm, ...fpu } = vcpu.getFpu();
		expect(Object.values(fpu).every((value) => Number(value) === 0)).toBe(true);
		for (const bytes of [fpr, xmm, vcpu.getXsave()]) expect(bytes.every((byte) => byte === 0)).toBe(true);
		expect(vcpu.getDebugRegs()).toEqual({ db: [0n, 0n, 0n, 0n], dr6: 0n, dr7: 0n, flags: 0n });
	});

	it.each(SETTERS)('%s is accepted and has no effect', (_, set) => {
		const { vcpu, saveArea } = protectedVcpu(false);
		const before = [saveArea(), ...GETTERS.map(([, get]) => get(vcpu))];
		expect(set(vcpu)).toBe(0);
		expect([saveArea(), ...GETTERS.map(([, get]) => get(vcpu))]).toEqual(before);
	});

	it('KVM_SET_SREGS still sets the base of the APIC', () => {
		const { vcpu } = protectedVcpu(false);
		expect(vcpu.setSregs({ apicBase: 0xfee00d00n, cr3: 0x1000n })).toBe(0);
		expect([vcpu.getSregs().apicBase, vcpu.getSregs().cr3]).toEqual([0xfee00d00n, 0n]);
		expect(vcpu.setSregs({ apicBase: 0xfee00d01n })).toBe(EINVAL);
	});
});

describe('registers of a protected vCPU of a typed VM', () => {
	it.each(GETTERS)('%s is refused', (name, get) => {
		const { vcpu } = protectedVcpu(true);
		expect(() => get(vcpu)).toThrow(KvmError);
		expect(() => get(vcpu)).toThrow(name);
	});

	it.each(SETTERS)('%s is EINVAL and has no effect', (_, set) => {
		const { vcpu, saveArea } = protectedVcpu(true);
		const file = openVcpuState(vcpu.share()).registers.slice();
		const before = saveArea();
		expect(set(vcpu)).toBe(EINVAL);
		expect(saveArea()).toEqual(before);
		expect(openVcpuState(vcpu.share()).registers).toEqual(file);
	});

	it('are as ever before LAUNCH_UPDATE_VMSA, and those of a SEV VM always', () => {
		const host = bootHost();
		const { vcpus } = esVm(host, { typed: true });
		for (const [, get] of GETTERS) for (const vcpu of vcpus) expect(() => get(vcpu)).not.toThrow();
		const vm = host.kvm.createVm({ type: 2 });
		must(vm.sev.init2());
		must(vm.sev.launchStart({ policy: 0 }));
		must(vm.sev.launchMeasure());
		must(vm.sev.launchFinish());
		const vcpu = vm.createVcpu(0, []);
		expect([vcpu.setRegs({ rax: 9n }), vcpu.getRegs().rax]).toEqual([0, 9n]);
	});
});

describe.each([false, true])('what keeps working on a protected vCPU (typed: %s)', (typed) => {
	it('KVM_SET_GUEST_DEBUG is EINVAL, also with a zero control word', () => {
		const { vcpu } = protectedVcpu(typed);
		expect([vcpu.setGuestDebug(1), vcpu.setGuestDebug(0)]).toEqual([EINVAL, EINVAL]);
	});

	it('MSRs of the host work, those of the save area have no effect', () => {
		const { vcpu, saveArea } = protectedVcpu(typed);
		const before = saveArea();
		expect([vcpu.setMsr(0x4b564d01, 0x1001n), vcpu.getMsr(0x4b564d01)]).toEqual([0, 0x1001n]);
		expect([vcpu.setMsr(0x1b, 0xfee00d00n), vcpu.getMsr(0x1b)]).toEqual([0, 0xfee00d00n]);
		for (const msr of [0xc0000081, 0xc0000082, 0xc0000100, 0xc0000102, 0x277, 0x174, 0xc0000103]) {
			expect([vcpu.setMsr(msr, 0n), vcpu.getMsr(msr)], `MSR ${msr.toString(16)}`).toEqual([0, 0n]);
		}
		expect([vcpu.setMsr(0xc0000080, 0x1n), vcpu.getMsr(0xc0000080)]).toEqual([0, 0n]);
		expect(vcpu.setMsr(0xdeadbeef, 0n)).toBe(EINVAL);
		expect(saveArea()).toEqual(before);
	});

	it('LAPIC, MP_STATE and VCPU_EVENTS', () => {
		const { vm, vcpu } = protectedVcpu(typed);
		expect([vcpu.getLapic(), vcpu.setLapic(new Uint8Array(1024))]).toEqual([undefined, EINVAL]);
		expect([vcpu.setMpState(9), vcpu.setMpState(0)]).toEqual([EINVAL, 0]);
		contextOf(vm).hasIrqchip = true;
		const lapic = vcpu.getLapic() ?? new Uint8Array(0);
		lapic[0x80] = 0x20;
		expect([vcpu.setLapic(lapic), vcpu.getLapic()]).toEqual([0, lapic]);
		expect(vcpu.setLapic(lapic.subarray(1))).toBe(EINVAL);
		for (const state of [9, 1, 3, 0]) expect([vcpu.setMpState(state), vcpu.getMpState()]).toEqual([0, state]);
		expect([vcpu.setMpState(10), vcpu.getMpState()]).toEqual([EINVAL, 0]);
		const events = vcpu.getVcpuEvents();
		events[20] = 1;
		expect([vcpu.setVcpuEvents(events), vcpu.getVcpuEvents()]).toEqual([0, events]);
		expect(vcpu.setVcpuEvents(new Uint8Array(63))).toBe(EINVAL);
	});
});

describe('an SEV-ES VM and its interrupt controller', () => {
	it('works without an in-kernel one as far as KVM is concerned: that it needs one is its VMM’s rule', () => {
		const { vm } = runningEsVm(bootHost(), { vcpus: 1 });
		expect(vm.checkExtension(Cap.X86_SMM)).toBe(0);
		expect(vm.sev.guestStatus().state).toBe(3);
	});
});

describe('the GHCB MSR of a new vCPU', () => {
	it.each([
		['ES_INIT', false, 0x0001_0001_3300_0001n],
		['INIT2', true, 0x0002_0001_3300_0001n],
	] as const)('is the answer that tells versions and C-bit (%s)', (_, typed, value) => {
		const { vcpus } = esVm(bootHost(), { typed });
		for (const vcpu of vcpus) expect(openVcpuState(vcpu.share()).registers[Register.ghcbMsr]).toBe(value);
	});
});
