import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { createSevMachine } from '@cvm/sev-hw';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { VmType } from '../src/abi/vm-type.js';
import { type BootParams, EfiStatus, type LinuxKernelOptions, linuxKernel, MemoryMap } from '../src/guest/index.js';
import {
	createKvm,
	type KvmAbi,
	type LinuxRelease,
	MemFlag,
	resetVcpu,
	type VcpuHandle,
	type Vm,
} from '../src/index.js';
import {
	type Block,
	type CodeFragment,
	type GuestProgram,
	link,
	openVcpu,
	type VcpuThread,
} from '../src/vcpu/index.js';
import { AP_START, esFirmware } from './es-firmware.js';
import type { HostLog } from './guest-rig.js';
import { E820, firmware, RAM, stop } from './kernel-rig.js';

const MIB = 1 << 20;
const EXIT_PORT = 0xf4;
const SIGNATURE = 0x00a00f11;

export interface BootOptions {
	readonly abi: KvmAbi;
	readonly es: boolean;
	readonly vcpus: number;
	/** SEV-ES by KVM_SEV_INIT2 on a typed VM, with version 2 of the GHCB protocol. */
	readonly init2?: boolean;
	readonly release?: LinuxRelease;
	/** The VMM offers live migration: default true. */
	readonly offers?: boolean;
	readonly params?: Partial<BootParams>;
	readonly variable?: { readonly status: bigint; readonly value: number };
	readonly workload?: Readonly<Record<string, Block>>;
	readonly kernel?: Partial<LinuxKernelOptions>;
	/** The firmware's program instead of ours. */
	readonly program?: GuestProgram;
	readonly firmwareReports?: boolean;
	readonly jumpTable?: number;
	/** Another machine, and so other keys. */
	readonly seed?: string;
	/** Slot 0 logs its dirty pages from the start. */
	readonly logsDirty?: boolean;
}

export interface Boot {
	readonly log: HostLog;
	readonly vm: Vm;
	/** DRAM behind the guest's RAM: what the host sees of it. */
	readonly ram: Uint8Array;
	readonly threads: readonly VcpuThread[];
	/** The vCPUs for threads elsewhere, instead of `threads`. */
	readonly handles: readonly VcpuHandle[];
	readonly program: GuestProgram;
	/** Runs `blocks` blocks of a vCPU: whether it has ended. */
	turn(vcpu: number, blocks: number): boolean;
	/** Lets all run until each wrote to port 0xF4 or shut down. @throws Error if they do not */
	finish(): void;
	/** Guest memory in plain, by DBG_DECRYPT. */
	plain(gpa: number, length: number): Uint8Array;
	/** Exit reason with which a vCPU ended. */
	readonly ends: ReadonlyMap<number, number>;
	/** struct kvm_run of a vCPU. */
	view(vcpu: number): DataView;
}

const ok = (what: string, ret: number): void => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

/** Launches a VM by its ioctls, with firmware of its own kind. */
export function launch(o: BootOptions): Boot {
	const machine = createSevMachine({
		dramBytes: RAM + 8 * MIB,
		provider: nodeProvider,
		random: seededRandom(o.seed ?? 'boot-rig'),
		chipSeed: 'boot-rig',
	});
	const kvm = createKvm({ machine, abi: o.abi, ...(o.release && { release: o.release }) });
	const vm = kvm.createVm(o.init2 ? { type: VmType.SEV_ES } : {});
	ok('init', (o.init2 ? vm.sev.init2({}) : o.es ? vm.sev.esInit() : vm.sev.init()).ret);
	if (o.es) ok('irqchip', vm.createIrqchip());
	const ram = kvm.memory.mmap(RAM);
	const userspaceAddr = ram.hva;
	const flags = o.logsDirty === true ? MemFlag.logDirtyPages : 0;
	ok('slot', vm.setUserMemoryRegion({ slot: 0, flags, guestPhysAddr: gpa(0), memorySize: RAM, userspaceAddr }));
	ok('pin', vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: RAM }));
	ok('launchStart', vm.sev.launchStart({ policy: o.es ? 4 : 0 }).ret);
	const cpuid = kvm.cpuid({ es: o.es, migrationControl: o.offers !== false });
	const vcpus = Array.from({ length: o.vcpus }, (_, i) => vm.createVcpu(i, cpuid));
	if (o.es) {
		for (const vcpu of vcpus) ok('reset', resetVcpu(vcpu, { signature: SIGNATURE, apResetVector: AP_START }));
		ok('launchUpdateVmsa', vm.sev.launchUpdateVmsa().ret);
	}
	ok('launchMeasure', vm.sev.launchMeasure().ret);
	ok('launchFinish', vm.sev.launchFinish().ret);
	if (o.abi === 'upstream') ok('cap', vm.enableCap(201, [1n << 12n]));
	ok('cap', vm.enableCap(188, [4n]));
	const bitmap = new Uint8Array(8);
	ok('filter', vm.setMsrFilter({ flags: 0, ranges: [{ flags: 3, base: 0x4b564d08, nmsrs: 1, bitmap }] }));

	const program = o.program ?? programOf(o);
	let left = 0;
	let current = 0;
	const afterBlock = (): void => {
		if (--left === 0) vcpus[current]?.kick();
	};
	const threads = vcpus.map((v) => openVcpu(v.share(), { provider: nodeProvider, program, ticks: false, afterBlock }));
	const log: HostLog = { hypercalls: [], console: [], events: [], migrationMsr: 0n, end: 0 };
	const ends = new Map<number, number>();
	const view = (vcpu: number): DataView => {
		const run = vcpus[vcpu]?.run ?? new Uint8Array();
		return new DataView(run.buffer, run.byteOffset, run.byteLength);
	};
	const turn = (vcpu: number, blocks: number): boolean => {
		if (ends.has(vcpu)) return true;
		left = blocks;
		current = vcpu;
		for (;;) {
			const ret = threads[vcpu]?.run() ?? -1;
			// Kicked, or it waits to be started.
			if (ret === -4 || ret === -11) return false;
			const end = ret < 0 ? ret : answer(view(vcpu), log);
			if (end === undefined) continue;
			ends.set(vcpu, end);
			return true;
		}
	};
	return {
		log,
		vm,
		ram: ram.bytes,
		threads,
		handles: vcpus.map((vcpu) => vcpu.share()),
		program,
		turn,
		ends,
		view,
		finish: () => {
			for (let i = 0; i < 50000; i++) {
				for (let vcpu = 0; vcpu < o.vcpus; vcpu++) turn(vcpu, 3 + ((i + vcpu) % 4));
				if (ends.size === o.vcpus) return;
			}
			throw new Error(`vCPUs: expected all to end, got ${[...ends.keys()]}`);
		},
		plain: (at, length) => {
			const out = new Uint8Array(length);
			const copy = kvm.memory.mmap(MIB);
			for (let done = 0; done < length; done += MIB) {
				const len = Math.min(MIB, length - done);
				const src = (ram.hva + at + done) as typeof ram.hva;
				ok('dbgDecrypt', vm.sev.dbgDecrypt({ src, dst: copy.hva, len }).ret);
				out.set(copy.bytes.subarray(0, len), done);
			}
			kvm.memory.munmap(copy);
			return out;
		},
	};
}

