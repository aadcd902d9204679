import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { openVcpuState, Register } from '../src/vm/vcpu-state.js';
import { createVmRig, programOf, type VmRig, type VmRigOptions } from './vm-rig.js';

const program = programOf({
	reset: (cpu) => cpu.vmmcall('after'),
	after: (cpu) => cpu.out(0xf4, 1, 'after'),
});
const MASK = 1n << 12n;

const made = (o: Partial<VmRigOptions> = {}): VmRig => {
	const rig = createVmRig({ program, ...o });
	rig.vm.enableCap(201, [MASK]);
	rig.setRegister('cr0', 0x80000011n);
	rig.setRegister('efer', 0x500n);
	return rig;
};

function call(rig: VmRig, gpaAt: number, pages: number, attributes: bigint): bigint[] {
	rig.at('reset');
	rig.setRegister('rax', 12n);
	rig.setRegister('rbx', BigInt(gpaAt));
	rig.setRegister('rcx', BigInt(pages));
	rig.setRegister('rdx', attributes);
	expect(rig.run()).toBe(0);
	expect(rig.reason()).toBe(ExitReason.HYPERCALL);
	return [32, 40, 48, 56].map((at) => rig.view.getBigUint64(at, true));
}

// Linux tools/testing/selftests/kvm/x86/private_mem_conversions_test.c.
describe('KVM_HC_MAP_GPA_RANGE', () => {
	it('T-63: exits once a VM has the capability, and not before', () => {
		const rig = createVmRig({ program });
		rig.setRegister('rax', 12n);
		rig.setRegister('rcx', 1n);
		rig.run();
		expect([rig.reason(), BigInt.asIntN(32, rig.register('rax'))]).toEqual([ExitReason.IO, -1000n]);
		expect(rig.vm.enableCap(201, [MASK])).toBe(0);
		call(rig, 0, 1, 0n);
		expect(rig.vm.enableCap(201, [0n])).toBe(0);
		rig.at('reset');
		rig.run();
		expect(BigInt.asIntN(32, rig.register('rax'))).toBe(-1000n);
	});

	it('T-64: exits with number 12', () => {
		expect(call(made(), 0x1000, 1, 0n)[0]).toBe(12n);
	});

	it.each([
		[0x200000, 512],
		[0x201000, 513],
		[0x1ff000, 513],
		[0x1ff000, 1],
	])('T-65: counts 4 KiB pages, whatever the alignment: 0x%x, %i', (at, pages) => {
		expect(call(made(), at, pages, 1n).slice(1, 3)).toEqual([BigInt(at), BigInt(pages)]);
	});

	it.each([0n, 1n, 2n, 7n, 0x10n, 0xfn, 0xffffffffffffffffn])(
		'T-66: hands attributes %i on as they are',
		(attributes) => {
			expect(call(made(), 0x1000, 1, attributes)[3]).toBe(attributes);
		},
	);

	it('T-67: gives the guest the VMM’s answer', () => {
		const rig = made();
		call(rig, 0x1000, 1, 0n);
		rig.view.setBigUint64(RunOffset.hypercallRet, 0n, true);
		rig.run();
		expect([rig.reason(), rig.register('rax')]).toEqual([ExitReason.IO, 0n]);
	});

	it('T-68: does not split a range over two memslots, nor one without any', () => {
		const rig = made();
		const more = rig.host.kvm.memory.mmap(0x10000);
		const region = { slot: 1, flags: 0, guestPhysAddr: gpa(0x40000), memorySize: 0x10000, userspaceAddr: more.hva };
		expect(rig.vm.setUserMemoryRegion(region)).toBe(0);
		expect(call(rig, 0x38000, 16, 0n)).toEqual([12n, 0x38000n, 16n, 0n]);
		expect(call(rig, 0xfee00000, 1 << 20, 0n)).toEqual([12n, 0xfee00000n, 1n << 20n, 0n]);
	});

	it('works for a SEV guest as for any other', () => {
		expect(call(made({ sev: true }), 0x1000, 2, 0x10n)).toEqual([12n, 0x1000n, 2n, 0x10n]);
	});

	it('M5: of a mirror’s vCPU is unknown until the mirror itself has the capability', () => {
		const main = made({ sev: true });
		const mirror = main.host.kvm.createVm();
		expect(mirror.copyEncContextFrom(main.vm)).toBe(0);
		const vcpu = mirror.createVcpu(0, []);
		const rig: VmRig = { ...main, ...sameThread(main, mirror, vcpu) };
		rig.setRegister('rax', 12n);
		rig.setRegister('rcx', 1n);
		rig.run();
		expect(BigInt.asIntN(32, rig.register('rax'))).toBe(-1000n);
		expect(mirror.enableCap(201, [MASK])).toBe(0);
		call(rig, 0, 1, 0n);
	});

	it('M5: of a mirror’s vCPU is unknown to v12, where KVM_SEV_INIT alone enables it', () => {
		// Mirrors came with 5.13; the series was never rebased onto it, this model can.
		const main = createVmRig({ program, abi: 'v12', release: '5.13', sev: true });
		const mirror = main.host.kvm.createVm();
		expect(mirror.copyEncContextFrom(main.vm)).toBe(0);
		const rig: VmRig = { ...main, ...sameThread(main, mirror, mirror.createVcpu(0, [])) };
		rig.setRegister('rax', 12n);
		rig.setRegister('rcx', 1n);
		rig.run();
		expect(BigInt.asIntN(32, rig.register('rax'))).toBe(-1000n);
	});
});

/** The rig's functions for another VM's vCPU. */
function sameThread(rig: VmRig, vm: VmRig['vm'], vcpu: VmRig['vcpu']): Partial<VmRig> {
	const view = new DataView(vcpu.run.buffer, vcpu.run.byteOffset, vcpu.run.byteLength);
	const { registers } = openVcpuState(vcpu.share());
	const thread = rig.openAnother(vcpu);
	return {
		...{ vm, vcpu, view },
		run: () => thread.run(),
		reason: () => view.getUint32(RunOffset.exitReason, true),
		register: (name) => registers[Register[name]] ?? 0n,
		setRegister: (name, value) => {
			registers[Register[name]] = value;
		},
		at: (label) => {
			registers[Register.pendingKind] = 0n;
			registers[Register.rip] = BigInt(program.address(label));
		},
	};
}
