import { nodeProvider } from '@cvm/crypto/node';
import { expect } from 'vitest';
import {
	Ioctl,
	kvmEncRegion,
	kvmSevCmd,
	kvmSevGuestStatus,
	kvmSevLaunchStart,
	kvmSevLaunchUpdateData,
	kvmUserspaceMemoryRegion,
	SevCommand,
	SevIoctl,
} from '../src/abi/index.js';
import type { HostMapping, LinuxRelease, Vm } from '../src/index.js';
import { createProcess, type Process, type ProcessOptions } from '../src/process/index.js';
import { link, openVcpu } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { bootHost, type Host, PAGE, pattern } from './host.js';

/** What a caller leaves in `kvm_sev_cmd.error` to see whether the kernel wrote there. */
export const UNTOUCHED = 0x5a5a5a5a;
/** An address that no mapping has. */
export const NOWHERE = 0xdead_0000n;

/** A VMM on a host: its descriptors, some memory for structures and blobs, and how it issues SEV commands. */
export interface Program {
	readonly host: Host;
	readonly process: Process;
	readonly kvmFd: number;
	readonly sevFd: number;
	/** Puts bytes somewhere into the program's memory, 64-byte aligned. */
	put(bytes: Uint8Array): bigint;
	/** Reads the program's memory. */
	at(address: bigint, length: number): Uint8Array;
	/** KVM_MEMORY_ENCRYPT_OP. `data`: the command's structure, or its address. */
	sev(vm: number, id: number, data?: Uint8Array | bigint, o?: { sevFd?: number; error?: number }): SevAnswer;
	createVm(type?: number): number;
}

interface SevAnswer {
	readonly ret: number;
	/** `kvm_sev_cmd.error` afterwards. */
	readonly error: number;
	/** The command's structure afterwards. */
	readonly data: Uint8Array;
}

const SCRATCH = 256 * 1024;

export function startProgram(host: Host, o: ProcessOptions = {}): Program {
	const process = createProcess(host.kvm, o);
	const kvmFd = process.open('/dev/kvm');
	const sevFd = process.open('/dev/sev');
	const scratch = host.kvm.memory.mmap(SCRATCH);
	let next = 0;
	const put = (bytes: Uint8Array): bigint => {
		if (next + bytes.length > SCRATCH) next = 0;
		const at = next;
		scratch.bytes.set(bytes, at);
		next = Math.ceil((at + bytes.length) / 64) * 64;
		return BigInt(scratch.hva + at);
	};
	const at = (address: bigint, length: number): Uint8Array => {
		const offset = Number(address) - scratch.hva;
		return new Uint8Array(scratch.bytes.slice(offset, offset + length));
	};
	return {
		host,
		process,
		kvmFd,
		sevFd,
		put,
		at,
		createVm: (type = 0) => process.ioctl(kvmFd, Ioctl.KVM_CREATE_VM, type),
		sev: (vm, id, data = 0n, { sevFd: fd = sevFd, error = UNTOUCHED } = {}) => {
			const length = typeof data === 'bigint' ? 0 : data.length;
			const address = typeof data === 'bigint' ? data : put(data);
			const command = kvmSevCmd.encode({ id, data: address, error, sevFd: fd });
			const ret = process.ioctl(vm, SevIoctl.KVM_MEMORY_ENCRYPT_OP, command);
			const after = kvmSevCmd.decode(command);
			return { ret, error: after.error, data: at(address, length) };
		},
	};
}

/** A host and a program on it. */
export const program = (
	o: Parameters<typeof bootHost>[0] & { readonly release?: LinuxRelease } = {},
	p: ProcessOptions = {},
): Program => startProgram(bootHost(o), p);

/** KVM_SET_USER_MEMORY_REGION of slot 0 at 0, and REG_REGION. */
export function addRam({ process, host }: Program, vm: number, bytes = 16 * PAGE): HostMapping {
	const ram = host.kvm.memory.mmap(bytes);
	const region = { slot: 0, guestPhysAddr: 0n, memorySize: BigInt(bytes), userspaceAddr: BigInt(ram.hva) };
	const set = process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, kvmUserspaceMemoryRegion.encode(region));
	const enc = kvmEncRegion.encode({ addr: BigInt(ram.hva), size: BigInt(bytes) });
	const registered = process.ioctl(vm, SevIoctl.KVM_MEMORY_ENCRYPT_REG_REGION, enc);
	if (set !== 0 || registered !== 0) throw new Error(`ram: expected 0 and 0, got ${set} and ${registered}`);
	return ram;
}

