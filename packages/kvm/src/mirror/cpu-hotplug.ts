import type { MirrorTopology } from './topology.js';

/** Offsets in the 12-byte I/O block of CPU hotplug: QEMU docs/specs/acpi_cpu_hotplug. Some mean two things by direction. */
export const CpuHotplugOffset = {
	/** Write u32: CPU selector. */
	selector: 0,
	/** Read u32: command data 2. */
	data2: 0,
	/** Read u8: flags of the selected CPU. */
	flags: 4,
	/** Write u8: {@link CpuHotplugCommand}. */
	command: 5,
	/** Read and write u32: command data. */
	data: 8,
} as const;

/** Commands of the block. */
export const CpuHotplugCommand = { nextCpuWithEvent: 0, ostEvent: 1, ostStatus: 2, cpuId: 3 } as const;
/** A command of the block. */
export type CpuHotplugCommand = (typeof CpuHotplugCommand)[keyof typeof CpuHotplugCommand];

/** The register block by which a guest finds CPUs that came or go. There are never events here. */
export interface CpuHotplugBlock {
	/** @param size bytes, 1 to 4 */
	read(offset: number, size: number): number;
	write(offset: number, size: number, value: number): void;
}

const ENABLED = 1;
const ALL_ONES = 0xffff_ffff;

/**
 * The block of a machine. If there is any mirror vCPU, "next CPU with event" says −1 in command data 2, where 0 announces a block
 * that works: a guest then takes it that there is no CPU hotplug, and does not find the mirrors that way.
 */
export function createCpuHotplugBlock({ cpus, maxCpus, mirrorVcpus }: MirrorTopology): CpuHotplugBlock {
	let selector = 0;
	let command: number = CpuHotplugCommand.nextCpuWithEvent;
	const isSelected = (): boolean => selector < maxCpus;
	const word = (offset: number): number => {
		// An out-of-range selector reads as zeros, whatever the command.
		if (!isSelected()) return 0;
		if (offset === CpuHotplugOffset.data2) {
			return command === CpuHotplugCommand.nextCpuWithEvent && mirrorVcpus > 0 ? ALL_ONES : 0;
		}
		if (offset === CpuHotplugOffset.flags) return selector < cpus ? ENABLED : 0;
		if (offset !== CpuHotplugOffset.data) return 0;
		return command === CpuHotplugCommand.nextCpuWithEvent || command === CpuHotplugCommand.cpuId ? selector : 0;
	};
	return {
		read: (offset, size) => (size === 4 ? word(offset) : word(offset) % 2 ** (8 * size)),
		write: (offset, size, value) => {
			if (offset === CpuHotplugOffset.selector && size === 4) selector = value >>> 0;
			else if (offset === CpuHotplugOffset.command && isSelected() && value <= CpuHotplugCommand.cpuId) command = value;
		},
	};
}
