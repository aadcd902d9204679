import { gpa, hva } from '@cvm/layout';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { loadVcpuState, saveVcpuState } from '../src/index.js';
import { openVmState, VmWord, vmWords } from '../src/vm/state.js';
import { openVcpuState, VcpuWord } from '../src/vm/vcpu-state.js';
import { bootHost, MIB, PAGE, runningVm, vmWithRam } from './host.js';
import { threadOf } from './mirror-rig.js';

describe('a vCPU in the main thread', () => {
	const created = () => {
		const { vm } = vmWithRam(bootHost());
		return { vm, vcpu: vm.createVcpu(3, []) };
	};

	it('starts in the reset state', () => {
		const { vcpu } = created();
		expect(vcpu.getRegs()).toMatchObject({ rip: 0xfffffff0n, rflags: 2n, rax: 0n, r15: 0n });
		expect(vcpu.getSregs()).toMatchObject({ cr0: 0x60000010n, cr2: 0n, cr3: 0n, cr4: 0n, efer: 0n, cpl: 0n });
		expect(vcpu.mpState).toBe(0);
	});

	it('keeps the registers that are not set', () => {
		const { vcpu } = created();
		vcpu.setRegs({ rbx: 7n });
		vcpu.setRegs({ rax: 0xffff_ffff_ffff_ffffn });
		expect(vcpu.getRegs()).toMatchObject({ rax: 0xffff_ffff_ffff_ffffn, rbx: 7n, rip: 0xfffffff0n });
	});

	it('voids cached translations when a system register changes', () => {
		const { vcpu } = created();
		const state = openVmState(vcpu.share().vm);
		const before = state.tlbGeneration;
		vcpu.setSregs({ cr3: 0x1000n });
		expect(state.tlbGeneration).not.toBe(before);
		expect(vcpu.getSregs().cr3).toBe(0x1000n);
	});

	it('has EFER, and not the migration MSR: that is the VMM’s', () => {
		const { vcpu } = created();
		expect(vcpu.setMsr(0xc0000080, 0x500n)).toBe(0);
		expect(vcpu.getMsr(0xc0000080)).toBe(0x500n);
		expect(vcpu.getSregs().efer).toBe(0x500n);
		expect(vcpu.setMsr(0x4b564d08, 1n)).toBe(-22);
		expect(vcpu.getMsr(0x4b564d08)).toBeUndefined();
	});

	it('leaves a kick for its thread', () => {
		const { vcpu } = created();
		vcpu.kick();
		expect(Atomics.load(openVcpuState(vcpu.share()).words, VcpuWord.kick)).toBe(1);
	});

	it('is one and the same through a cloned handle', () => {
		const { vcpu } = created();
		const { registers, run } = openVcpuState(structuredClone(vcpu.share()));
		registers[0] = 5n;
		run[8] = 3;
		expect(vcpu.getRegs().rax).toBe(5n);
		expect(vcpu.run[8]).toBe(3);
	});

	it('moves to another host as a flat record', () => {
		const [from, to] = [created().vcpu, created().vcpu];
		from.setRegs({ r9: 9n, rip: 0x1234n });
		from.mpState = 3;
		from.run[88] = 1;
		loadVcpuState(to.share(), saveVcpuState(from.share()));
		expect([to.getRegs(), to.mpState, to.run[88]]).toEqual([from.getRegs(), 3, 1]);
	});

	it.each([3, 32, -1, 0.5])('is refused at index %d when 3 is taken', (index) => {
		const { vm } = created();
		expect(() => vm.createVcpu(index, [])).toThrow(expect.objectContaining({ name: 'KvmError', code: 'vcpu-index' }));
	});
});

describe('a destroyed VM', () => {
	it('takes no ASID, no memory and no vCPU any more, and has kicked those it had', () => {
		const { vm, ram } = runningVm(bootHost());
		const vcpu = vm.createVcpu(0, []);
		const { share } = vcpu;
		vm.destroy();
		const region = { slot: 1, flags: 0, guestPhysAddr: gpa(MIB), memorySize: PAGE, userspaceAddr: ram.hva };
		expect(vm.setUserMemoryRegion(region)).toBe(-9);
		expect(vm.sev.init().ret).toBe(-25);
		expect(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: PAGE })).toBe(-25);
		expect(() => vm.createVcpu(1, [])).toThrow(expect.objectContaining({ code: 'vm-gone' }));
		expect(Atomics.load(openVcpuState(share()).words, VcpuWord.kick)).toBe(1);
		expect(openVmState(share().vm).translate(0)).toBe(-1);
		expect(threadOf(vcpu, { reset: (cpu) => cpu.ud2() }).run()).toBe(-5);
	});
});

describe('destroy', () => {
	afterEach(() => {
		vi.restoreAllMocks();
	});

	it('waits for a vCPU that is in the guest before it gives anything back, and lets none in meanwhile', () => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		const [inside, outside] = [vm.createVcpu(0, []), vm.createVcpu(1, [])];
		const { words } = vmWords(inside.share().vm);
		const { memory } = host.kvm;
		memory.munmap(ram);
		const held = memory.freeBytes;
		Atomics.store(words, VmWord.running, 1);
		const seen: number[][] = [];
		const { wait } = Atomics;
		vi.spyOn(Atomics, 'wait').mockImplementation(((array: Int32Array, ...rest: [number, number, number]) => {
			seen.push([
				memory.freeBytes,
				Atomics.load(words, VmWord.sevActive),
				host.kvm.sevDevice.platformStatus().guestCount,
			]);
			expect(threadOf(outside, { reset: (cpu) => cpu.ud2() }).run()).toBe(-5);
			Atomics.store(words, VmWord.running, 0);
			return wait(array, ...rest);
		}) as typeof wait);
		vm.destroy();
		expect(seen).toEqual([[held, 1, 1]]);
		expect([memory.freeBytes - held, host.kvm.sevDevice.platformStatus().guestCount]).toEqual([ram.bytes.length, 0]);
	});

	it('takes a vCPU that stays in the guest for gone: its thread was terminated', () => {
		const host = bootHost();
		const { vm } = runningVm(host);
		const { words } = vmWords(vm.createVcpu(0, []).share().vm);
		Atomics.store(words, VmWord.running, 1);
		const wait = vi.spyOn(Atomics, 'wait').mockReturnValue('timed-out');
		vm.destroy();
		expect(wait).toHaveBeenCalledTimes(5000);
		expect(host.kvm.sevDevice.platformStatus().guestCount).toBe(0);
	});
});

describe('host memory after an unaligned debug access', () => {
	it('holds no plaintext of the guest besides what was asked for', () => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		const canary = Uint8Array.from({ length: 64 }, (_, i) => (i * 37 + 11) & 0xff);
		const data = host.kvm.memory.mmap(PAGE);
		data.bytes.set(canary);
		vm.sev.dbgEncrypt({ src: data.hva, dst: hva(ram.hva + 7), len: canary.length });
		data.bytes.fill(0);
		vm.sev.dbgDecrypt({ src: hva(ram.hva + 39), dst: data.hva, len: 1 });
		vm.sev.dbgEncrypt({ src: data.hva, dst: hva(ram.hva + 3), len: 1 });
		expect(data.bytes[0]).toBe(canary[32]);
		const dram = Buffer.from(host.machine.dram.buffer);
		expect(dram.includes(Buffer.from(canary.subarray(8, 24)))).toBe(false);
		expect(dram.includes(Buffer.from(canary.subarray(40, 56)))).toBe(false);
	});
});