/** A VM after KVM_SEV_INIT with RAM. */
export function sevGuest(p: Program): { vm: number; ram: HostMapping } {
	const vm = p.createVm();
	const { ret } = p.sev(vm, SevCommand.INIT);
	if (ret !== 0) throw new Error(`INIT: expected 0, got ${ret}`);
	return { vm, ram: addRam(p, vm) };
}

/** Launched up to, and with, LAUNCH_START. */
export function launching(p: Program, policy = 0): { vm: number; ram: HostMapping } {
	const made = sevGuest(p);
	const { ret } = p.sev(made.vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy }));
	if (ret !== 0) throw new Error(`LAUNCH_START: expected 0, got ${ret}`);
	return made;
}

/** RUNNING, with {@link pattern} in its RAM. */
export function running(p: Program, policy = 0): { vm: number; ram: HostMapping } {
	const made = launching(p, policy);
	made.ram.bytes.set(pattern(made.ram.bytes.length));
	const range = kvmSevLaunchUpdateData.encode({ uaddr: BigInt(made.ram.hva), len: made.ram.bytes.length });
	for (const { ret } of [
		p.sev(made.vm, SevCommand.LAUNCH_UPDATE_DATA, range),
		p.sev(made.vm, SevCommand.LAUNCH_MEASURE, measureInto(p, 48)),
		p.sev(made.vm, SevCommand.LAUNCH_FINISH),
	]) {
		if (ret !== 0) throw new Error(`launch: expected 0, got ${ret}`);
	}
	return made;
}

/** `struct kvm_sev_launch_measure` with a buffer of `len` bytes. */
function measureInto(p: Program, len: number): Uint8Array {
	const bytes = new Uint8Array(16);
	const view = new DataView(bytes.buffer);
	view.setBigUint64(0, p.put(new Uint8Array(len)), true);
	view.setUint32(8, len, true);
	return bytes;
}

/** GUEST_STATUS. */
export function status(p: Program, vm: number) {
	const { ret, error, data } = p.sev(vm, SevCommand.GUEST_STATUS, new Uint8Array(kvmSevGuestStatus.size));
	return { ret, error, ...kvmSevGuestStatus.decode(data) };
}

/** The typed facade behind a descriptor. */
export function vmOf({ process }: Program, fd: number): Vm {
	const vm = process.vmOf(fd);
	if (vm === undefined) throw new Error(`descriptor ${fd}: expected a VM, got something else`);
	return vm;
}

/** What KVM keeps of the VM behind a descriptor. */
export const contextAt = (p: Program, fd: number) => contextOf(vmOf(p, fd));

/** The last page of the address space. */
export const TOP = 0xffff_ffff_ffff_f000n;
const KEPT = { error: UNTOUCHED };
/** Refused, and the firmware was not reached. */
export const EINVAL = { ret: -22, ...KEPT };
export const EFAULT = { ret: -14, ...KEPT };
export const ENOMEM = { ret: -12, ...KEPT };

/** Runs one command with one structure after the other; the firmware must not notice. */
export function refuses(
	p: Program,
	vm: number,
	id: number,
	rows: readonly (readonly [Uint8Array | bigint, object])[],
): void {
	const before = p.host.commands.length;
	for (const [i, [data, answer]] of rows.entries()) expect([i, p.sev(vm, id, data)]).toMatchObject([i, answer]);
	expect(p.host.commands).toHaveLength(before);
}

/** A blob of the program: address and length. */
export const blob = (p: Program, length: number) => p.put(new Uint8Array(length));

/** A guest that stores a word and writes to a port, over and over. */
export const blocks = link({
	name: 'process',
	base: 0xfffffff0,
	blocks: {
		reset: (cpu) => {
			cpu.storeU64(0x3000, 7n);
			return cpu.out(0xf4, 1, 'again');
		},
		again: (cpu) => cpu.jump('reset'),
	},
});

/** A VM with `pages` pages of memory from 0 on, and a vCPU. */
export function guest(p: Program, pages = 16, flags = 1) {
	const vm = p.createVm();
	const ram = p.host.kvm.memory.mmap(pages * PAGE);
	const region = {
		slot: 0,
		flags,
		guestPhysAddr: 0n,
		memorySize: BigInt(pages * PAGE),
		userspaceAddr: BigInt(ram.hva),
	};
	const set = p.process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, kvmUserspaceMemoryRegion.encode(region));
	if (set !== 0) throw new Error(`KVM_SET_USER_MEMORY_REGION: expected 0, got ${set}`);
	const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
	return { vm, vcpu, ram };
}

/** A program whose vCPUs run that guest. */
export const runs = () =>
	program({}, { openVcpu: (handle) => openVcpu(handle, { provider: nodeProvider, program: blocks, ticks: false }) });
