import { layout, u32, u64 } from '@cvm/layout';

const entry = layout('e820_entry', 20, { addr: u64(0), size: u64(8), type: u32(16) });

/** One range of the machine's address space. Types (ACPI 6.5 §15): 1 RAM, 2 reserved, 3 ACPI, 4 NVS. */
export interface E820Range {
	readonly addr: number;
	readonly size: number;
	readonly type: number;
}

/** The contents of the fw_cfg file `etc/e820`. */
export function e820File(ranges: readonly E820Range[]): Uint8Array {
	const out = new Uint8Array(ranges.length * entry.size);
	ranges.forEach(({ addr, size, type }, i) => {
		entry.encodeInto(out.subarray(i * entry.size), { addr: BigInt(addr), size: BigInt(size), type });
	});
	return out;
}
