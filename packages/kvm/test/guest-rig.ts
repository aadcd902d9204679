import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { spa } from '@cvm/layout';
import { createSevMachine, Status } from '@cvm/sev-hw';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { type MemoryController, openMemoryController } from '@cvm/sev-hw/silicon';
import type { CpuidEntry } from '../src/abi/cpuid.js';
import type { KvmAbi, LinuxRelease, Series } from '../src/abi/generation.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { createKernel } from '../src/kernel.js';
import { replaceSlot } from '../src/memory/slot-table.js';
import { type Block, type GuestProgram, link, openVcpu, type VcpuOptions, type VcpuThread } from '../src/vcpu/index.js';
import { createVmHandle, VmWord, vmWords } from '../src/vm/state.js';
import {
	createVcpuHandle,
	openVcpuState,
	Register,
	type RegisterName,
	type VcpuHandle,
	VcpuWord,
} from '../src/vm/vcpu-state.js';

const MIB = 1 << 20;
/** DRAM below is for command buffers. */
const RAM_AT = 2 * MIB;

export interface RigOptions {
	readonly ramBytes?: number;
	/** false: a VM without a key. */
	readonly sev?: boolean;
	readonly abi?: KvmAbi;
	readonly series?: Series;
	readonly release?: LinuxRelease;
	readonly vcpus?: number;
	readonly cpuid?: readonly CpuidEntry[];
	readonly program: GuestProgram;
	readonly afterBlock?: VcpuOptions['afterBlock'];
}

/** A machine with one VM, made without the ioctls: the shared state is written as KVM's main thread would. */
export interface Rig {
	/** What the host sees of the guest's RAM, without a C-bit. */
	readonly ram: Uint8Array;
	readonly asid: number;
	readonly memory: MemoryController;
	readonly words: Int32Array;
	readonly dirty: Int32Array;
	readonly handles: readonly VcpuHandle[];
	readonly vcpus: readonly VcpuThread[];
	/** Guest RAM through the guest's key. */
	plain(gpa: number, length: number): Uint8Array;
	/** Writes it. */
	poke(gpa: number, data: Uint8Array): void;
	register(name: RegisterName, vcpu?: number): bigint;
	setRegister(name: RegisterName, value: bigint, vcpu?: number): void;
	kick(vcpu?: number): void;
	/** Takes a kick back. */
	unkick(vcpu: number): void;
	/** Another memslot. `flags` as KVM_MEM_*. */
	addSlot(gpa: number, bytes: number, spa: number, flags?: number): void;
	/** Starts the dirty log of slot 0 in words 0 … of `dirty`. */
	logDirty(): void;
	view(vcpu?: number): DataView;
}

/** CPUID as a VMM gives it: SEV guest view, and KVM's leaves at `base` with `features`. */
export function guestCpuid(o: { sev?: boolean; features?: number; base?: number; cBit?: number }): CpuidEntry[] {
	const base = o.base ?? 0x40000000;
	const leaf = (fn: number, eax = 0, ebx = 0, ecx = 0, edx = 0): CpuidEntry => ({ function: fn, eax, ebx, ecx, edx });
	const entries = [leaf(0, 0xd), leaf(1, 0x800f12, 0x00010800, 0x80000000), leaf(0x80000000, 0x8000001f)];
	entries.push(leaf(0x8000001f, o.sev === false ? 0 : 2, (o.cBit ?? 51) | (1 << 6)));
	if (base !== 0x40000000) entries.push(leaf(0x40000000, 0x40000006, 0x7263694d, 0x666f736f, 0x76482074));
	entries.push(leaf(base, base + 1, 0x4b4d564b, 0x564b4d56, 0x4d), leaf(base + 1, o.features ?? 0));
	return entries;
}

