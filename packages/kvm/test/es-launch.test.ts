import { seededRandom } from '@cvm/crypto';
import { nodeProvider as provider } from '@cvm/crypto/node';
import { GuestState, Status, vmsa } from '@cvm/sev-hw/abi';
import { createLaunchSession, guestLaunchDigest, initialVmsa, verifyMeasurement } from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { VmType } from '../src/abi/index.js';
import { resetVcpu, type Vcpu } from '../src/index.js';
import { FIRST_HOST_REGISTER, openVcpuState, Register, VcpuWord } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import {
	AP_RESET,
	bootEsHost,
	ES_POLICY,
	esVm,
	must,
	plainSaveArea,
	runningEsVm,
	SIGNATURE,
	withoutSlot,
} from './es-rig.js';
import { bootHost, count, PAGE, pattern, runningVm } from './host.js';

const OK = { ret: 0, error: 0 };
const expected = (vcpu: number, fpuInit: boolean) =>
	initialVmsa({ vcpu, signature: SIGNATURE, apResetVector: AP_RESET, fpuInit });
const control = (vcpu: Vcpu) => {
	const { words } = openVcpuState(vcpu.share());
	return [words[VcpuWord.saveAreaPage], words[VcpuWord.guestStateProtected]];
};

describe('the launch of a SEV-ES guest', () => {
	it.each([
		['ES_INIT', false],
		['INIT2', true],
	] as const)('T-2: after LAUNCH_START the status has its policy and state LUPDATE (%s)', (_, typed) => {
		const { vm } = esVm(bootHost(), { typed, policy: 5 });
		expect(vm.sev.guestStatus()).toMatchObject({ ret: 0, policy: 5, state: GuestState.LUPDATE });
	});

	it.each([false, true])('T-4: LAUNCH_UPDATE_VMSA succeeds twice before the measurement (typed: %s)', (typed) => {
		const host = bootEsHost();
		const { vm } = esVm(host, { typed });
		expect(vm.sev.launchUpdateVmsa()).toEqual(OK);
		const first = plainSaveArea(host, vm, 1);
		expect(vm.sev.launchUpdateVmsa()).toEqual(OK);
		expect(count(host, 'LAUNCH_UPDATE_VMSA')).toBe(4);
		expect(host.measured.slice(2)).toEqual(host.measured.slice(0, 2));
		expect(withoutSlot(plainSaveArea(host, vm, 1))).toEqual(withoutSlot(first));
	});

	it('T-5: LAUNCH_MEASURE into 256 bytes succeeds, and the state is LSECRET then', () => {
		const { vm } = esVm(bootHost());
		must(vm.sev.launchUpdateVmsa());
		expect(vm.sev.launchMeasure({ len: 256 })).toMatchObject(OK);
		expect(vm.sev.guestStatus().state).toBe(GuestState.LSECRET);
	});

	it('T-6: before LAUNCH_FINISH the state is 1 or 2, after it 3', () => {
		const { vm } = esVm(bootHost());
		const states = [vm.sev.guestStatus().state];
		must(vm.sev.launchUpdateVmsa());
		states.push(vm.sev.guestStatus().state);
		must(vm.sev.launchMeasure());
		states.push(vm.sev.guestStatus().state);
		must(vm.sev.launchFinish());
		states.push(vm.sev.guestStatus().state);
		expect(states).toEqual([1, 1, 2, 3]);
	});

	it('with the policy of a guest without SEV-ES is the firmware’s to refuse: it does not bind such an ASID', () => {
		const { vm } = esVm(bootHost(), { policy: undefined });
		expect(vm.sev.launchStart({ policy: 0 })).toEqual({ ret: -5, error: Status.INVALID_ASID });
		const sev = bootHost().kvm.createVm();
		must(sev.sev.init());
		expect(sev.sev.launchStart({ policy: ES_POLICY })).toEqual({ ret: -5, error: Status.INVALID_ASID });
	});
});

