import type { KvmAbi } from '../src/abi/generation.js';
import {
	AP_MAILBOX_MAGIC,
	type BootParams,
	E820Type,
	EfiStatus,
	encodeBootParams,
	GET_VARIABLE_DATA_OFFSET,
	type LinuxKernelOptions,
	linuxKernel,
	MemoryMap,
	type Workload,
} from '../src/guest/index.js';
import { type Block, type CodeFragment, type GuestProgram, link } from '../src/vcpu/index.js';
import {
	createRig,
	filterMigrationMsr,
	guestCpuid,
	type HostLog,
	newLog,
	type Rig,
	type RigOptions,
	runHost,
} from './guest-rig.js';

/** Bytes of the guest's RAM: the workload gets the last 8 MiB. */
export const RAM = 40 << 20;

/** The firmware's variable SevLiveMigrationEnabled; absent without `value`. */
export interface KernelRigOptions extends Omit<RigOptions, 'program'> {
	readonly params?: Partial<BootParams>;
	readonly variable?: { readonly status: bigint; readonly value: number };
	readonly features?: number;
	/** Base of KVM's CPUID leaves. */
	readonly base?: number;
	readonly workload?: Readonly<Record<string, Block>>;
	/** How the kernel was built. */
	readonly kernel?: Partial<
		Pick<LinuxKernelOptions, 'release' | 'series' | 'printk' | 'gbPages' | 'othersDuringReset' | 'e820Walk'>
	>;
	/** The firmware takes vCPUs back. */
	readonly apReset?: boolean;
}

export const E820 = [
	{ addr: 0, size: 0x9f000, type: E820Type.ram },
	{ addr: 0x100000, size: MemoryMap.firmware - 0x100000, type: E820Type.ram },
	{ addr: MemoryMap.firmware, size: MemoryMap.firmwareEnd - MemoryMap.firmware, type: E820Type.reserved },
	{ addr: MemoryMap.firmwareEnd, size: RAM - MemoryMap.firmwareEnd, type: E820Type.ram },
] as const;

/** Firmware as small as it can be: boot parameters, GetVariable, the mailbox loop. */
export function firmware(
	params: Omit<BootParams, 'getVariable'>,
	variable: { status: bigint; value: number },
	takesBack: boolean,
): CodeFragment {
	return {
		name: 'firmware',
		base: MemoryMap.firmwareText,
		at: { reset: MemoryMap.resetVector },
		blocks: {
			reset: (cpu) => {
				cpu.setNum('rax', 1);
				cpu.setNum('rcx', 0);
				return cpu.cpuid('fw_identified');
			},
			fw_identified: (cpu) => {
				if (cpu.num('rbx') >>> 24 !== 0) return cpu.jump('fw_mailbox');
				const getVariable = params.efi ? cpu.address('fw_get_variable') : 0;
				cpu.fill(MemoryMap.bootParams, 0x1000, 0);
				const apReset = takesBack ? cpu.address('fw_ap_reset') : 0;
				cpu.store(MemoryMap.bootParams, encodeBootParams({ getVariable, apReset, ...params }));
				cpu.storeU64(MemoryMap.apMailbox, 0n);
				cpu.setNum('rsi', MemoryMap.bootParams);
				return cpu.jump('kernel_entry');
			},
			fw_mailbox: (cpu) => {
				if (cpu.loadU64(MemoryMap.apMailbox) !== AP_MAILBOX_MAGIC) return cpu.hlt('fw_mailbox');
				return cpu.jump(cpu.loadNum(MemoryMap.apMailbox + 8));
			},
			fw_get_variable: (cpu) => {
				cpu.storeU8(cpu.loadNum(cpu.num('rsp') + GET_VARIABLE_DATA_OFFSET), variable.value);
				cpu.setReg('rax', variable.status);
				return cpu.ret();
			},
			// First of all away from the kernel's page tables, which are another kernel's memory from now on.
			fw_ap_reset: (cpu) => {
				cpu.cr0 &= ~(1n << 31n);
				return cpu.jump('fw_mailbox');
			},
		},
	};
}

export const stop: Block = (cpu) => cpu.out(0xf4, 1, 'test_end');

function kernelProgram(abi: KvmAbi, o: KernelRigOptions): GuestProgram {
	const params: Omit<BootParams, 'getVariable'> = {
		ramBytes: RAM,
		seed: 1n,
		stepLimit: 0n,
		cpus: o.vcpus ?? 1,
		efi: false,
		workload: 'test',
		e820: E820,
		...o.params,
	};
	const blocks = { test_start: stop, ...o.workload, test_end: (cpu) => cpu.hlt('test_end') } satisfies Record<
		string,
		Block
	>;
	const fragment: CodeFragment = { name: 'test', base: MemoryMap.workloadText, blocks };
	const workloads: Record<string, Workload> = { test: { fragment, start: 'test_start' } };
	const variable = o.variable ?? { status: EfiStatus.notFound, value: 0 };
	return link(firmware(params, variable, o.apReset !== false), ...linuxKernel({ abi, workloads, ...o.kernel }));
}

/** A rig whose guest boots the kernel, behind a host that offers live migration. */
export function createKernelRig(abi: KvmAbi, o: KernelRigOptions = {}): Rig {
	const features = o.features ?? (abi === 'v12' ? 1 << 16 : (1 << 16) | (1 << 17));
	const cpuid = guestCpuid({ sev: o.sev !== false, features, ...(o.base === undefined ? {} : { base: o.base }) });
	const rig = createRig({ ramBytes: RAM, cpuid, ...o, abi, program: kernelProgram(abi, o) });
	filterMigrationMsr(rig);
	return rig;
}

/** Several vCPUs on one thread: each runs some blocks in its turn. */
export interface SmpRig {
	readonly rig: Rig;
	/** One for all vCPUs: `events` are in the order in which the host saw them. */
	readonly log: HostLog;
	/** Runs `blocks` blocks of a vCPU, or up to where it ended: whether it has. */
	turn(vcpu: number, blocks: number): boolean;
	/** Lets all run until each has ended. @throws Error if they do not */
	finish(): void;
}

export function createSmpRig(abi: KvmAbi, o: KernelRigOptions & { readonly vcpus: number }): SmpRig {
	let left = 0;
	let current = 0;
	const rig: Rig = createKernelRig(abi, {
		...o,
		afterBlock: (rip) => {
			o.afterBlock?.(rip);
			if (--left === 0) rig.kick(current);
		},
	});
	const log = newLog();
	const ended = new Set<number>();
	const turn = (vcpu: number, blocks: number): boolean => {
		if (ended.has(vcpu)) return true;
		left = blocks;
		current = vcpu;
		if (runHost(rig, log, vcpu).end >= 0) ended.add(vcpu);
		rig.unkick(vcpu);
		return ended.has(vcpu);
	};
	return {
		rig,
		log,
		turn,
		finish: () => {
			for (let i = 0; i < 200000; i++) {
				for (let vcpu = 0; vcpu < o.vcpus; vcpu++) turn(vcpu, 1 + ((i + vcpu) % 3));
				if (ended.size === o.vcpus) return;
			}
			throw new Error(`vCPUs: expected all to end, got ${[...ended]}`);
		},
	};
}
