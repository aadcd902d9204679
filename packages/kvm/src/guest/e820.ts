import type { GuestCpu } from '../vcpu/program.js';
import { bootParams, E820_ENTRY_BYTES, E820_OFFSET } from './boot-protocol.js';
import { kernelBase } from './kernel-data.js';

/** One E820 entry, in bytes. */
export interface E820Entry {
	readonly addr: number;
	readonly size: number;
	readonly type: number;
}

type Field = Parameters<typeof bootParams.offsetOf>[0];

/** Virtual address of a field of the boot parameters, which stand where the kernel was loaded. */
export const bootParam = (cpu: GuestCpu, field: Field): number => kernelBase(cpu) + bootParams.offsetOf(field);

/** Entries in the E820 list. */
export const e820Count = (cpu: GuestCpu): number => cpu.loadU32(bootParam(cpu, 'e820Count'));

/** Entry number `index` of the E820 list. */
export function e820At(cpu: GuestCpu, index: number): E820Entry {
	const at = kernelBase(cpu) + E820_OFFSET + E820_ENTRY_BYTES * index;
	return { addr: cpu.loadNum(at), size: cpu.loadNum(at + 8), type: cpu.loadU32(at + 16) };
}
