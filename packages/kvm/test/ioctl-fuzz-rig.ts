import { nodeProvider } from '@cvm/crypto/node';
import { COMMANDS, Policy } from '@cvm/sev-hw/abi';
import {
	Cap,
	Ioctl,
	kvmEnableCap,
	kvmSevLaunchStart,
	kvmSevReceiveStart,
	kvmSevSendStart,
	kvmUserspaceMemoryRegion,
	SevCommand,
	SevIoctl,
} from '../src/abi/index.js';
import { SEV_ISSUE_CMD } from '../src/ccp/index.js';
import { link, openVcpu } from '../src/vcpu/index.js';
import { openVcpuState, type VcpuHandle, VcpuWord } from '../src/vm/vcpu-state.js';
import { bootHost, certificatesOf, type Host, PAGE } from './host.js';
import {
	addRam,
	contextAt,
	launching,
	NOWHERE,
	type Program,
	program,
	running,
	sevGuest,
	startProgram,
	vmOf,
} from './process-rig.js';

/** Numbers from a seed: xorshift, 32 bits. */
export interface Dice {
	/** 0 … 2^32 − 1. */
	u32(): number;
	u64(): bigint;
	/** 0 … n − 1. */
	below(n: number): number;
	/** One of them. */
	of<T>(choices: readonly [T, ...T[]]): T;
	/** True in one of `n` cases. */
	rarely(n: number): boolean;
	bytes(length: number): Uint8Array;
}

export function createDice(seed: number): Dice {
	let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
	const u32 = (): number => {
		state ^= state << 13;
		state ^= state >>> 17;
		state ^= state << 5;
		state >>>= 0;
		return state;
	};
	const below = (n: number): number => u32() % n;
	return {
		u32,
		u64: () => (BigInt(u32()) << 32n) | BigInt(u32()),
		below,
		of: (choices) => choices[below(choices.length)] ?? choices[0],
		rarely: (n) => below(n) === 0,
		bytes: (length) => Uint8Array.from({ length }, () => u32() & 0xff),
	};
}

/** A program with VMs in every state that ioctls lead to. */
export interface World {
	readonly p: Program;
	readonly vms: readonly [number, ...number[]];
	/** Descriptors of a vCPU, by that of its VM. */
	readonly vcpus: ReadonlyMap<number, number>;
	/** Where valid pointers lead to, besides RAM: nothing there is compared. */
	readonly blobs: { readonly hva: number; readonly bytes: Uint8Array };
	/** The first bytes of RAM of the VMs, by descriptor. */
	readonly ram: ReadonlyMap<number, { readonly hva: number; readonly bytes: Uint8Array }>;
}

/** Guest code that has next to nothing to do: it stores to where RDI says and makes a hypercall, until it is kicked. */
const CODE = link({
	name: 'fuzz',
	base: 0x10000,
	at: { reset: 0xfffffff0 },
	blocks: {
		reset: (cpu) => {
			cpu.storeU64(cpu.num('rdi') % 2 ** 32, 1n);
			return cpu.jump('call');
		},
		call: (cpu) => cpu.vmmcall('reset'),
	},
});
const BLOCKS_PER_RUN = 6;

/** KVM_RUN that comes back after a few blocks. */
function runner(handle: VcpuHandle): { run(): number } {
	let left = 0;
	const { words } = openVcpuState(handle);
	const afterBlock = () => {
		left--;
		if (left <= 0) Atomics.store(words, VcpuWord.kick, 1);
	};
	const thread = openVcpu(handle, { provider: nodeProvider, program: CODE, ticks: false, afterBlock });
	return {
		run: () => {
			left = BLOCKS_PER_RUN;
			return thread.run();
		},
	};
}

const BLOBS = 8 * PAGE;
const RAM = 4 * PAGE;

function sending(p: Program, target: Host): number {
	const { vm } = running(p);
	const { pdhCert, platCerts, amdCerts } = certificatesOf(target);
	const start = kvmSevSendStart.encode({
		pdhCertUaddr: p.put(pdhCert),
		pdhCertLen: pdhCert.length,
		platCertsUaddr: p.put(platCerts),
		platCertsLen: platCerts.length,
		amdCertsUaddr: p.put(amdCerts),
		amdCertsLen: amdCerts.length,
		sessionUaddr: p.put(new Uint8Array(128)),
		sessionLen: 128,
	});
	p.sev(vm, SevCommand.SEND_START, start);
	return vm;
}

