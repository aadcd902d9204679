import type { KvmAbi, LinuxRelease, Series } from '../abi/generation.js';
import { createKernel } from '../kernel.js';
import type { Block, CodeFragment, GuestCpu } from '../vcpu/program.js';
import { bootParams, KernelOffset, MemoryMap } from './boot-protocol.js';
import { clearMemoryBlocks } from './clear-memory.js';
import { bootParam } from './e820.js';
import { entryBlocks } from './entry.js';
import { AP_TRAMPOLINE, esBlocks } from './es-boot.js';
import { type KernelConfig, kernelBase } from './kernel-data.js';
import { kexecBlocks } from './kexec.js';
import { negotiationBlocks } from './negotiation.js';
import { LARGE_PAGE } from './page-tables.js';
import { consoleBlocks } from './printk.js';
import { setMemoryBlocks } from './set-memory.js';
import { smpBlocks, workloadState } from './smp.js';
import { vcBlocks } from './vc-handler.js';

/** What the kernel runs once it has booted. */
export interface Workload {
	readonly fragment: CodeFragment;
	/** Label where every vCPU starts. */
	readonly start: string;
}

export interface LinuxKernelOptions {
	/** Which generation of the guest patches the kernel has. It must be that of the host. */
	readonly abi: KvmAbi;
	/** The guest's own release: default 5.12 for v12, 6.10 for upstream. */
	readonly release?: LinuxRelease;
	/** A posting of the series before v12. Default: that of `abi`. */
	readonly series?: Series;
	/** By the name in the boot parameters: at most 32 ASCII characters. */
	readonly workloads: Readonly<Record<string, Workload>>;
	/** The kernel logs to the console what Linux does. Default false. */
	readonly printk?: boolean;
	/** The kernel maps in leaves of 1 GiB what it can, as Linux with `gbpages`. Default false. */
	readonly gbPages?: boolean;
	/**
	 * What the other vCPUs do while vCPU 0 of a v12 kernel resets page status before a kexec. Default `run`, as posted: a page
	 * that one of them shares after its range was reset stays on the host's list of shared pages.
	 */
	readonly othersDuringReset?: 'run' | 'stopped';
	/**
	 * How the reset of page status takes a RAM entry of E820. Default `as-posted`: from the entry's address as it stands, with
	 * pages counted by its size, so that one which does not begin on a page is refused by the host (−EINVAL, which nobody looks
	 * at) and keeps its status. `whole-pages`: the pages that lie wholly in the entry.
	 */
	readonly e820Walk?: 'as-posted' | 'whole-pages';
}

/**
 * The kernel and its workloads, to be linked with firmware. See the package comment of `@cvm/kvm/guest` for what it does.
 *
 * Every vCPU jumps to the workload's start label with RDI = VA of the boot parameters, RSI = vCPU index, RDX = first VA
 * of this vCPU's slice of workload memory, RCX = its bytes (a multiple of 2 MiB), R8 = VA of a private page for its
 * state, R9 = VA of `.bss..decrypted`, RSP = its stack.
 */
export function linuxKernel(o: LinuxKernelOptions): CodeFragment[] {
	const config: KernelConfig = {
		kernel: createKernel(o.abi, o.release, o.series),
		printk: o.printk === true,
		gbPages: o.gbPages === true,
		othersDuringReset: o.othersDuringReset ?? 'run',
		e820Walk: o.e820Walk ?? 'as-posted',
	};
	const blocks: Record<string, Block> = {
		...entryBlocks(config),
		...clearMemoryBlocks,
		...negotiationBlocks(config),
		...smpBlocks,
		...setMemoryBlocks(config),
		...consoleBlocks(config),
		...kexecBlocks(config),
		...esBlocks,
		...vcBlocks({ prefix: 'vc', hypercall: 'kvm' }),
		start_workload: (cpu) => {
			const workload = o.workloads[workloadName(cpu)];
			const cpus = cpu.loadU32(bootParam(cpu, 'cpus'));
			const bytes = cpu.loadNum(bootParam(cpu, 'ramBytes')) - MemoryMap.workload;
			const slice = Math.floor(bytes / cpus / LARGE_PAGE) * LARGE_PAGE;
			if (workload === undefined || slice <= 0) return cpu.jump('kernel_panic');
			const index = cpu.num('rsi');
			const base = kernelBase(cpu);
			cpu.setNum('rdi', base);
			cpu.setNum('rdx', MemoryMap.workload + index * slice);
			cpu.setNum('rcx', slice);
			cpu.setNum('r8', workloadState(base, index));
			cpu.setNum('r9', base + KernelOffset.bssDecrypted);
			return cpu.jump(workload.start);
		},
	};
	const kernel = { name: 'linux', base: MemoryMap.kernelText, blocks, at: { es_ap_trampoline: AP_TRAMPOLINE } };
	const fragments = new Set(Object.values(o.workloads).map((w) => w.fragment));
	return [kernel, ...fragments];
}

function workloadName(cpu: GuestCpu): string {
	const field = bootParams.fields.workload;
	const text = new Uint8Array(field.size);
	cpu.load(kernelBase(cpu) + field.offset, text);
	const end = text.indexOf(0);
	return String.fromCharCode(...text.subarray(0, end < 0 ? text.length : end));
}
