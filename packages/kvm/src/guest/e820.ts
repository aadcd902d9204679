import type { GuestCpu } from '../vcpu/program.js';
import { bootParams, E820_ENTRY_BYTES, E820_OFFSET, MemoryMap } from './boot-protocol.js';

/** One E820 entry, in bytes. */
export interface E820Entry {
	readonly addr: number;
	readonly size: number;
	readonly type: number;
}

/** Virtual address of a field of the boot parameters. */
export const bootParam = (field: Parameters<typeof bootParams.offsetOf>[0]): number =>
	MemoryMap.bootParams + bootParams.offsetOf(field);

/** Entries in the E820 list. */
export const e820Count = (cpu: GuestCpu): number => cpu.loadU32(bootParam('e820Count'));

/** Entry number `index` of the E820 list. */
export function e820At(cpu: GuestCpu, index: number): E820Entry {
	const at = MemoryMap.bootParams + E820_OFFSET + E820_ENTRY_BYTES * index;
	return { addr: cpu.loadNum(at), size: cpu.loadNum(at + 8), type: cpu.loadU32(at + 16) };
}