/** Answers an exit as a VMM does. What ended the vCPU, or `undefined`. */
export function answer(view: DataView, log: HostLog): number | undefined {
	const u32 = (at: number) => view.getUint32(at, true);
	const u64 = (at: number) => view.getBigUint64(at, true);
	const reason = u32(RunOffset.exitReason);
	if (reason === ExitReason.HYPERCALL) {
		const [at = 0, pages = 0, attributes = 0] = [40, 48, 56].map((offset) => Number(u64(offset)));
		log.hypercalls.push({ gpa: at, pages, attributes });
		log.events.push('hypercall');
		view.setBigUint64(RunOffset.hypercallRet, 0n, true);
		return undefined;
	}
	if (reason === ExitReason.X86_WRMSR) {
		log.events.push(`wrmsr ${u32(RunOffset.msrIndex).toString(16)}`);
		const value = u64(RunOffset.msrData);
		if (value <= 1n) log.migrationMsr = value;
		view.setUint8(RunOffset.msrError, value <= 1n ? 0 : 1);
		return undefined;
	}
	if (reason === ExitReason.X86_RDMSR) {
		log.events.push(`rdmsr ${u32(RunOffset.msrIndex).toString(16)}`);
		view.setBigUint64(RunOffset.msrData, log.migrationMsr, true);
		return undefined;
	}
	if (reason !== ExitReason.IO) return reason;
	const port = view.getUint16(RunOffset.ioPort, true);
	const data = Number(u64(RunOffset.ioDataOffset));
	const isOut = view.getUint8(RunOffset.ioDirection) === 1;
	log.events.push(`${isOut ? 'out' : 'in'} ${port.toString(16)}`);
	if (port === 0x3f8) log.console.push(view.getUint8(data));
	if (!isOut) view.setUint32(data, 0xa1b2c3d4, true);
	return port === EXIT_PORT ? reason : undefined;
}

export function programOf(o: BootOptions): GuestProgram {
	const params: Omit<BootParams, 'getVariable'> = {
		...{ ramBytes: RAM, seed: 1n, stepLimit: 0n, cpus: o.vcpus, efi: false, workload: 'test', e820: E820 },
		...o.params,
	};
	const variable = o.variable ?? { status: EfiStatus.notFound, value: 0 };
	const blocks: Record<string, Block> = { test_start: stop, ...o.workload, test_end: (cpu) => cpu.hlt('test_end') };
	const fragment: CodeFragment = { name: 'test', base: MemoryMap.workloadText, blocks };
	const kernel = linuxKernel({ abi: o.abi, workloads: { test: { fragment, start: 'test_start' } }, ...o.kernel });
	const first = o.es
		? esFirmware({
				params,
				variable,
				reports: o.firmwareReports === true,
				jumpTable: o.jumpTable ?? MemoryMap.apJumpTable,
			})
		: firmware(params, variable, true);
	return link(first, ...kernel);
}