describe('what is measured of a vCPU', () => {
	it.each([
		['ES_INIT', false],
		['INIT2', true],
	] as const)('is what the owner expects, byte for byte, of the first one and of the others (%s)', (_, typed) => {
		const host = bootEsHost();
		const { vm } = esVm(host, { vcpus: 3, typed });
		must(vm.sev.launchUpdateVmsa());
		expect(host.measured).toEqual([0, 1, 2].map((vcpu) => expected(vcpu, typed)));
	});

	it.each([
		['ES_INIT', false],
		['INIT2', true],
	] as const)('makes the launch digest that the owner’s tools compute (%s)', (_, typed) => {
		const host = bootHost();
		const random = seededRandom('owner');
		const vm = host.kvm.createVm(typed ? { type: VmType.SEV_ES } : {});
		must(typed ? vm.sev.init2() : vm.sev.esInit());
		const platformPdh = host.kvm.sevDevice.pdhCertExport().pdh;
		const policy = ES_POLICY;
		const { dhCert, session, keys } = createLaunchSession({ provider, random, platformPdh, policy });
		must(vm.sev.launchStart({ policy, dhCert, session }));
		const firmware = pattern(2 * PAGE);
		const image = host.kvm.memory.mmap(firmware.length);
		image.bytes.set(firmware);
		must(vm.sev.launchUpdateData({ uaddr: image.hva, len: firmware.length }));
		for (const index of [0, 1]) {
			resetVcpu(vm.createVcpu(index, host.kvm.cpuid({ es: true })), { signature: SIGNATURE, apResetVector: AP_RESET });
		}
		must(vm.sev.launchUpdateVmsa());
		const { measurement } = vm.sev.launchMeasure();
		const vcpus = { count: 2, signature: SIGNATURE, apResetVector: AP_RESET, fpuInit: typed };
		const digest = guestLaunchDigest(provider, { firmware, vcpus });
		const version = { major: 0, minor: 24, build: 15 };
		expect(verifyMeasurement(provider, measurement, { tik: keys.tik, version, policy, digest })).toBe(Status.SUCCESS);
		const other = guestLaunchDigest(provider, { firmware, vcpus: { ...vcpus, count: 1 } });
		const wrong = { tik: keys.tik, version, policy, digest: other };
		expect(verifyMeasurement(provider, measurement, wrong)).toBe(Status.BAD_MEASUREMENT);
	});

	it('is in the order in which vCPUs were created, whatever their numbers', () => {
		const host = bootEsHost();
		const { vm } = esVm(host, { vcpus: 0 });
		for (const index of [2, 0, 1]) vm.createVcpu(index, []).setRegs({ rbx: BigInt(index) });
		must(vm.sev.launchUpdateVmsa());
		expect(host.measured.map((page) => vmsa.decode(page).rbx)).toEqual([2n, 0n, 1n]);
	});

	it('has KVM’s own reset state where the VMM set nothing', () => {
		const host = bootEsHost();
		const { vm } = esVm(host, { vcpus: 0 });
		vm.createVcpu(0, host.kvm.cpuid({ es: true }));
		vm.createVcpu(1, []);
		must(vm.sev.launchUpdateVmsa());
		const wanted = [SIGNATURE, 0x600].map((signature) => initialVmsa({ vcpu: 0, signature, fpuInit: false }));
		// KVM makes the task register a 16-bit TSS, QEMU a 32-bit one.
		for (const page of wanted) page[vmsa.offsetOf('tr') + 2] = 0x83;
		expect(host.measured).toEqual(wanted);
	});

	it('has the SEV_FEATURES of INIT2', () => {
		const host = bootEsHost();
		const vm = host.kvm.createVm({ type: VmType.SEV_ES });
		must(vm.sev.init2({ vmsaFeatures: 0x20n }));
		must(vm.sev.launchStart({ policy: ES_POLICY }));
		vm.createVcpu(0, []);
		must(vm.sev.launchUpdateVmsa());
		expect(host.measured.map((page) => vmsa.decode(page).sevFeatures)).toEqual([0x20n]);
	});

	it('has what the VMM set: registers, segments, XSAVE state of a typed VM', () => {
		const host = bootEsHost();
		const { vm, vcpus } = esVm(host, { vcpus: 1, typed: true });
		const [vcpu] = vcpus;
		vcpu?.setRegs({ rax: 1n, r15: 2n, rsp: 3n, rip: 0x1000n, rflags: 0x202n });
		const sregs = { cr0: 0x80000011n, cr3: 0x2000n, cr4: 0x20n, efer: 0x500n, cr2: 0xbadn };
		const data = { ...vcpu?.getSregs().ds, limit: 0xffffffff, dpl: 3, db: 1, g: 1, selector: 0x2b };
		const ss = { ...vcpu?.getSregs().ss, ...data } as NonNullable<ReturnType<Vcpu['getSregs']>>['ss'];
		expect(vcpu?.setSregs({ ...sregs, ss })).toBe(0);
		expect(vcpu?.setDebugRegs({ db: [1n, 2n, 3n, 4n], dr6: 0xffff0ff1n })).toBe(0);
		expect(vcpu?.setMsr(0xc0000082, 0x8000n)).toBe(0);
		const xsave = pattern(4096).fill(0, 512);
		new DataView(xsave.buffer).setUint32(24, 0x1fa0, true);
		xsave[512] = 7;
		xsave.set(pattern(256).reverse(), 576);
		expect(vcpu?.setXsave(xsave)).toBe(0);
		must(vm.sev.launchUpdateVmsa());
		const page = host.measured[0] ?? new Uint8Array(0);
		expect(vmsa.decode(page)).toMatchObject({
			...{ rax: 1n, r15: 2n, rsp: 3n, rip: 0x1000n, rflags: 0x202n, lstar: 0x8000n },
			...{ cr0: 0x80000011n, cr3: 0x2000n, cr4: 0x60n, efer: 0x1500n, cr2: 0n, dr6: 0xffff0ff1n, dr0: 0n, cpl: 3 },
			...{ mxcsr: 0x1fa0, fcw: 0x0a03, xmm: xsave.slice(160, 416), ymm: xsave.slice(576, 832) },
			ss: Uint8Array.of(0x2b, 0, 0xf3, 0x0c, 255, 255, 255, 255, ...new Uint8Array(8)),
		});
		expect(page.slice(0x420, 0x428)).toEqual(xsave.slice(32, 40));
		expect(page.slice(0x420 + 64 + 2, 0x420 + 64 + 4)).toEqual(xsave.slice(32 + 16 + 8, 32 + 16 + 10));
	});

	it('has no XSAVE state and, before Linux 5.16, no CR3 in a VM of the default type', () => {
		for (const [release, cr3] of [
			['5.13', 0n],
			['5.16', 0x2000n],
		] as const) {
			const host = bootEsHost({ release });
			const { vm, vcpus } = esVm(host, { vcpus: 1 });
			const xsave = pattern(4096).fill(0, 24, 28).fill(0, 512);
			expect([vcpus[0]?.setXsave(xsave), vcpus[0]?.setSregs({ cr3: 0x2000n })]).toEqual([0, 0]);
			must(vm.sev.launchUpdateVmsa());
			const page = host.measured[0] ?? new Uint8Array(0);
			expect(vmsa.decode(page).cr3).toBe(cr3);
			expect(page.subarray(0x400).every((byte) => byte === 0)).toBe(true);
		}
	});
});

