import { GuestState, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { openVmState } from '../src/vm/state.js';
import { bootHost, count, runningVm, vmWithRam } from './host.js';

/** ASIDs 5 … 15. */
const naples = () => bootHost({ generation: 'naples' });
const ASIDS = 11;

describe('ASIDs', () => {
	it('are EBUSY when every one is in use, and the platform is not flushed for nothing', () => {
		const host = naples();
		for (let i = 0; i < ASIDS; i++) expect(host.kvm.createVm().sev.init().ret).toBe(0);
		const flushes = count(host, 'DF_FLUSH');
		expect(host.kvm.createVm().sev.init()).toEqual({ ret: -16, error: 0 });
		expect(count(host, 'DF_FLUSH')).toBe(flushes);
	});

	it('are recycled by one WBINVD and DF_FLUSH when none is left, and then work for a new guest', () => {
		const host = naples();
		const vms = Array.from({ length: ASIDS }, () => runningVm(host, 0, 4096));
		for (const { vm, ram } of vms) {
			vm.destroy();
			host.kvm.memory.munmap(ram);
		}
		const flushes = count(host, 'DF_FLUSH');
		const next = Array.from({ length: ASIDS }, () => runningVm(host, 0, 4096));
		expect(count(host, 'DF_FLUSH')).toBe(flushes + 1);
		for (const { vm } of next) expect(vm.sev.guestStatus().state).toBe(GuestState.RUNNING);
	});

	it('start at the lowest one that is not for SEV-ES', () => {
		const host = bootHost();
		const { vm } = vmWithRam(host);
		const { asid, sevActive, cbitPosition } = openVmState(vm.createVcpu(0, []).share().vm);
		expect({ asid, sevActive, cbitPosition }).toEqual({ asid: 100, sevActive: true, cbitPosition: 51 });
	});
});

describe('destroying a VM', () => {
	it('takes its guest out of the firmware, once', () => {
		const host = bootHost();
		const { vm } = runningVm(host);
		expect(host.kvm.sevDevice.platformStatus().guestCount).toBe(1);
		vm.destroy();
		vm.destroy();
		expect(host.kvm.sevDevice.platformStatus().guestCount).toBe(0);
		expect([count(host, 'DEACTIVATE'), count(host, 'DECOMMISSION')]).toEqual([1, 1]);
		expect(vm.sev.guestStatus()).toMatchObject({ ret: -25, error: 0 });
	});

	it('gives the guest firmware nothing to do if it never started', () => {
		const host = bootHost();
		const { vm } = vmWithRam(host);
		vm.destroy();
		expect(count(host, 'DEACTIVATE')).toBe(0);
	});

	it('erases its memory before the next owner gets it', () => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		vm.destroy();
		host.kvm.memory.munmap(ram);
		expect(ram.bytes.every((b) => b === 0)).toBe(true);
	});
});

describe('/dev/sev', () => {
	it('reports the platform before INIT and exports certificates after it', () => {
		const host = bootHost();
		expect(host.kvm.sevDevice.platformStatus()).toMatchObject({ ret: 0, apiMajor: 0, apiMinor: 24, state: 0 });
		const { ret, pdh, chain } = host.kvm.sevDevice.pdhCertExport();
		expect([ret, pdh.length, chain.length]).toEqual([0, 2084, 6252]);
		expect(host.kvm.sevDevice.platformStatus().state).toBe(1);
	});

	it('tells the chip id without INIT, the same one each time', () => {
		const host = bootHost();
		const { id } = host.kvm.sevDevice.getId();
		expect(id).toHaveLength(64);
		expect(host.kvm.sevDevice.getId().id).toEqual(id);
		expect(count(host, 'INIT')).toBe(0);
	});

	it('reports what the firmware says when INIT fails, and KVM_SEV_INIT passes it on', () => {
		const host = bootHost();
		const { machine, kvm } = host;
		const { submit } = machine.psp;
		machine.psp.submit = (command, at) => (command === 1 ? Status.HWERROR_PLATFORM : submit(command, at));
		const vm = kvm.createVm();
		expect(vm.sev.init()).toEqual({ ret: -5, error: Status.HWERROR_PLATFORM });
		machine.psp.submit = submit;
		expect(vm.sev.init()).toEqual({ ret: 0, error: 0 });
	});
});
