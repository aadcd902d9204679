/** SEV-ES guests whose GHCB the test writes itself, and whose vCPUs run one block per KVM_RUN. */
import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { type Ghcb, ghcb, ghcbValidBit } from '../src/abi/ghcb.js';
import { RunOffset } from '../src/abi/run-page.js';
import type { CpuidEntry, HostMapping, KvmAbi, LinuxRelease, Vcpu, Vm } from '../src/index.js';
import { resetVcpu } from '../src/index.js';
import { type Block, link, openVcpu, type VcpuThread } from '../src/vcpu/index.js';
import { openVcpuState, Register, type RegisterName } from '../src/vm/vcpu-state.js';
import { bootHost, type Host, MIB } from './host.js';

/** Guest-physical address of the GHCB; shared by nature, as the host writes it. */
export const GHCB = 0x8000;
/** Where APs start: CS 0x20000, IP 0x10. */
export const AP_START = 0x20010;
export const EINTR = -4;
export const EAGAIN = -11;
export const EINVAL = -22;

export interface GhcbRig {
	readonly host: Host;
	readonly vm: Vm;
	readonly ram: HostMapping;
	readonly vcpus: readonly Vcpu[];
	readonly threads: readonly VcpuThread[];
	/** kvm_run of a vCPU. */
	view(vcpu?: number): DataView;
	/** KVM_RUN. */
	run(vcpu?: number): number;
	/** KVM's register of a vCPU. */
	host64(name: RegisterName, vcpu?: number): bigint;
	setHost64(name: RegisterName, value: bigint, vcpu?: number): void;
	/** Puts fields into a cleared GHCB and marks them valid; `usage` is not markable. */
	put(fields: Partial<Ghcb>): void;
	/** The GHCB as it is. */
	get(): Ghcb;
	/** Whether a field is marked valid. */
	isValid(field: keyof Ghcb): boolean;
	/** Sets the GHCB MSR to the GHCB's address, puts fields, and runs one block, which is VMGEXIT. */
	exchange(fields: Partial<Ghcb>): number;
	/** KVM_RUN that only finishes the last exit. */
	finish(): number;
	exitReason(vcpu?: number): number;
	u32(at: number, vcpu?: number): number;
	u64(at: number, vcpu?: number): bigint;
}

export interface GhcbRigOptions {
	readonly abi?: KvmAbi;
	readonly release?: LinuxRelease;
	readonly policy?: number;
	readonly vcpus?: number;
	readonly irqchip?: boolean;
	/** KVM_SEV_INIT2. */
	readonly typed?: boolean;
	/** `reset` stands at the reset vector, `ap` at {@link AP_START}; by default both are VMGEXIT for ever. */
	readonly blocks?: Readonly<Record<string, Block>>;
	readonly cpuid?: readonly CpuidEntry[];
	/** Blocks per KVM_RUN. */
	readonly steps?: number;
	/** 'launch': the save areas are not encrypted. */
	readonly until?: 'launch' | 'vmsa' | 'running';
	readonly vmsaTransport?: 'einval' | 'model';
	/** A guest that is to be received: no launch. */
	readonly receives?: boolean;
	readonly ramBytes?: number;
}

const mustBeZero = (what: string, ret: number): void => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

function finishLaunch(vm: Vm, until: NonNullable<GhcbRigOptions['until']>): void {
	if (until !== 'launch') mustBeZero('vmsa', vm.sev.launchUpdateVmsa().ret);
	mustBeZero('measure', vm.sev.launchMeasure().ret);
	if (until !== 'vmsa') mustBeZero('finish', vm.sev.launchFinish().ret);
}

