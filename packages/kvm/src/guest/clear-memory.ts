import { PAGE_SIZE } from '@cvm/layout';
import type { Block, GuestCpu } from '../vcpu/program.js';
import { E820Type, KernelOffset, MemoryMap } from './boot-protocol.js';
import { e820At, e820Count } from './e820.js';
import { kernelBase } from './kernel-data.js';

/** Memory that is not cleared here: the firmware's, what the kernel has already filled, and what is not private. */
function kept(cpu: GuestCpu): readonly (readonly [number, number])[] {
	const base = kernelBase(cpu);
	const own = [
		[base, base + KernelOffset.pageTablesEnd],
		[base + KernelOffset.bssDecrypted, base + KernelOffset.end],
	] as const;
	const firmware = [MemoryMap.firmware, MemoryMap.firmwareEnd] as const;
	// In the order of their addresses, for the walk below.
	return base < MemoryMap.firmware ? [...own, firmware] : [firmware, ...own];
}
/** What one block clears. */
const CHUNK = 0x80000;

/**
 * `clear_memory` → `memory_cleared`: gives every byte of RAM a defined value. Under SEV, memory that was never written
 * through the private mapping reads as noise, which differs from run to run. R12 = E820 entry, R13 = cursor.
 */
export const clearMemoryBlocks: Record<string, Block> = {
	clear_memory: (cpu) => {
		cpu.setNum('r12', 0);
		cpu.setNum('r13', 0);
		return cpu.jump('clear_chunk');
	},
	clear_chunk: (cpu) => {
		const index = cpu.num('r12');
		if (index >= e820Count(cpu)) return cpu.jump('clear_bss_decrypted');
		const entry = e820At(cpu, index);
		const end = entry.addr + entry.size - ((entry.addr + entry.size) % PAGE_SIZE);
		const from = Math.max(cpu.num('r13'), Math.ceil(entry.addr / PAGE_SIZE) * PAGE_SIZE);
		if (entry.type !== E820Type.ram || from >= end) {
			cpu.setNum('r12', index + 1);
			cpu.setNum('r13', 0);
			return cpu.jump('clear_chunk');
		}
		let to = Math.min(end, from - (from % CHUNK) + CHUNK);
		for (const [keepFrom, keepTo] of kept(cpu)) {
			if (from >= keepFrom && from < keepTo) {
				cpu.setNum('r13', keepTo);
				return cpu.jump('clear_chunk');
			}
			if (from < keepFrom) to = Math.min(to, keepFrom);
		}
		cpu.fill(from, to - from, 0);
		cpu.setNum('r13', to);
		return cpu.jump('clear_chunk');
	},
	clear_bss_decrypted: (cpu) => {
		const from = KernelOffset.bssDecrypted;
		cpu.fill(kernelBase(cpu) + from, KernelOffset.end - from, 0);
		return cpu.jump('memory_cleared');
	},
};