describe('KVM_SEV_LAUNCH_UPDATE_VMSA', () => {
	it('encrypts the page in place, and the host keeps no register of the guest', () => {
		const host = bootEsHost();
		const { vm, vcpus } = esVm(host);
		const [vcpu] = vcpus;
		vcpu?.setRegs({ r12: 0x1234n });
		const area = contextOf(vm).vcpus.get(0)?.saveArea;
		expect(vcpus.map((v) => control(v)[1])).toEqual([0, 0]);
		must(vm.sev.launchUpdateVmsa());
		expect(vcpus.map(control)).toEqual(
			[...contextOf(vm).vcpus.values()].map((c) => [(c.saveArea?.spa ?? 0) / 4096, 1]),
		);
		expect(area?.bytes).not.toEqual(host.measured[0]);
		expect(withoutSlot(plainSaveArea(host, vm, 0))).toEqual(host.measured[0]);
		expect(vcpu?.getRegs().r12).toBe(0n);
		for (const { registers, xsave } of vcpus.map((v) => openVcpuState(v.share()))) {
			const known = [...registers.keys()].filter((i) => i < FIRST_HOST_REGISTER && registers[i] !== 0n);
			expect(known, 'CR0: its writes are trapped').toEqual([Register.cr0]);
			expect(xsave.every((byte) => byte === 0)).toBe(true);
		}
	});

	it('is ENOTTY on other VMs, and after the end', () => {
		const host = bootHost();
		expect(host.kvm.createVm().sev.launchUpdateVmsa()).toEqual({ ret: -25, error: 0 });
		expect(runningVm(host).vm.sev.launchUpdateVmsa()).toEqual({ ret: -25, error: 0 });
		const { vm } = esVm(host);
		vm.destroy();
		expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: -25, error: 0 });
	});

	it('is EBADF before LAUNCH_START, and leaves the registers', () => {
		const host = bootHost();
		const { vm, vcpus } = esVm(host, { policy: undefined });
		const before = vcpus.map((vcpu) => [vcpu.getRegs(), vcpu.getSregs()]);
		expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: -9, error: 0 });
		expect(vcpus.map((vcpu) => [vcpu.getRegs(), vcpu.getSregs()])).toEqual(before);
		expect(
			contextOf(vm)
				.vcpus.get(0)
				?.saveArea?.bytes.every((byte) => byte === 0),
		).toBe(true);
	});

	it.each([
		['a vCPU that is being debugged', (vcpu: Vcpu) => vcpu.setGuestDebug(1)],
		['a breakpoint in DR7', (vcpu: Vcpu) => vcpu.setDebugRegs({ dr7: 0x401n })],
	])('is EINVAL for %s, after the vCPUs before it', (_, set) => {
		const host = bootHost();
		const { vm, vcpus } = esVm(host, { vcpus: 3 });
		const [, second] = vcpus;
		expect(second && set(second)).toBe(0);
		expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: -22, error: 0, reached: true });
		expect(vcpus.map((vcpu) => control(vcpu)[1])).toEqual([1, 0, 0]);
		expect(count(host, 'LAUNCH_UPDATE_VMSA')).toBe(1);
	});

	it('stops where the firmware has no slot left, and keeps that vCPU’s registers', () => {
		const host = bootHost();
		const { vm, vcpus } = esVm(host, { vcpus: 3 });
		const { submit } = host.machine.psp;
		let calls = 0;
		host.machine.psp.submit = (command, at) =>
			command === 0x32 && ++calls === 2 ? Status.RESOURCE_LIMIT : submit(command, at);
		expect(vm.sev.launchUpdateVmsa()).toMatchObject({ ret: -5, error: Status.RESOURCE_LIMIT });
		expect(vcpus.map((vcpu) => control(vcpu)[1])).toEqual([1, 0, 0]);
		expect(vcpus[1]?.getRegs().rdx).toBe(BigInt(SIGNATURE));
		host.machine.psp.submit = submit;
		expect(vm.sev.launchUpdateVmsa()).toEqual(OK);
	});

	it('is refused after the measurement, and the save areas stay good', () => {
		const host = bootHost();
		const { vm } = runningEsVm(host);
		const before = plainSaveArea(host, vm, 0);
		expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: -5, error: Status.INVALID_GUEST_STATE });
		expect(plainSaveArea(host, vm, 0)).toEqual(before);
	});

	it('is EINVAL for a vCPU that Linux 5.12 let be created before ES_INIT', () => {
		const vm = bootHost({ release: '5.12' }).kvm.createVm();
		vm.createVcpu(0, []);
		must(vm.sev.esInit());
		must(vm.sev.launchStart({ policy: ES_POLICY }));
		expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: -22, error: 0 });
	});

	it('T-20: works on a mirror, for the mirror’s own vCPUs', () => {
		const host = bootEsHost();
		const { vm } = esVm(host);
		must(vm.sev.launchUpdateVmsa());
		const mirror = host.kvm.createVm();
		expect(mirror.copyEncContextFrom(vm)).toBe(0);
		for (let i = 0; i < 4; i++) mirror.createVcpu(i, []);
		expect(mirror.sev.launchUpdateVmsa()).toEqual(OK);
		expect(host.measured).toHaveLength(6);
		expect(withoutSlot(plainSaveArea(host, mirror, 3))).toEqual(host.measured[5]);
	});
});