/** Powers on a machine and launches an empty guest through the PSP. */
export function createRig(o: RigOptions): Rig {
	const ramBytes = o.ramBytes ?? 64 * MIB;
	const machine = createSevMachine({
		dramBytes: RAM_AT + ramBytes + 2 * MIB,
		provider: nodeProvider,
		random: seededRandom('guest-rig'),
		chipSeed: 'guest-rig',
	});
	const isSev = o.sev !== false;
	const asid = isSev ? machine.cpuid.maxAsid : 0;
	if (isSev) launch(machine, asid);
	const { cbitPosition } = machine.cpuid;
	const vm = createVmHandle({
		kernel: createKernel(o.abi ?? 'upstream', o.release, o.series),
		cbitPosition,
		ramBytes: machine.dram.length,
		silicon: machine.silicon,
	});
	const view = vmWords(vm);
	const { words, slots, dirty } = view;
	const addSlot = (gpa: number, bytes: number, at: number, flags = 0): void => {
		const slot = words[VmWord.slotCount] ?? 0;
		replaceSlot(view, undefined, { gpa, bytes, spa: at, bitmap: -1, flags, id: slot });
	};
	words[VmWord.asid] = asid;
	words[VmWord.sevActive] = isSev ? 1 : 0;
	words[VmWord.pageEncHcEnable] = isSev && o.abi === 'v12' ? 1 : 0;
	words[VmWord.exitHypercallMask] = o.abi === 'v12' ? 0 : 1 << 12;
	addSlot(0, ramBytes, RAM_AT);
	const cpuid = o.cpuid ?? guestCpuid({ sev: isSev, cBit: cbitPosition });
	const handles = Array.from({ length: o.vcpus ?? 1 }, (_, i) => createVcpuHandle(vm, i, cpuid));
	const options = { provider: nodeProvider, program: o.program, ticks: false };
	const vcpus = handles.map((handle) =>
		openVcpu(handle, o.afterBlock === undefined ? options : { ...options, afterBlock: o.afterBlock }),
	);
	const memory = openMemoryController(machine.silicon, nodeProvider);
	const state = (vcpu: number) => {
		const handle = handles[vcpu];
		if (handle === undefined) throw new RangeError(`vcpu: expected one of ${handles.length}, got ${vcpu}`);
		return openVcpuState(handle);
	};
	return {
		ram: machine.dram.subarray(RAM_AT, RAM_AT + ramBytes),
		asid,
		memory,
		words,
		dirty,
		handles,
		vcpus,
		plain: (gpa, length) => {
			const out = new Uint8Array(length);
			memory.read(asid, RAM_AT + gpa, out);
			return out;
		},
		poke: (gpa, data) => memory.write(asid, RAM_AT + gpa, data),
		register: (name, vcpu = 0) => state(vcpu).registers[Register[name]] ?? 0n,
		setRegister: (name, value, vcpu = 0) => {
			state(vcpu).registers[Register[name]] = value;
		},
		kick: (vcpu = 0) => {
			Atomics.store(state(vcpu).words, VcpuWord.kick, 1);
		},
		unkick: (vcpu) => {
			Atomics.store(state(vcpu).words, VcpuWord.kick, 0);
		},
		addSlot,
		logDirty: () => {
			slots[3] = 0;
			Atomics.add(words, VmWord.slotGeneration, 2);
		},
		view: (vcpu = 0) => {
			const { run } = state(vcpu);
			return new DataView(run.buffer, run.byteOffset, run.byteLength);
		},
	};
}

function launch(machine: ReturnType<typeof createSevMachine>, asid: number): void {
	const at = 0x100000;
	const submit = (command: { id: number }, bytes: Uint8Array = new Uint8Array()): void => {
		machine.dram.set(bytes, at);
		const status = machine.psp.submit(command.id, spa(at));
		if (status !== Status.SUCCESS) throw new Error(`command 0x${command.id.toString(16)}: got status ${status}`);
	};
	const { INIT, DF_FLUSH, LAUNCH_START, ACTIVATE, LAUNCH_MEASURE, LAUNCH_FINISH } = COMMANDS;
	submit(INIT, INIT.buffer.encode({}));
	machine.wbinvd();
	submit(DF_FLUSH);
	submit(LAUNCH_START, LAUNCH_START.buffer.encode({ policy: 1 }));
	const { handle } = LAUNCH_START.buffer.decodePrefix(machine.dram.subarray(at));
	submit(ACTIVATE, ACTIVATE.buffer.encode({ handle, asid }));
	submit(LAUNCH_MEASURE, LAUNCH_MEASURE.buffer.encode({ handle, paddr: 0x101000n, length: 48 }));
	submit(LAUNCH_FINISH, LAUNCH_FINISH.buffer.encode({ handle }));
}

