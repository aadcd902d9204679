import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { describe, expect, it } from 'vitest';
import { MSR_GHCB, MSR_SEV_STATUS } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { VmType } from '../src/abi/vm-type.js';
import type { Vcpu } from '../src/index.js';
import { type Block, link, openVcpu, type VcpuThread } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { bootEsHost, esVm, must } from './es-rig.js';
import { bootHost, PAGE } from './host.js';

/** The rows of the kernel's sev_smoke_test that are not about a SEV-ES guest's end, through the ioctls. */

const threadOf = (vcpu: Vcpu, blocks: Readonly<Record<string, Block>>): VcpuThread => {
	const program = link({ name: 'smoke', base: 0x10000, at: { reset: 0xfffffff0 }, blocks });
	return openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false });
};
const exitReason = ({ run }: Vcpu): number =>
	new DataView(run.buffer, run.byteOffset).getUint32(RunOffset.exitReason, true);

describe.each([1, 0])('a SEV guest of policy %i', (policy) => {
	it.each([
		['KVM_SEV_INIT', VmType.DEFAULT],
		['KVM_SEV_INIT2', VmType.SEV],
	] as const)('T-55: of %s sees SEV in CPUID and in SEV_STATUS', (_, type) => {
		const { kvm } = bootHost();
		const vm = kvm.createVm({ type });
		must(type === VmType.DEFAULT ? vm.sev.init() : vm.sev.init2());
		const ram = kvm.memory.mmap(4 * PAGE);
		const slot = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: 4 * PAGE, userspaceAddr: ram.hva };
		expect(vm.setUserMemoryRegion(slot)).toBe(0);
		expect(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: 4 * PAGE })).toBe(0);
		const vcpu = vm.createVcpu(0, kvm.cpuid());
		must(vm.sev.launchStart({ policy }));
		must(vm.sev.launchUpdateData({ uaddr: ram.hva, len: 4 * PAGE }));
		must(vm.sev.launchMeasure());
		must(vm.sev.launchFinish());
		const seen: number[] = [];
		const thread = threadOf(vcpu, {
			reset: (cpu) => {
				cpu.setNum('rax', 0x8000001f);
				cpu.setNum('rcx', 0);
				return cpu.cpuid('leaf');
			},
			leaf: (cpu) => {
				seen.push(cpu.num('rax'));
				cpu.setNum('rcx', MSR_SEV_STATUS);
				return cpu.rdmsr('status');
			},
			status: (cpu) => {
				seen.push(cpu.num('rax'), cpu.num('rdx'));
				return cpu.out(0xf4, 1, 'status');
			},
		});
		expect([thread.run(), exitReason(vcpu)]).toEqual([0, ExitReason.IO]);
		// SEV, and neither SEV-ES nor SNP.
		expect(seen).toEqual([2, 1, 0]);
	});
});

/** What XSAVE of a processor with AVX stores after FNINIT, FLD1, and with patterns in XMM and YMM. */
function xsaveState(): Uint8Array {
	const area = new Uint8Array(PAGE);
	const view = new DataView(area.buffer);
	view.setUint16(0, 0x37f, true);
	// One value was pushed: TOP = 7, and that register is the only one in use.
	view.setUint16(2, 0x3800, true);
	area[4] = 0x80;
	view.setBigUint64(32, 1n << 63n, true);
	view.setUint16(40, 0x3fff, true);
	view.setUint32(24, 0x1f80, true);
	view.setUint32(28, 0x2ffff, true);
	for (let i = 0; i < 256; i++) {
		area[160 + i] = (i * 7 + 1) & 0xff;
		area[576 + i] = (i * 11 + 5) & 0xff;
	}
	view.setBigUint64(512, 7n, true);
	return area;
}

describe.each([5, 4])('a SEV-ES guest of policy %i', (policy) => {
	it('T-58: saves at its first instruction the XSAVE state that the VMM set before the launch', () => {
		const host = bootEsHost();
		const { vm, ram, vcpus } = esVm(host, { vcpus: 1, typed: true, policy });
		const vcpu = vcpus[0] ?? expect.fail();
		const state = xsaveState();
		expect(vcpu.setXcrs([{ xcr: 0, value: 7n }])).toBe(0);
		expect(vcpu.setXsave(state)).toBe(0);
		must(vm.sev.launchUpdateVmsa());
		must(vm.sev.launchMeasure());
		must(vm.sev.launchFinish());
		const thread = threadOf(vcpu, {
			reset: (cpu) => {
				cpu.xsave(PAGE);
				cpu.setNum('rcx', MSR_GHCB);
				cpu.setNum('rax', 0x100);
				cpu.setNum('rdx', 0);
				return cpu.wrmsr('end');
			},
			end: (cpu) => cpu.vmgexit('end'),
		});
		expect([thread.run(), exitReason(vcpu)]).toEqual([0, ExitReason.SYSTEM_EVENT]);
		const stored = new Uint8Array(PAGE);
		openMemoryController(host.machine.silicon, nodeProvider).read(contextOf(vm).sev.asid, ram.spa + PAGE, stored);
		expect(Buffer.compare(stored.subarray(0, 4095), state.subarray(0, 4095))).toBe(0);
	});
});