describe('the memory of save areas', () => {
	it('goes back with the VM, erased', () => {
		const host = bootHost();
		must(host.kvm.createVm().sev.esInit());
		const free = host.kvm.memory.freeBytes;
		const { vm, ram } = runningEsVm(host, { vcpus: 4 });
		expect(host.kvm.memory.freeBytes).toBe(free - 8 * PAGE);
		const pages = [...contextOf(vm).vcpus.values()].map((context) => context.saveArea?.bytes);
		vm.destroy();
		host.kvm.memory.munmap(ram);
		expect(host.kvm.memory.freeBytes).toBe(free);
		for (const page of pages) expect(page?.every((byte) => byte === 0)).toBe(true);
	});

	it('is nobody’s mapping: no ioctl reaches it by address', () => {
		const host = bootHost();
		const { vm } = esVm(host);
		const spa = contextOf(vm).vcpus.get(0)?.saveArea?.spa ?? 0;
		expect(contextOf(vm).host.memory.resolve(0x7f00_0000_0000 + spa, PAGE)).toBe(-1);
	});

	it('is not taken for guests without SEV-ES', () => {
		const host = bootHost();
		const { vm } = runningVm(host);
		const free = host.kvm.memory.freeBytes;
		expect(control(vm.createVcpu(0, []))).toEqual([0, 0]);
		expect(host.kvm.memory.freeBytes).toBe(free);
	});
});
