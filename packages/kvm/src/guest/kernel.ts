import type { KvmAbi } from '../abi/generation.js';
import type { Block, CodeFragment, GuestCpu } from '../vcpu/program.js';
import { bootParams, MemoryMap } from './boot-protocol.js';
import { clearMemoryBlocks } from './clear-memory.js';
import { bootParam } from './e820.js';
import { entryBlocks, smpBlocks } from './entry.js';
import { negotiationBlocks } from './negotiation.js';
import { LARGE_PAGE } from './page-tables.js';
import { setMemoryBlocks } from './set-memory.js';

/** First serial port's data register. */
const COM1 = 0x3f8;

/** What the kernel runs once it has booted. */
export interface Workload {
	readonly fragment: CodeFragment;
	/** Label where every vCPU starts. */
	readonly start: string;
}

export interface LinuxKernelOptions {
	/** Which generation of the guest patches the kernel has. It must be that of the host. */
	readonly abi: KvmAbi;
	/** By the name in the boot parameters: at most 32 ASCII characters. */
	readonly workloads: Readonly<Record<string, Workload>>;
}

/**
 * The kernel and its workloads, to be linked with firmware. See the package comment of `@cvm/kvm/guest` for what it does.
 *
 * Every vCPU jumps to the workload's start label with RDI = VA of the boot parameters, RSI = vCPU index, RDX = first VA
 * of this vCPU's slice of workload memory, RCX = its bytes (a multiple of 2 MiB), R8 = VA of a private page for its
 * state, RSP = its stack.
 */
export function linuxKernel(o: LinuxKernelOptions): CodeFragment[] {
	const blocks: Record<string, Block> = {
		...entryBlocks,
		...clearMemoryBlocks,
		...negotiationBlocks(o.abi),
		...smpBlocks,
		...setMemoryBlocks(o.abi),
		start_workload: (cpu) => {
			const workload = o.workloads[workloadName(cpu)];
			const cpus = cpu.loadU32(bootParam('cpus'));
			const bytes = cpu.loadNum(bootParam('ramBytes')) - MemoryMap.workload;
			const slice = Math.floor(bytes / cpus / LARGE_PAGE) * LARGE_PAGE;
			if (workload === undefined || slice <= 0) return cpu.jump('kernel_panic');
			const index = cpu.num('rsi');
			cpu.setNum('rdi', MemoryMap.bootParams);
			cpu.setNum('rdx', MemoryMap.workload + index * slice);
			cpu.setNum('rcx', slice);
			cpu.setNum('r8', MemoryMap.workloadState + index * 0x1000);
			return cpu.jump(workload.start);
		},
		console_putc: (cpu) => {
			cpu.setReg('rax', cpu.reg('rdi'));
			return cpu.out(COM1, 1, 'console_done');
		},
		console_done: (cpu) => cpu.ret(),
	};
	const kernel = { name: 'linux', base: MemoryMap.kernelText, blocks };
	const fragments = new Set(Object.values(o.workloads).map((w) => w.fragment));
	return [kernel, ...fragments];
}

function workloadName(cpu: GuestCpu): string {
	const field = bootParams.fields.workload;
	const text = new Uint8Array(field.size);
	cpu.load(MemoryMap.bootParams + field.offset, text);
	const end = text.indexOf(0);
	return String.fromCharCode(...text.subarray(0, end < 0 ? text.length : end));
}
