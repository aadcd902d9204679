import { readFileSync } from 'node:fs';
import { type RandomSource, seededRandom, systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type HostMapping, type Kvm, type UserMemoryRegion, type Vcpu, type Vm } from '@cvm/kvm';
import type { KvmAbi } from '@cvm/kvm/abi';
import {
	createIdentityStrategy,
	createMirrorVm,
	createPcRamMap,
	type MirrorTopology,
	type MirrorVm,
} from '@cvm/kvm/mirror';
import { createSharedPages, watchGuest } from '@cvm/kvm/vmm';
import { type Gpa, gpa, PAGE_SIZE } from '@cvm/layout';
import { buildFirmwareImage, readFirmwareBlocks } from '@cvm/ovmf-mh';
import { createSevMachine, type SevMachine } from '@cvm/sev-hw';
import { strerror } from './migration/uri.js';
import { type HostOptions, UsageError } from './options.js';
import type { GuestPages, MappedBlock } from './pages.js';
import { type PlatformIdentity, platformIn, platformInMemory } from './platform.js';
import { SevGuest } from './sev-guest.js';
import type { StreamImage } from './stream-image.js';

const MIB = 2 ** 20;
const FOUR_GIB = 2 ** 32;
/** DRAM beyond the guest's: the host's own first megabyte, KVM's command buffers, the VMM's page batches. */
const HOST_DRAM = 16 * MIB;
const READONLY = 2;

/** The hardware, KVM and one VM on it: RAM blocks, firmware, vCPUs. */
export interface VirtualMachine extends GuestPages {
	readonly machine: SevMachine;
	readonly kvm: Kvm;
	readonly vcpus: readonly Vcpu[];
	readonly sev: SevGuest | undefined;
	/** The mirror VM, if the machine has mirror vCPUs. */
	readonly mirror: MirrorVm | undefined;
	/**
	 * Makes the mirror VM one of this guest, once its launch has begun, and creates its vCPUs: they share the guest's key and all of
	 * its memory. Once. @throws SevCommandError
	 */
	shareWithMirror(): readonly Vcpu[];
	/** Blocks that a launch measures, in order. */
	readonly measured: readonly MappedBlock[];
	/** Where the firmware image wants launch secrets, if it does. */
	readonly secretArea: number | undefined;
}

const roundUp = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;

/** The image's GUIDed table names the area; base 0 says that there is none. */
function secretAreaOf(plan: readonly Plan[]): number | undefined {
	const firmware = plan.find((b) => b.idstr === 'pc.bios')?.contents;
	return (firmware && readFirmwareBlocks(firmware).secretBlock?.base) || undefined;
}

/** A file named on the command line. */
export function readNamedFile(option: string, path: string, limit: number): Uint8Array {
	let data: Uint8Array;
	try {
		data = new Uint8Array(readFileSync(path));
	} catch (error) {
		throw new UsageError(`${option}: could not open '${path}': ${strerror(error)}`);
	}
	if (data.length > limit) throw new UsageError(`${option}: '${path}' has ${data.length} bytes, more than ${limit}`);
	return data;
}

interface Plan {
	readonly idstr: string;
	readonly size: number;
	readonly gpa: Gpa;
	readonly readonly: boolean;
	readonly contents?: Uint8Array;
	readonly fill?: (memory: Uint8Array) => void;
}

/** Which RAM blocks the VM has, largest first as QEMU lists them. */
function planBlocks(options: HostOptions, image: StreamImage | undefined): Plan[] {
	if (image) {
		// Not a machine that runs here: its blocks stand one after the other, RAM at 0 so that frames are as they were.
		let next = FOUR_GIB;
		return image.blocks.map(({ idstr, size, fill }, index) => {
			const at = index === 0 ? 0 : next;
			if (index > 0) next += roundUp(size, PAGE_SIZE);
			// An incoming guest brings its own memory.
			return { idstr, size, gpa: gpa(at), readonly: false, ...(options.incoming === undefined && { fill }) };
		});
	}
	const ram: Plan = { idstr: 'pc.ram', size: options.memoryBytes, gpa: gpa(0), readonly: false };
	const firmware = options.bios ? readNamedFile('-bios', options.bios, 16 * MIB) : buildFirmwareImage();
	// QEMU wants 64 KiB for -bios and 4 KiB for pflash; OVMF's 4M images are of the second kind.
	if (firmware.length === 0 || firmware.length % PAGE_SIZE !== 0) {
		throw new UsageError(
			`-bios: could not load PC BIOS '${options.bios}': expected a multiple of 4096 bytes, got ${firmware.length}`,
		);
	}
	const at = gpa(FOUR_GIB - firmware.length);
	return [ram, { idstr: 'pc.bios', size: firmware.length, gpa: at, readonly: true, contents: firmware }];
}

function platformOf(options: HostOptions): { identity: PlatformIdentity; random: RandomSource } {
	const seed = options.insecureSeed;
	if (options.platform) {
		return { identity: platformIn(options.platform), random: seed === undefined ? systemRandom() : seededRandom(seed) };
	}
	if (seed === undefined) return { identity: platformInMemory(), random: systemRandom() };
	return { identity: platformInMemory(seed), random: seededRandom(seed) };
}

