/** Where a part of a block lies in the guest's physical address space. */
export interface PhysicalRange {
	/** Byte of the block. */
	readonly start: number;
	readonly length: number;
	/** Guest-physical address. */
	readonly address: number;
}

const GIB = 2 ** 30;
const FOUR_GIB = 4 * GIB;

/**
 * How much of RAM lies below 4 GiB on a machine with its default settings; undefined for machines not known here.
 * QEMU 7.2 hw/i386/pc_piix.c `pc_init1`, pc_q35.c `pc_q35_init`, microvm.c `microvm_memory_init` (since 5.1).
 */
function below4g(machineType: string, ram: number): number | undefined {
	if (/^(pc-i440fx|pc|isapc)\b/.test(machineType) && !machineType.startsWith('pc-q35')) {
		// Machines up to 1.7, and isapc, do not move the split to a whole GiB.
		const aligned = machineType !== 'isapc' && !/^pc-(i440fx-)?(0\.|1\.)/.test(machineType);
		return ram >= 0xe0000000 ? (aligned ? 0xc0000000 : 0xe0000000) : ram;
	}
	if (/^(pc-q35|q35)\b/.test(machineType)) return ram >= 0xb0000000 ? 0x80000000 : ram;
	if (/^microvm\b/.test(machineType)) return Math.min(ram, 0xc0000000);
	return undefined;
}

/**
 * Where main memory lies: all of it from 0, or a part below 4 GiB and the rest from 4 GiB on. The stream does not say; this
 * is the machine's default, which `max-ram-below-4g` changes: give `split` then.
 *
 * UNCERTAIN(QEMU 7.1-10.0 hw/i386/pc.c `pc_memory_init`): on AMD hosts, guests of close to 1 TiB and more have the upper part
 * at 1 TiB, which depends on the CPU model; not modelled.
 *
 * @param ram bytes of the block
 * @param split bytes below 4 GiB, where known
 * @returns undefined for a machine not known here, unless `split` is given or there is little RAM
 */
export function memoryMap(machineType: string, ram: number, split?: number): PhysicalRange[] | undefined {
	// Half of the 32-bit space is RAM on every machine.
	const below = split ?? below4g(machineType, ram) ?? (ram <= 2 * GIB ? ram : undefined);
	if (below === undefined) return undefined;
	if (below >= ram) return [{ start: 0, length: ram, address: 0 }];
	return [
		{ start: 0, length: below, address: 0 },
		{ start: below, length: ram - below, address: FOUR_GIB },
	];
}
