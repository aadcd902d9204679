import { describe, expect, it } from 'vitest';
import { Msr } from '../src/abi/msr.js';
import { openVcpuState, VcpuWord } from '../src/vm/vcpu-state.js';
import { PAGE } from './host.js';
import { createVmRig, programOf, type VmRig, type VmRigOptions } from './vm-rig.js';

const AT = 8 * PAGE;
const program = programOf({
	reset: (cpu) => cpu.out(0xf4, 1, 'reset'),
	wrmsr: (cpu) => cpu.wrmsr('reset'),
});
const NOW = 0x1122334455n;

const made = (o: Partial<VmRigOptions> = {}): VmRig => {
	const rig = createVmRig({ program, now: () => NOW, ...o });
	const region = { slot: 0, guestPhysAddr: 0, memorySize: rig.ram.bytes.length, userspaceAddr: rig.ram.hva };
	expect(rig.vm.setUserMemoryRegion({ ...region, flags: 1 } as never)).toBe(0);
	return rig;
};
function write(rig: VmRig, msr: number, value: bigint): void {
	rig.at('wrmsr');
	rig.setRegister('rcx', BigInt(msr));
	rig.setRegister('rax', value & 0xffffffffn);
	rig.setRegister('rdx', value >> 32n);
	expect(rig.run()).toBe(0);
}
const dirtyPages = (rig: VmRig): number[] => {
	const bitmap = new Uint32Array(2);
	expect(rig.vm.getDirtyLog(0, bitmap)).toBe(0);
	return Array.from({ length: 64 }, (_, i) => i).filter((i) => ((bitmap[i >> 5] ?? 0) >>> (i & 31)) & 1);
};
const at = (rig: VmRig, offset = 0) => new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset + AT + offset, 64);

describe.each([false, true])('what KVM writes to guest memory by itself, SEV %s', (sev) => {
	it.each([Msr.KVM_SYSTEM_TIME, Msr.KVM_SYSTEM_TIME_NEW])(
		'MSR 0x%s: the time, without a key, and the page is dirty',
		(msr) => {
			const rig = made({ sev });
			at(rig).setUint32(0, 6, true);
			dirtyPages(rig);
			write(rig, msr, BigInt(AT) | 1n);
			expect(dirtyPages(rig)).toEqual([8]);
			const view = at(rig);
			expect([view.getUint32(0, true), view.getBigUint64(8, true), view.getBigUint64(16, true)]).toEqual([8, NOW, NOW]);
			expect([view.getUint32(24, true), view.getInt8(28), view.getUint8(29)]).toEqual([0x80000000, 1, 0]);
		},
	);

	it('writes it anew where the vCPU moves to another thread, and when the host sets the MSR', () => {
		const rig = made({ sev });
		write(rig, Msr.KVM_SYSTEM_TIME_NEW, BigInt(AT) | 1n);
		const first = at(rig).getUint32(0, true);
		dirtyPages(rig);
		rig.run();
		expect(dirtyPages(rig)).toEqual([]);
		rig.open();
		rig.run();
		expect([at(rig).getUint32(0, true), dirtyPages(rig)]).toEqual([first + 2, [8]]);
		expect(rig.vcpu.setMsr(Msr.KVM_SYSTEM_TIME_NEW, BigInt(AT + PAGE) | 1n)).toBe(0);
		expect(dirtyPages(rig)).toEqual([]);
		rig.run();
		expect(dirtyPages(rig)).toEqual([9]);
	});

	it('steal time: version and flags', () => {
		const rig = made({ sev });
		const view = at(rig);
		view.setBigUint64(0, 77n, true);
		view.setUint32(8, 3, true);
		view.setUint8(16, 1);
		dirtyPages(rig);
		write(rig, Msr.KVM_STEAL_TIME, BigInt(AT) | 1n);
		expect([view.getBigUint64(0, true), view.getUint32(8, true), view.getUint8(16)]).toEqual([77n, 6, 0]);
		expect(dirtyPages(rig)).toEqual([8]);
	});

	it('the wall clock, once, over a page end too', () => {
		const rig = made({ sev });
		dirtyPages(rig);
		write(rig, Msr.KVM_WALL_CLOCK_NEW, BigInt(AT + PAGE - 4));
		expect(dirtyPages(rig)).toEqual([8, 9]);
		expect(at(rig, PAGE - 4).getUint32(0, true) % 2).toBe(0);
		rig.open();
		rig.run();
		expect(dirtyPages(rig)).toEqual([]);
	});

	it.each([
		[Msr.KVM_SYSTEM_TIME, BigInt(AT)],
		[Msr.KVM_STEAL_TIME, BigInt(AT)],
		[Msr.KVM_WALL_CLOCK, 0n],
		[Msr.KVM_SYSTEM_TIME, 0x40000001n],
		[Msr.KVM_SYSTEM_TIME, 0xfffffffffffffff1n],
	])('writes nothing where it is not enabled, or has no RAM: 0x%s ← %i', (msr, value) => {
		const rig = made({ sev });
		dirtyPages(rig);
		write(rig, msr, value);
		expect(dirtyPages(rig)).toEqual([]);
	});
});

it('leaves a read-only slot alone', () => {
	const rig = createVmRig({ program });
	const more = rig.host.kvm.memory.mmap(PAGE);
	const region = { slot: 1, flags: 2, guestPhysAddr: 0x100000, memorySize: PAGE, userspaceAddr: more.hva };
	expect(rig.vm.setUserMemoryRegion(region as never)).toBe(0);
	write(rig, Msr.KVM_SYSTEM_TIME, 0x100001n);
	expect(more.bytes.every((byte) => byte === 0)).toBe(true);
});

it('asks for nothing when there is nothing to do', () => {
	const rig = made();
	rig.run();
	expect(openVcpuState(rig.vcpu.share()).words[VcpuWord.requests]).toBe(0);
});