function receiving(p: Program, source: Host): number {
	const sender = startProgram(source);
	const { vm } = running(sender);
	const { pdhCert, platCerts, amdCerts } = certificatesOf(p.host);
	const { session } = vmOf(sender, vm).sev.sendStart({ pdhCert, platCerts, amdCerts });
	const to = sevGuest(p);
	const { pdh } = source.kvm.sevDevice.pdhCertExport();
	const start = {
		pdhUaddr: p.put(pdh),
		pdhLen: pdh.length,
		sessionUaddr: p.put(session),
		sessionLen: session.length,
	};
	p.sev(to.vm, SevCommand.RECEIVE_START, kvmSevReceiveStart.encode(start));
	return to.vm;
}

function launchedEs(p: Program): number {
	const vm = p.createVm();
	p.sev(vm, SevCommand.ES_INIT);
	p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
	addRam(p, vm, RAM);
	p.sev(vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: Policy.ES }));
	p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA);
	return vm;
}

const take = (p: Program, cap: number, source: number): number => {
	const vm = p.createVm();
	p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, arg0: BigInt(source) }));
	return vm;
};

/** Memory without a region: the VM is no SEV guest. */
function addRamOnly(p: Program, vm: number): void {
	const ram = p.host.kvm.memory.mmap(RAM);
	const region = { slot: 0, flags: 1, guestPhysAddr: 0n, memorySize: BigInt(RAM), userspaceAddr: BigInt(ram.hva) };
	p.process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, kvmUserspaceMemoryRegion.encode(region));
}

/** A new host whose guests may come from another one, and go there. */
export function createWorld(seed: string): World {
	const other = bootHost({ seed: 'other' });
	const p = program({ seed }, { openVcpu: runner });
	const plain = p.createVm();
	const withRam = p.createVm();
	addRamOnly(p, withRam);
	const moved = launching(p).vm;
	const vms: [number, ...number[]] = [
		plain,
		withRam,
		sevGuest(p).vm,
		launching(p).vm,
		running(p).vm,
		running(p, Policy.NODBG).vm,
		sending(p, other),
		receiving(p, other),
		launchedEs(p),
		p.createVm(2),
		p.createVm(3),
	];
	vms.push(take(p, Cap.VM_COPY_ENC_CONTEXT_FROM, running(p).vm), take(p, Cap.VM_MOVE_ENC_CONTEXT_FROM, moved), moved);
	const esGuest = vms[8] ?? plain;
	const mirror = vms.at(-3) ?? plain;
	const runs = vms[4] ?? plain;
	const addVcpu = (vm: number): number => p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 1);
	const vcpus = new Map([
		[plain, addVcpu(plain)],
		[withRam, addVcpu(withRam)],
		[runs, addVcpu(runs)],
		// Made right after its VM, and its registers are encrypted.
		[esGuest, esGuest + 1],
		[mirror, addVcpu(mirror)],
	]);
	const blobs = p.host.kvm.memory.mmap(BLOBS);
	const ram = new Map(
		[...vms].flatMap((vm) => {
			const region = contextAt(p, vm).sev.regions[0];
			if (region === undefined) return [];
			const { dram } = p.host.machine;
			return [[vm, { hva: region.addr, bytes: dram.subarray(region.spa, region.spa + RAM) }] as const];
		}),
	);
	return { p, vms, vcpus, blobs, ram };
}

/** An address: valid more often than not. */
export function pointer({ blobs, ram }: World, dice: Dice): bigint {
	const areas = [...ram.values()];
	switch (dice.below(10)) {
		case 0:
			return 0n;
		case 1:
			return dice.of([NOWHERE, 0xffff_ffff_ffff_f000n, 0xffff_ffff_ffff_ffffn, 1n << 63n, 1n]);
		case 2:
			return dice.u64();
		case 3:
		case 4:
			return BigInt((areas[dice.below(areas.length)] ?? blobs).hva + dice.below(RAM + 8));
		case 5:
			return BigInt((areas[dice.below(areas.length)] ?? blobs).hva + PAGE * dice.below(4));
		default:
			return BigInt(blobs.hva + 16 * dice.below(BLOBS / 16 + 4));
	}
}