/** Builds the machine that the options describe. Nothing runs yet. @throws UsageError */
export function createVirtualMachine(options: HostOptions, image?: StreamImage): VirtualMachine {
	const plan = planBlocks(options, image);
	const { identity, random } = platformOf(options);
	const guestBytes = plan.reduce((sum, b) => sum + roundUp(b.size, PAGE_SIZE), 0);
	const machine = createSevMachine({
		dramBytes: roundUp(guestBytes + HOST_DRAM, PAGE_SIZE),
		provider: nodeProvider,
		random,
		chipSeed: identity.chipSeed,
		nv: identity.nv,
	});
	const cbit = options.sev?.cbitPosition;
	if (cbit !== undefined && cbit !== machine.cpuid.cbitPosition) {
		throw new UsageError(
			`sev_guest_init: cbitpos check failed, host '${machine.cpuid.cbitPosition}' requested '${cbit}'`,
		);
	}
	const kvm = createKvm({ machine });
	const vm = kvm.createVm({ sev: options.sev !== undefined });
	const blocks = plan.map((b, slot) => mapBlock(kvm, b, slot));
	const mirror = createMirror(kvm, vm, options, blocks);
	const setRegion = (region: UserMemoryRegion) => mirror?.setUserMemoryRegion(region) ?? vm.setUserMemoryRegion(region);
	// A mirror gets its slots when it has become one.
	for (const block of blocks) check('KVM_SET_USER_MEMORY_REGION', vm.setUserMemoryRegion(regionOf(block)));
	if (options.sev) watchPageStatus(vm, kvm.abi);
	const sev = options.sev && new SevGuest(vm, options.sev.policy);
	sev?.init(blocks);
	const cpuid = kvm.cpuid({ migrationControl: sev !== undefined });
	const vcpus = image ? [] : Array.from({ length: options.cpus }, (_, index) => vm.createVcpu(index, cpuid));
	return {
		machine,
		kvm,
		vm,
		blocks,
		vcpus,
		sev,
		mirror,
		shareWithMirror: () => {
			if (!mirror) return [];
			check('KVM_CAP_VM_COPY_ENC_CONTEXT_FROM', mirror.shareContext());
			for (const block of blocks) check('KVM_SET_USER_MEMORY_REGION', setRegion(regionOf(block)));
			return Array.from({ length: options.mirrors }, (_, i) => mirror.addVcpu(options.cpus + i, cpuid));
		},
		setRegion,
		secretArea: secretAreaOf(plan),
		measured: image ? blocks : blocks.filter((b) => b.idstr === 'pc.bios'),
		shared: createSharedPages(),
		touched: blocks.map((b) => new Uint32Array(Math.ceil(b.usedLength / PAGE_SIZE / 64) * 2)),
		confidential: sev !== undefined,
		allocate: (bytes) => kvm.memory.mmap(roundUp(bytes, PAGE_SIZE)).bytes.subarray(0, bytes),
	};
}

/** Makes page status and consent reach this VMM. Must precede advertising either in CPUID. */
function watchPageStatus(vm: Vm, abi: KvmAbi): void {
	const failed = watchGuest(vm, abi);
	if (failed) throw new Error(`${failed.call}: errno ${-failed.ret}`);
}

function mapBlock(kvm: Kvm, plan: Plan, slot: number): MappedBlock {
	const mapping: HostMapping = kvm.memory.mmap(roundUp(plan.size, PAGE_SIZE));
	if (plan.contents) mapping.bytes.set(plan.contents);
	plan.fill?.(mapping.bytes);
	const flags = plan.readonly ? READONLY : 0;
	return { idstr: plan.idstr, usedLength: plan.size, gpa: plan.gpa, slot, flags, mapping };
}

const regionOf = ({ slot, flags, gpa: at, usedLength, mapping }: MappedBlock): UserMemoryRegion => ({
	slot,
	flags,
	guestPhysAddr: at,
	memorySize: usedLength,
	userspaceAddr: mapping.hva,
});

function check(call: string, result: number): void {
	if (result !== 0) throw new Error(`${call}: errno ${-result}`);
}

/** CPUs as `-smp` counts them: the guest's first, then the mirrors. */
export const topologyOf = ({ cpus, mirrors }: Pick<HostOptions, 'cpus' | 'mirrors'>): MirrorTopology => ({
	cpus: cpus + mirrors,
	maxCpus: cpus + mirrors,
	mirrorVcpus: mirrors,
});

/** A second VM with the same addresses, as the prototypes had it. */
function createMirror(kvm: Kvm, main: Vm, options: HostOptions, blocks: readonly MappedBlock[]): MirrorVm | undefined {
	const [ram] = blocks;
	if (options.mirrors === 0 || !ram) return undefined;
	const map = createPcRamMap({ ramBytes: ram.usedLength, hva: ram.mapping.hva });
	return createMirrorVm({ kvm, main, topology: topologyOf(options), strategy: createIdentityStrategy(map) });
}
