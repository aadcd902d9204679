import { E820Type, e820Entry, encodeBootParams, MAX_E820, MemoryMap } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu, RegName } from '@cvm/kvm/vcpu';
import { firmwareAllocations } from '../uefi/firmware-layout.js';
import { efiMemoryDescriptor, encodeMemoryMap, memoryMapOf } from '../uefi/memory-map.js';
import type { FirmwareOptions } from './options.js';
import { recordableRam } from './ram-map.js';
import { GET_VARIABLE } from './variables.js';
import { CODE_BASE, FirmwareMemory, fileContents, isSevEs, VARIABLE_FLASH, workWord } from './work-area.js';

export interface MemoryEntry {
	readonly addr: number;
	readonly size: number;
	readonly type: number;
}

const END_OF_32_BIT = 2 ** 32;
/** No physical address is larger; a host that claims otherwise is not believed. */
const MAX_ADDRESS = 2 ** 52;
const WORKLOAD_CHARACTERS = 32;

/** The host's map; a host without one gets RAM from 0, as its size says. */
export function hostMap(cpu: GuestCpu, ramBytes: number): MemoryEntry[] {
	const file = fileContents(cpu, 'etc/e820');
	const count = Math.floor(file.length / e820Entry.size);
	if (count === 0) return [{ addr: 0, size: ramBytes, type: E820Type.ram }];
	const entries = Array.from({ length: count }, (_, i) => {
		const { addr, size, type } = e820Entry.decodePrefix(file.subarray(i * e820Entry.size));
		return { addr: Number(addr), size: Number(size), type };
	});
	return entries.filter(({ addr, size }) => addr + size <= MAX_ADDRESS);
}

/** Takes `[from, to)` out of an entry. */
function without({ addr, size, type }: MemoryEntry, from: number, to: number): MemoryEntry[] {
	const end = addr + size;
	if (end <= from || addr >= to) return [{ addr, size, type }];
	const before = { addr, size: Math.max(0, from - addr), type };
	const after = { addr: to, size: Math.max(0, end - to), type };
	return [before, after].filter((e) => e.size > 0);
}

/**
 * What the kernel may use: the host's map less what the firmware keeps. The firmware's area is reserved, so that a kernel
 * that resets the status of all RAM leaves the pages shared by the firmware alone.
 */
function kernelMap(cpu: GuestCpu, ramBytes: number): MemoryEntry[] {
	const { firmware, firmwareEnd } = MemoryMap;
	const flash = VARIABLE_FLASH.base;
	const own = [
		{ addr: firmware, size: firmwareEnd - firmware, type: E820Type.reserved },
		{ addr: flash, size: END_OF_32_BIT - flash, type: E820Type.reserved },
	];
	const rest = hostMap(cpu, ramBytes)
		.flatMap((entry) => without(entry, firmware, firmwareEnd))
		.flatMap((entry) => without(entry, flash, END_OF_32_BIT));
	return [...own, ...rest].sort((a, b) => a.addr - b.addr).slice(0, MAX_E820);
}

/** GetMemoryMap, as the OS finds it at ExitBootServices: a u64 count, then the descriptors. */
function storeMemoryMap(cpu: GuestCpu, ramBytes: number, { helper = 'none', handler }: FirmwareOptions): void {
	const { firmware, firmwareEnd } = MemoryMap;
	const places = handler?.places;
	const range = { start: firmware, end: firmwareEnd };
	const allocations = firmwareAllocations({ helper, firmware: range, ...(places && { places }) });
	const { memoryMap, memoryMapEnd } = FirmwareMemory;
	const room = Math.floor((memoryMapEnd - memoryMap - 8) / efiMemoryDescriptor.size);
	const map = memoryMapOf(recordableRam(hostMap(cpu, ramBytes)), allocations).slice(0, room);
	cpu.storeNum(memoryMap, map.length);
	cpu.store(memoryMap + 8, encodeMemoryMap(map));
}

/** Decimal digits at the start of a file, modulo 2^64; 0 if there are none. */
function decimal(file: Uint8Array): bigint {
	let value = 0n;
	for (const byte of file.subarray(0, 40)) {
		if (byte < 0x30 || byte > 0x39) break;
		value = BigInt.asUintN(64, value * 10n + BigInt(byte - 0x30));
	}
	return value;
}

/** Printable characters at the start of a file, at most as many as fit. */
function word(file: Uint8Array): string {
	const end = file.findIndex((byte) => byte <= 0x20 || byte > 0x7e);
	return String.fromCharCode(...file.subarray(0, end < 0 ? file.length : end).subarray(0, WORKLOAD_CHARACTERS));
}

const REGISTERS: readonly RegName[] = [
	...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
	...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
];

const bootBlocks = (options: FirmwareOptions): Record<string, Block> => ({
	'fw.boot': (cpu) => {
		const ramBytes = Math.min(Number(workWord(cpu, 'ramBytes')), MAX_ADDRESS);
		const parameters = encodeBootParams({
			ramBytes,
			seed: decimal(fileContents(cpu, 'opt/cvm/seed')),
			stepLimit: decimal(fileContents(cpu, 'opt/cvm/steps')),
			cpus: Number(workWord(cpu, 'cpus')),
			kexecs: Number(BigInt.asUintN(8, decimal(fileContents(cpu, 'opt/cvm/kexecs')))),
			efi: true,
			helper: workWord(cpu, 'helper') === 1n,
			workload: word(fileContents(cpu, 'opt/cvm/workload')),
			getVariable: cpu.address(GET_VARIABLE),
			apReset: cpu.address(isSevEs(cpu) ? 'fw.mp.reset' : 'fw.ap.reset'),
			e820: kernelMap(cpu, ramBytes),
		});
		if ((options.helper ?? 'none') !== 'none') storeMemoryMap(cpu, ramBytes, options);
		cpu.fill(MemoryMap.bootParams, 0x1000, 0);
		cpu.store(MemoryMap.bootParams, parameters);
		return cpu.jump('fw.boot.leave');
	},
	'fw.boot.leave': (cpu) => {
		const { scratch, scratchEnd, stack, stackTop, workArea } = FirmwareMemory;
		cpu.fill(stack, stackTop - stack, 0);
		cpu.fill(scratch, scratchEnd - scratch, 0);
		cpu.fill(workArea, 0x1000, 0);
		for (const name of REGISTERS) cpu.setReg(name, 0n);
		cpu.setNum('rsi', MemoryMap.bootParams);
		return cpu.jump('kernel_entry');
	},
});

/** Writes the boot parameters, clears what the firmware used and jumps to `kernel_entry` with RSI at the parameters. */
export const bootFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-boot',
	base: CODE_BASE + 0x3000,
	blocks: bootBlocks(options),
});