/** A launched guest. */
export function createGhcbRig(o: GhcbRigOptions = {}): GhcbRig {
	const { abi, release, vmsaTransport } = o;
	const host = bootHost({
		...(o.receives === true && { seed: 'target' }),
		...(abi && { abi }),
		...(release && { release }),
		...(vmsaTransport && { vmsaTransport }),
	});
	const ramBytes = o.ramBytes ?? MIB;
	const { kvm } = host;
	const vm = kvm.createVm(o.typed === true ? { type: 3 } : {});
	if (o.irqchip === true) mustBeZero('createIrqchip', vm.createIrqchip());
	mustBeZero('init', o.typed === true ? vm.sev.init2().ret : vm.sev.esInit().ret);
	const ram = kvm.memory.mmap(ramBytes);
	const slot = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: ramBytes, userspaceAddr: ram.hva };
	mustBeZero('slot', vm.setUserMemoryRegion(slot));
	mustBeZero('region', vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: ramBytes }));
	if (o.receives !== true) {
		mustBeZero('start', vm.sev.launchStart({ policy: o.policy ?? 4 }).ret);
		mustBeZero('update', vm.sev.launchUpdateData({ uaddr: ram.hva, len: ramBytes }).ret);
	}
	const cpuid = o.cpuid ?? kvm.cpuid({ es: true });
	const vcpus = Array.from({ length: o.vcpus ?? 1 }, (_, i) => vm.createVcpu(i, cpuid));
	for (const vcpu of vcpus) {
		mustBeZero('reset', resetVcpu(vcpu, { signature: 0x00a00f11, apResetVector: AP_START }));
	}
	if (o.receives !== true) finishLaunch(vm, o.until ?? 'running');

	const blocks: Record<string, Block> = {
		reset: (cpu) => cpu.vmgexit('again'),
		again: (cpu) => cpu.vmgexit('again'),
		ap: (cpu) => cpu.vmgexit('ap_again'),
		ap_again: (cpu) => cpu.vmgexit('ap_again'),
		...o.blocks,
	};
	const program = link({ name: 'test', base: 0x10000, at: { reset: 0xfffffff0, ap: AP_START }, blocks });
	const steps = o.steps ?? 1;
	const threads = vcpus.map((vcpu) => {
		let done = 0;
		return openVcpu(vcpu.share(), {
			provider: nodeProvider,
			program,
			ticks: false,
			afterBlock: () => {
				done++;
				if (done % steps === 0) vcpu.kick();
			},
		});
	});
	const at = (vcpu: number): Vcpu => {
		const found = vcpus[vcpu];
		if (found === undefined) throw new RangeError(`vCPU: expected one of ${vcpus.length}, got ${vcpu}`);
		return found;
	};
	const state = (vcpu: number) => openVcpuState(at(vcpu).share());
	const view = (vcpu = 0): DataView => new DataView(at(vcpu).run.buffer, at(vcpu).run.byteOffset, at(vcpu).run.length);
	const page = ram.bytes.subarray(GHCB, GHCB + 4096);
	const rig: GhcbRig = {
		host,
		vm,
		ram,
		vcpus,
		threads,
		view,
		run: (vcpu = 0) => {
			// A kick that an exit left behind would be the next answer.
			Atomics.store(state(vcpu).words, 0, 0);
			return threads[vcpu]?.run() ?? 1;
		},
		host64: (name, vcpu = 0) => state(vcpu).registers[Register[name]] ?? 0n,
		setHost64: (name, value, vcpu = 0) => {
			state(vcpu).registers[Register[name]] = value;
		},
		put: (fields) => {
			page.set(ghcb.encode(fields));
			const bitmap = ghcb.offsetOf('validBitmap');
			for (const field of Object.keys(fields) as (keyof Ghcb)[]) {
				if (field === 'usage' || field === 'validBitmap' || field === 'sharedBuffer') continue;
				const bit = ghcbValidBit(field);
				page[bitmap + (bit >>> 3)] = (page[bitmap + (bit >>> 3)] ?? 0) | (1 << (bit & 7));
			}
		},
		get: () => ghcb.decode(page.slice()),
		isValid: (field) => {
			const bit = ghcbValidBit(field);
			return (((page[ghcb.offsetOf('validBitmap') + (bit >>> 3)] ?? 0) >>> (bit & 7)) & 1) === 1;
		},
		exchange: (fields) => {
			rig.setHost64('ghcbMsr', BigInt(GHCB));
			rig.put(fields);
			return rig.run();
		},
		finish: () => {
			view().setUint8(RunOffset.immediateExit, 1);
			const ret = rig.run();
			view().setUint8(RunOffset.immediateExit, 0);
			return ret;
		},
		exitReason: (vcpu = 0) => view(vcpu).getUint32(RunOffset.exitReason, true),
		u32: (where, vcpu = 0) => view(vcpu).getUint32(where, true),
		u64: (where, vcpu = 0) => view(vcpu).getBigUint64(where, true),
	};
	return rig;
}

/** An event without fields of its own. */
export const event = (code: number, info1 = 0n, info2 = 0n): Partial<Ghcb> => ({
	swExitCode: BigInt(code),
	swExitInfo1: info1,
	swExitInfo2: info2,
});

/** The two result fields. */
export const resultOf = ({ swExitInfo1, swExitInfo2 }: Ghcb): readonly [bigint, bigint] => [swExitInfo1, swExitInfo2];