/** A length: one that means something more often than not. */
const length = (dice: Dice): number =>
	dice.rarely(6) ? dice.u32() : dice.of([0, 1, 15, 16, 17, 48, 52, 128, 208, 2084, 4096, 4097, 6252, 0x4000, 0x4001]);

/** A structure of 32-bit words: pointers at multiples of 8 where dice say so, lengths, and random bits. */
export function structure(world: World, dice: Dice, size: number): Uint8Array {
	const bytes = dice.rarely(8) ? dice.bytes(size) : new Uint8Array(size);
	const view = new DataView(bytes.buffer);
	for (let at = 0; at + 8 <= size && at < 120; at += 8) {
		const kind = dice.below(4);
		if (kind === 0) view.setBigUint64(at, pointer(world, dice), true);
		else if (kind === 1) view.setUint32(at, length(dice), true);
		else if (kind === 2) view.setBigUint64(at, BigInt(dice.below(4)), true);
		if (dice.rarely(4)) view.setUint32(at + 4, length(dice), true);
	}
	return bytes;
}

/** `sev_uaddr, len` pairs as most SEV structures have them: the addresses before the lengths. */
export function sevStructure(world: World, dice: Dice): Uint8Array {
	const bytes = structure(world, dice, 72);
	const view = new DataView(bytes.buffer);
	const start = dice.of([0, 8]);
	for (let at = start; at + 16 <= 72; at += 16) {
		if (dice.rarely(5)) continue;
		view.setBigUint64(at, pointer(world, dice), true);
		view.setUint32(at + 8, length(dice), true);
	}
	return bytes;
}

export const REQUESTS: readonly [number, ...number[]] = [
	SEV_ISSUE_CMD,
	...Object.values(Ioctl).filter((request) => request !== Ioctl.KVM_CREATE_VM),
	...Object.values(SevIoctl),
];

/** Bytes of the tables of slots and dirty bits that a few slots use. */
const IN_USE = 4096;

/** All that a failing ioctl on a VM or one of its vCPUs must leave as it was. */
export function snapshot(world: World, vm: number) {
	const { p, ram } = world;
	const context = contextAt(p, vm);
	const { handle, sev, vcpus } = context;
	const { mirrors, owner, regions, driver, memory, kernel, free, isDeviceOpen, ...own } = sev;
	const copyOf = (bytes: Uint8Array | undefined) => Buffer.from(bytes === undefined ? [] : bytes.slice());
	return {
		ram: copyOf(ram.get(vm)?.bytes),
		/** Capabilities, MSR filter, generations, key. */
		words: copyOf(new Uint8Array(handle.shared)),
		slots: copyOf(new Uint8Array(handle.slots, 0, IN_USE)),
		dirty: copyOf(new Uint8Array(handle.dirty, 0, IN_USE)),
		registers: [...vcpus.values()].map(({ vcpu }) => {
			const state = openVcpuState(vcpu.share());
			const bytes = new Uint8Array(state.registers.buffer).slice();
			return Buffer.from(bytes).toString('latin1');
		}),
		saveAreas: copyOf(Buffer.concat([...vcpus.values()].map(({ saveArea }) => copyOf(saveArea?.bytes)))),
		protected: [...vcpus.values()].map(({ guestStateProtected }) => guestStateProtected),
		sev: { ...own, mirrors: mirrors.size, owner: owner?.handle, regions: regions.length, isDeviceOpen },
		guest: sev.handle === 0 ? undefined : driver.issue(COMMANDS.GUEST_STATUS, { handle: sev.handle }).out,
		freeBytes: p.host.kvm.memory.freeBytes,
		descriptors: p.process.descriptors.length,
	};
}

/** The names of what differs. */
export function differences(a: ReturnType<typeof snapshot>, b: ReturnType<typeof snapshot>): string[] {
	const isEqual = (x: unknown, y: unknown): boolean =>
		Buffer.isBuffer(x) && Buffer.isBuffer(y) ? x.equals(y) : JSON.stringify(x, plain) === JSON.stringify(y, plain);
	return Object.keys(a).filter((key) => !isEqual(a[key as keyof typeof a], b[key as keyof typeof b]));
}

const plain = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? `${value}n` : value);