/** A program of one fragment: `reset` at the reset vector, the other labels from 0x10000 on. */
export const programOf = (blocks: Readonly<Record<string, Block>>): GuestProgram =>
	link({ name: 'test', base: 0x10000, at: { reset: 0xfffffff0 }, blocks });

/** What a VMM saw. */
export interface HostLog {
	readonly hypercalls: { readonly gpa: number; readonly pages: number; readonly attributes: number }[];
	readonly console: number[];
	/** Exits in their order: `hypercall`, `rdmsr`, `wrmsr`, `out 3f8`, … */
	readonly events: string[];
	/** MSR 0x4B564D08. */
	migrationMsr: bigint;
	/** Exit reason that ended the loop; −4 if it was a kick. */
	end: number;
}

const EXIT_PORT = 0xf4;

/** Runs a vCPU and answers its exits until it writes to port 0xF4, shuts down, fails, or is kicked. */
export function runHost(rig: Rig, log: HostLog = newLog(), vcpu = 0): HostLog {
	const view = rig.view(vcpu);
	const u32 = (at: number) => view.getUint32(at, true);
	const u64 = (at: number) => view.getBigUint64(at, true);
	for (;;) {
		const ret = rig.vcpus[vcpu]?.run() ?? -1;
		log.end = ret < 0 ? ret : u32(RunOffset.exitReason);
		if (ret < 0 || log.end === ExitReason.SHUTDOWN || log.end === ExitReason.FAIL_ENTRY) return log;
		if (log.end === ExitReason.HYPERCALL) {
			const [gpa, pages, attributes] = [40, 48, 56].map((at) => Number(u64(at)));
			log.hypercalls.push({ gpa: gpa ?? 0, pages: pages ?? 0, attributes: attributes ?? 0 });
			log.events.push('hypercall');
			view.setBigUint64(RunOffset.hypercallRet, 0n, true);
		} else if (log.end === ExitReason.X86_WRMSR) {
			log.events.push(`wrmsr ${u32(RunOffset.msrIndex).toString(16)}`);
			const isValid = u64(RunOffset.msrData) <= 1n;
			if (isValid) log.migrationMsr = u64(RunOffset.msrData);
			view.setUint8(RunOffset.msrError, isValid ? 0 : 1);
		} else if (log.end === ExitReason.X86_RDMSR) {
			log.events.push(`rdmsr ${u32(RunOffset.msrIndex).toString(16)}`);
			view.setBigUint64(RunOffset.msrData, log.migrationMsr, true);
		} else {
			const port = view.getUint16(RunOffset.ioPort, true);
			log.events.push(`${view.getUint8(RunOffset.ioDirection) === 1 ? 'out' : 'in'} ${port.toString(16)}`);
			if (port === 0x3f8) log.console.push(view.getUint8(Number(u64(RunOffset.ioDataOffset))));
			if (port === EXIT_PORT) return log;
		}
	}
}

export const newLog = (): HostLog => ({ hypercalls: [], console: [], events: [], migrationMsr: 0n, end: 0 });

/** KVM_CAP_X86_USER_SPACE_MSR with reason FILTER, and a filter that denies the migration MSR. */
export function filterMigrationMsr(rig: Rig): void {
	rig.words[VmWord.msrExitMask] = 4;
	rig.words[VmWord.msrFilterCount] = 1;
	rig.words.set([3, 0x4b564d08, 1], VmWord.msrRanges);
}
