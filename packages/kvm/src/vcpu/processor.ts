import type { RandomSource } from '@cvm/crypto';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import type { VmState } from '../vm/state.js';
import { Register } from '../vm/vcpu-state.js';
import { createExceptions } from './exceptions.js';
import { type BlockCpu, createGuestCpu, Ending } from './guest-cpu.js';
import { createGuestMemory, type GuestMemory } from './guest-memory.js';
import { createMmu } from './mmu.js';
import type { GuestProgram } from './program.js';
import { loadFlatCode } from './segments.js';
import { hex, TripleFault } from './triple-fault.js';

/** The processor of one vCPU: it runs blocks over one register file. What their last instructions do is not its business. */
export interface Processor {
	readonly cpu: BlockCpu;
	readonly memory: GuestMemory;
	/** The linear address of the next block: CS.base + RIP. */
	rip(): number;
	/** Runs the block at RIP, which stays there. @throws TripleFault for an exception */
	runBlock(): void;
	/** Goes on at a linear address: in CS if it lies there, else with a flat CS. */
	jump(to: number): void;
	/** Enters the guest's handler of an exception; `nrip`: see `GuestCpu`. @throws TripleFault if there is none */
	deliver(fault: TripleFault, nrip?: number): void;
	/** Forgets all translations. */
	flushTlb(): void;
}

export interface ProcessorParts {
	readonly vm: VmState;
	readonly controller: MemoryController;
	readonly program: GuestProgram;
	readonly registers: BigUint64Array;
	readonly xsave: Uint8Array;
	/** What RDRAND draws from. */
	readonly random: RandomSource;
	/** Flushes the TLBs of all vCPUs. */
	flushAllTlbs(): void;
}

const CS = Register.cs;

export function createProcessor(parts: ProcessorParts): Processor {
	const { vm, controller, program, registers } = parts;
	const halves = new Uint32Array(registers.buffer, registers.byteOffset, registers.length * 2);
	const mmu = createMmu(vm, controller, registers);
	const memory = createGuestMemory(vm, controller, mmu);
	const cpu = createGuestCpu({
		registers,
		memory,
		program,
		xsave: parts.xsave,
		random: parts.random,
		fixesHypercalls: () => vm.fixesHypercalls,
		flushOwnTlb: mmu.flush,
		flushAllTlbs: parts.flushAllTlbs,
	});
	const word = (index: number): number => (halves[2 * index] ?? 0) + (halves[2 * index + 1] ?? 0) * 2 ** 32;
	const rip = (): number => word(Register.csBase) + word(Register.rip);

	const jump = (to: number): void => {
		let at = to;
		const base = word(Register.csBase);
		if (base !== 0) {
			const limit = halves[2 * CS + 1] ?? 0;
			if (to >= base && to - base <= limit) at = to - base;
			else loadFlatCode(registers, BigInt((halves[2 * CS] ?? 0) & 0xffff));
		}
		halves[2 * Register.rip] = at;
		halves[2 * Register.rip + 1] = at / 2 ** 32;
	};

	const exceptions = createExceptions({ vm, registers, memory, rip, jump });

	return {
		cpu,
		memory,
		rip,
		runBlock: () => {
			const at = rip();
			const block = program.block(at);
			if (block === undefined) throw new TripleFault('code', `RIP ${hex(at)}: expected a block, got none`);
			cpu.begin();
			block(cpu);
		},
		jump,
		// A fault in the middle of a block has no instruction after it: the block would be run again.
		deliver: (fault, nrip) => exceptions.deliver(fault, nrip ?? (cpu.ending === Ending.none ? rip() : cpu.to)),
		flushTlb: mmu.flush,
	};
}
