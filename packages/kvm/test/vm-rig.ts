import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { RunOffset } from '../src/abi/run-page.js';
import type { HostMapping, KvmAbi, LinuxRelease, Series, Vm } from '../src/index.js';
import { type Block, type GuestProgram, link, openVcpu, type VcpuThread } from '../src/vcpu/index.js';
import type { Vcpu } from '../src/vm/vcpu.js';
import { openVcpuState, Register, type RegisterName } from '../src/vm/vcpu-state.js';
import { bootHost, type Host, runningVm, type vmWithRam } from './host.js';

/** A program of one fragment: `reset` at the reset vector, the other labels from 0x10000 on. */
export const programOf = (blocks: Readonly<Record<string, Block>>): GuestProgram =>
	link({ name: 'test', base: 0x10000, at: { reset: 0xfffffff0 }, blocks });

export interface VmRigOptions {
	readonly abi?: KvmAbi;
	readonly series?: Series;
	readonly release?: LinuxRelease;
	/** true: a SEV guest that was launched; its memory holds nothing that a guest can read. */
	readonly sev?: boolean;
	readonly program: GuestProgram;
	readonly ramBytes?: number;
	readonly now?: () => bigint;
}

/** A VM made with the ioctls, with one vCPU that this thread runs. */
export interface VmRig {
	readonly host: Host;
	readonly vm: Vm;
	readonly ram: HostMapping;
	readonly vcpu: Vcpu;
	readonly view: DataView;
	/** Opens the vCPU anew: CPUID as it is now. */
	open(): VcpuThread;
	/** The thread of another VM's vCPU, with the same program. */
	openAnother(vcpu: Vcpu): VcpuThread;
	run(): number;
	thread(): VcpuThread;
	reason(): number;
	register(name: RegisterName): bigint;
	setRegister(name: RegisterName, value: bigint): void;
	/** Goes on at a label, and forgets the exit that is pending. */
	at(label: string): void;
}

export function createVmRig(o: VmRigOptions): VmRig {
	const { abi, series, release } = o;
	const host = bootHost({ ...(abi && { abi }), ...(series && { series }), ...(release && { release }) });
	const bytes = o.ramBytes ?? 256 * 1024;
	const { vm, ram } = o.sev === true ? runningVm(host, 0, bytes) : plainVm(host, bytes);
	const vcpu = vm.createVcpu(0, host.kvm.cpuid({ sev: o.sev === true, migrationControl: true }));
	const options = { provider: nodeProvider, program: o.program, ticks: false, ...(o.now && { now: o.now }) };
	let thread: VcpuThread | undefined;
	const open = (): VcpuThread => {
		thread = openVcpu(vcpu.share(), options);
		return thread;
	};
	const view = new DataView(vcpu.run.buffer, vcpu.run.byteOffset, vcpu.run.byteLength);
	const { registers } = openVcpuState(vcpu.share());
	return {
		...{ host, vm, ram, vcpu, view, open },
		openAnother: (other) => openVcpu(other.share(), options),
		thread: () => thread ?? open(),
		run: () => (thread ?? open()).run(),
		reason: () => view.getUint32(RunOffset.exitReason, true),
		register: (name) => registers[Register[name]] ?? 0n,
		setRegister: (name, value) => {
			registers[Register[name]] = value;
		},
		at: (label) => {
			registers[Register.pendingKind] = 0n;
			registers[Register.rip] = BigInt(o.program.address(label));
		},
	};
}

function plainVm(host: Host, bytes: number): ReturnType<typeof vmWithRam> {
	const vm = host.kvm.createVm();
	const ram = host.kvm.memory.mmap(bytes);
	vm.setUserMemoryRegion({ slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: bytes, userspaceAddr: ram.hva });
	return { vm, ram };
}
