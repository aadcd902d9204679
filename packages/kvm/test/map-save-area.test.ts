import { nodeProvider } from '@cvm/crypto/node';
import { type Gpa, gpa } from '@cvm/layout';
import { vmsa } from '@cvm/sev-hw/abi';
import { expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { resetVcpu, type Vm } from '../src/index.js';
import { type Block, link, openVcpu } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { AP_RESET, esVm, must, plainSaveArea, runningEsVm, SIGNATURE } from './es-rig.js';
import { bootHost, type Host, PAGE } from './host.js';

const [EEXIST, EINVAL, ENOTTY, ENOENT, ENOMEM] = [-17, -22, -25, -2, -12];
const at = gpa(2 * PAGE);
const boot = (): Host => bootHost({ vmsaMapping: 'model' });

/** A vCPU whose code begins at the reset vector and runs `blocks` blocks. */
function threadOf(vm: Vm, index: number, blocks: Record<string, Block>, count = 1) {
	const vcpu = contextOf(vm).vcpus.get(index)?.vcpu ?? expect.fail();
	let left = count;
	const thread = openVcpu(vcpu.share(), {
		provider: nodeProvider,
		program: link({ name: 'test', base: 0x10000, at: { reset: index === 0 ? 0xfffffff0 : AP_RESET }, blocks }),
		ticks: false,
		afterBlock: () => {
			if (--left <= 0) vcpu.kick();
		},
	});
	return { run: () => thread.run(), thread, vcpu };
}
/** Reads a page as the guest sees it, on vCPU 0. */
function readBy(vm: Vm, from: number): Uint8Array {
	const page = new Uint8Array(PAGE);
	const { run, thread } = threadOf(vm, 0, {
		reset: (cpu) => {
			cpu.load(from, page);
			return cpu.jump('reset');
		},
	});
	expect(run(), thread.fault?.message).toBe(-4);
	return page;
}
const bytesOf = (vm: Vm, index: number): Uint8Array => contextOf(vm).vcpus.get(index)?.saveArea?.bytes ?? expect.fail();

it('shows the guest what a vCPU’s last KVM_RUN left, under the guest’s key, over the slot', () => {
	const host = boot();
	const { vm, ram } = runningEsVm(host);
	expect(vm.mapSaveArea(1, at)).toBe(0);
	const other = threadOf(vm, 1, {
		reset: (cpu) => {
			cpu.setReg('r12', cpu.reg('r12') + 0x5ec4e7n);
			return cpu.jump('reset');
		},
	});
	expect(vmsa.decode(readBy(vm, at)).r12).toBe(0n);
	for (const r12 of [0x5ec4e7n, 0xbd89cen]) {
		expect(other.run()).toBe(-4);
		const seen = readBy(vm, at);
		expect(vmsa.decode(seen).r12).toBe(r12);
		expect(seen).toEqual(plainSaveArea(host, vm, 1));
	}
	// The slot's own page is as it was, and the host has ciphertext of both.
	expect(ram.bytes.subarray(at, at + 8)).not.toEqual(bytesOf(vm, 1).subarray(0, 8));
	expect(vm.unmapSaveArea(at)).toBe(0);
	expect(readBy(vm, at)).toEqual(new Uint8Array(PAGE));
});

it('is read-only: a store is a nested page fault, and the save area stays intact', () => {
	const host = boot();
	const { vm } = runningEsVm(host);
	expect(vm.mapSaveArea(1, at)).toBe(0);
	const before = bytesOf(vm, 1).slice();
	const writer = threadOf(vm, 0, {
		reset: (cpu) => {
			cpu.storeU64(at + 8, 1n);
			return cpu.jump('reset');
		},
	});
	expect(writer.run()).toBe(0);
	expect(new DataView(writer.vcpu.run.buffer, writer.vcpu.run.byteOffset).getUint32(8, true)).toBe(ExitReason.SHUTDOWN);
	expect(writer.thread.fault?.message).toBe('GPA 0x2008: expected writable memory, got a save area');
	expect(bytesOf(vm, 1)).toEqual(before);
	const other = threadOf(vm, 1, { reset: (cpu) => cpu.jump('reset') });
	expect(other.run()).toBe(-4);
});

it('opens to the guest’s key alone: without the C-bit it is what the host sees', () => {
	const host = boot();
	const { vm } = runningEsVm(host);
	expect(vm.mapSaveArea(1, at)).toBe(0);
	const seen = readBy(vm, at);
	expect(seen).not.toEqual(new Uint8Array(bytesOf(vm, 1)));
	expect(vmsa.decode(seen).slotPaddr).not.toBe(0n);
});

it('a host may show another page there, and the processor’s checksum is not in what is shown', () => {
	const host = boot();
	const { vm } = runningEsVm(host, { vcpus: 3 });
	expect(vm.mapSaveArea(1, at)).toBe(0);
	const old = bytesOf(vm, 1).slice();
	const other = threadOf(vm, 1, {
		reset: (cpu) => {
			cpu.setNum('r12', 7);
			return cpu.jump('reset');
		},
	});
	expect(other.run()).toBe(-4);
	// An old save area put back: VMRUN refuses it, a reader cannot tell.
	bytesOf(vm, 1).set(old);
	expect(vmsa.decode(readBy(vm, at)).r12).toBe(0n);
	expect(other.run()).toBe(0);
	// Another vCPU's.
	expect(vm.unmapSaveArea(at)).toBe(0);
	expect(vm.mapSaveArea(2, at)).toBe(0);
	expect(readBy(vm, at)).toEqual(plainSaveArea(host, vm, 2));
});

it('a mirror maps the save areas of its owner, and has vCPUs that were measured at launch', () => {
	const host = boot();
	const { vm: main } = esVm(host);
	const mirror = host.kvm.createVm();
	expect(mirror.copyEncContextFrom(main)).toBe(0);
	const vcpu = mirror.createVcpu(0, host.kvm.cpuid({ es: true }));
	expect(resetVcpu(vcpu, { signature: SIGNATURE })).toBe(0);
	expect(vcpu.setRegs({ rbx: 5n })).toBe(0);
	must(main.sev.launchUpdateVmsa());
	expect(mirror.mapSaveArea(0, at)).toBe(EINVAL);
	must(mirror.sev.launchUpdateVmsa());
	must(main.sev.launchMeasure());
	must(main.sev.launchFinish());
	expect(mirror.mapSaveArea(1, at, main)).toBe(0);
	// The VMM cannot set its registers any more.
	expect(vcpu.setRegs({ rbx: 6n })).toBe(0);
	let rbx = 0n;
	const page = new Uint8Array(PAGE);
	const helper = threadOf(mirror, 0, {
		reset: (cpu) => {
			rbx = cpu.reg('rbx');
			cpu.load(at, page);
			return cpu.jump('reset');
		},
	});
	expect(helper.run(), helper.thread.fault?.message).toBe(-4);
	expect(rbx).toBe(5n);
	expect(page).toEqual(plainSaveArea(host, main, 1));
	// Its owner's memory is its own, while the owner lives on through it.
	main.destroy();
	expect(helper.run()).toBe(-4);
	expect(vmsa.decode(page).slotPaddr).not.toBe(0n);
});

it('a vCPU of a mirror cannot be launched once the guest was measured', () => {
	const host = boot();
	const { vm: main } = runningEsVm(host);
	const mirror = host.kvm.createVm();
	expect(mirror.copyEncContextFrom(main)).toBe(0);
	const vcpu = mirror.createVcpu(0, host.kvm.cpuid({ es: true }));
	expect(resetVcpu(vcpu, { signature: SIGNATURE })).toBe(0);
	expect(mirror.sev.launchUpdateVmsa()).toMatchObject({ ret: -5, error: 2 });
	const { run, vcpu: same } = threadOf(mirror, 0, { reset: (cpu) => cpu.jump('reset') });
	expect(run()).toBe(0);
	expect(new DataView(same.run.buffer, same.run.byteOffset).getUint32(8, true)).toBe(ExitReason.FAIL_ENTRY);
});

it('is refused: another kernel, another kind of guest, a wrong place, a wrong owner', () => {
	const real = runningEsVm(bootHost({})).vm;
	expect([real.mapSaveArea(0, at), real.unmapSaveArea(at)]).toEqual([ENOTTY, ENOTTY]);
	const host = boot();
	const sev = host.kvm.createVm();
	expect(sev.mapSaveArea(0, at)).toBe(ENOTTY);
	must(sev.sev.init());
	expect([sev.mapSaveArea(0, at), sev.unmapSaveArea(at)]).toEqual([ENOTTY, ENOTTY]);
	const launching = esVm(host).vm;
	expect(launching.mapSaveArea(0, at)).toBe(EINVAL);
	const { vm } = runningEsVm(host);
	for (const bad of [1, -PAGE, 2 ** 43, Number.NaN]) expect(vm.mapSaveArea(0, bad as Gpa)).toBe(EINVAL);
	expect(vm.mapSaveArea(2, at)).toBe(EINVAL);
	expect(vm.mapSaveArea(0, at, launching)).toBe(EINVAL);
	expect(vm.mapSaveArea(0, gpa(2 ** 43 - PAGE))).toBe(0);
	expect(vm.mapSaveArea(0, at)).toBe(0);
	expect(vm.mapSaveArea(1, at)).toBe(EEXIST);
	expect(vm.unmapSaveArea(gpa(3 * PAGE))).toBe(ENOENT);
	for (let i = 2; i < 32; i++) expect(vm.mapSaveArea(0, gpa(i * 2 ** 30))).toBe(0);
	expect(vm.mapSaveArea(0, gpa(2 ** 40))).toBe(ENOMEM);
	expect(vm.unmapSaveArea(at)).toBe(0);
	expect(vm.mapSaveArea(1, at)).toBe(0);
});
