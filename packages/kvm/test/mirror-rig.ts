import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { expect } from 'vitest';
import type { HostMapping, Vm } from '../src/index.js';
import { type Block, link, openVcpu } from '../src/vcpu/index.js';
import type { Vcpu } from '../src/vm/vcpu.js';
import { contextOf } from '../src/vm/vm.js';
import { type Host, PAGE } from './host.js';

/** `sev` or `sev-es`. */
export type Kind = 'sev' | 'sev-es';
export const KINDS: readonly Kind[] = ['sev', 'sev-es'];
/** Whether the kernel's rows of SEV-ES apply. */
export const isEs = (kind: Kind): boolean => kind === 'sev-es';

/** A VM without SEV. */
export function plainVm({ kvm }: Host, vcpus: number): Vm {
	const vm = kvm.createVm();
	for (let i = 0; i < vcpus; i++) vm.createVcpu(i, []);
	return vm;
}

/** A guest as sev_migrate_tests makes it: INIT, vCPUs, LAUNCH_START, with SEV-ES UPDATE_VMSA. Neither measured nor finished. */
export function sevVm({ kvm }: Host, kind: Kind = 'sev', vcpus = 4): Vm {
	const vm = kvm.createVm();
	expect(isEs(kind) ? vm.sev.esInit() : vm.sev.init()).toEqual({ ret: 0, error: 0 });
	for (let i = 0; i < vcpus; i++) vm.createVcpu(i, []);
	expect(vm.sev.launchStart({ policy: isEs(kind) ? 4 : 0 }).ret).toBe(0);
	if (isEs(kind)) expect(vm.sev.launchUpdateVmsa()).toEqual({ ret: 0, error: 0 });
	return vm;
}

/** es-no-vmsa: one vCPU with id 1, never launched. */
export function esWithoutVmsa({ kvm }: Host): Vm {
	const vm = kvm.createVm();
	expect(vm.sev.esInit()).toEqual({ ret: 0, error: 0 });
	vm.createVcpu(1, []);
	return vm;
}

/** Guests that the firmware knows. */
export const guestCount = ({ kvm }: Host): number => kvm.sevDevice.platformStatus().guestCount;

/** The VM's half of its context, as KVM keeps it. */
export const sevOf = (vm: Vm) => contextOf(vm).sev;

/** Puts memory into a VM. */
export function addRam(vm: Vm, slot: number, at: number, ram: HostMapping, flags = 0): void {
	const region = { slot, flags, guestPhysAddr: gpa(at), memorySize: ram.bytes.length, userspaceAddr: ram.hva };
	expect(vm.setUserMemoryRegion(region)).toBe(0);
}

/** Port that ends {@link runCode}. */
const EXIT_PORT = 0xf4;

/** A vCPU's thread, in the thread of the test. The code starts at `reset`. */
export function threadOf(vcpu: Vcpu, blocks: Readonly<Record<string, Block>>) {
	const program = link({
		name: 'test',
		base: 0x10000,
		at: { reset: 0xfffffff0 },
		blocks: { ...blocks, park: (cpu) => cpu.out(EXIT_PORT, 1, 'park') },
	});
	const view = new DataView(vcpu.run.buffer, vcpu.run.byteOffset, vcpu.run.byteLength);
	const thread = openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false });
	return { run: () => thread.run(), view, exitReason: () => view.getUint32(8, true) };
}

/** Runs one block on a vCPU and then stops at the exit port. */
export function runCode(vcpu: Vcpu, code: (cpu: Parameters<Block>[0]) => void): void {
	vcpu.setRegs({ rip: 0xfffffff0n });
	const { run, exitReason } = threadOf(vcpu, {
		reset: (cpu) => {
			code(cpu);
			return cpu.jump('park');
		},
	});
	expect(run()).toBe(0);
	expect(exitReason()).toBe(2);
	finishExit(vcpu);
}

/** Finishes the exit of {@link EXIT_PORT}, so that the next piece of code starts where it is told to. */
export function finishExit(vcpu: Vcpu): void {
	vcpu.run[1] = 1;
	const idle = threadOf(vcpu, {}).run();
	expect(idle).toBe(-4);
	vcpu.run[1] = 0;
}

export const pages = (host: Host, count: number): HostMapping => host.kvm.memory.mmap(count * PAGE);
