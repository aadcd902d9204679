import { gpa } from '@cvm/layout';
import { expect } from 'vitest';
import type { UserMemoryRegion, Vcpu, Vm } from '../src/index.js';
import {
	createIdentityStrategy,
	createMirrorVm,
	createPcRamMap,
	type MachineDevices,
	type MirrorStrategy,
	parseSmp,
	type RamMap,
} from '../src/mirror/index.js';
import { bootHost, type Host } from './host.js';
import { pages, runCode } from './mirror-rig.js';

const RAM_PAGES = 16;

/** A machine as the branch starts it, up to the mirror's vCPU: RAM at 0 in one slot. */
export function machine(
	o: { host?: Host; strategy?: (map: RamMap) => MirrorStrategy; smp?: string; ramFlags?: number } = {},
) {
	const { host = bootHost(), strategy = createIdentityStrategy, smp = '2,mirrorvcpus=1' } = o;
	const main = host.kvm.createVm();
	const ram = pages(host, RAM_PAGES);
	const map = createPcRamMap({ ramBytes: ram.bytes.length, hva: ram.hva });
	const topology = parseSmp(smp);
	const mirror = createMirrorVm({ kvm: host.kvm, main, topology, strategy: strategy(map) });
	main.sev.init();
	expect(main.sev.launchStart({ policy: 0 }).ret).toBe(0);
	expect(mirror.shareContext()).toBe(0);
	const slot: UserMemoryRegion = {
		slot: 0,
		flags: o.ramFlags ?? 0,
		guestPhysAddr: gpa(0),
		memorySize: ram.bytes.length,
		userspaceAddr: ram.hva,
	};
	expect(mirror.setUserMemoryRegion(slot)).toBe(0);
	main.sev.launchMeasure();
	main.sev.launchFinish();
	return { host, main, ram, map, topology, mirror, slot };
}

/** The same with vCPU 0 of the guest and vCPU 1 of the mirror. */
export function running(o: Parameters<typeof machine>[0] = {}) {
	const made = machine(o);
	expect(made.mirror.mapWindows()).toBe(0);
	return { ...made, guest: made.main.createVcpu(0, []), handler: made.mirror.addVcpu(1, []) };
}

/** Bytes that no cipher makes by chance. */
export const DATA = Uint8Array.from({ length: 64 }, (_, i) => 3 * i + 1);
/** Guest code that stores, and that loads. */
export const store = (vcpu: Vcpu, at: number, data = DATA): void => runCode(vcpu, (cpu) => cpu.store(at, data));
export function load(vcpu: Vcpu, at: number, length = DATA.length): Uint8Array {
	const out = new Uint8Array(length);
	runCode(vcpu, (cpu) => cpu.load(at, out));
	return out;
}
/** The mirror of a machine that has one. */
export const mirrorOf = ({ mirror }: { mirror: { vm: Vm | undefined } }): Vm => {
	if (mirror.vm === undefined) throw new Error('no mirror');
	return mirror.vm;
};
/** KVM_GET_DIRTY_LOG of a slot of up to 64 pages. */
export const dirtyWords = (vm: Vm, slot = 0): number[] => {
	const bitmap = new Uint32Array(2);
	expect(vm.getDirtyLog(slot, bitmap)).toBe(0);
	return [...bitmap];
};

/** Devices that write down what is asked of them; ports read as 0x5A…, memory as 0x77…. */
export function deviceLog(seen: string[], other = 0): MachineDevices {
	const hex = (data: Uint8Array) => [...data].map((b) => b.toString(16).padStart(2, '0')).join('');
	return {
		io: (port, isOut, data) => {
			if (!isOut) data.fill(0x5a);
			seen.push(`${isOut ? 'out' : 'in'} ${port.toString(16)} ${hex(data)}`);
		},
		mmio: (at, isWrite, data) => {
			if (!isWrite) data.fill(0x77);
			seen.push(`${isWrite ? 'write' : 'read'} ${at.toString(16)} ${hex(data)}`);
		},
		requestReset: () => seen.push('reset'),
		requestShutdown: () => seen.push('shutdown'),
		guestPanicked: () => seen.push('panic'),
		other: (reason) => {
			seen.push(`other ${reason}`);
			return other;
		},
	};
}
