import { layout, PAGE_SIZE, reserved, u32, u64 } from '@cvm/layout';

/** EFI_MEMORY_TYPE (UEFI 2.10 §7.2). */
export const EfiMemoryType = {
	reserved: 0,
	loaderCode: 1,
	loaderData: 2,
	bootServicesCode: 3,
	bootServicesData: 4,
	runtimeServicesCode: 5,
	runtimeServicesData: 6,
	conventional: 7,
	unusable: 8,
	acpiReclaim: 9,
	acpiNvs: 10,
} as const;
export type EfiMemoryType = (typeof EfiMemoryType)[keyof typeof EfiMemoryType];

const FREE_TYPES: readonly number[] = [
	EfiMemoryType.loaderCode,
	EfiMemoryType.loaderData,
	EfiMemoryType.bootServicesCode,
	EfiMemoryType.bootServicesData,
	EfiMemoryType.conventional,
];
/** Whether an OS may use memory of this type once it called ExitBootServices. */
export const isFreeToOs = (type: number): boolean => FREE_TYPES.includes(type);

/** EFI_MEMORY_DESCRIPTOR, version 1. `physicalStart` is the address of whole 4 KiB pages. */
export const efiMemoryDescriptor = layout('EFI_MEMORY_DESCRIPTOR', 40, {
	type: u32(0),
	pad: reserved(4, 4),
	physicalStart: u64(8),
	virtualStart: u64(16),
	numberOfPages: u64(24),
	attribute: u64(32),
});

/** Some memory of one type, for one purpose. Bytes; whole pages. */
export interface Allocation {
	readonly name: string;
	readonly start: number;
	readonly bytes: number;
	readonly type: EfiMemoryType;
}

/** A range of the memory map. `end` is exclusive. */
export interface TypedRange {
	readonly start: number;
	readonly end: number;
	readonly type: EfiMemoryType;
}

/**
 * The memory map: RAM ranges, conventional but for what is allocated in them; allocations outside of RAM stand alone. Ascending, and
 * neighbours of one type are one range.
 */
export function memoryMapOf(
	ram: readonly { readonly start: number; readonly end: number }[],
	allocations: readonly Allocation[],
): TypedRange[] {
	let ranges: TypedRange[] = ram.map(({ start, end }) => ({ start, end, type: EfiMemoryType.conventional }));
	for (const { start, bytes, type } of allocations) {
		const end = start + bytes;
		const cut = (range: TypedRange): TypedRange[] =>
			[
				{ ...range, end: Math.min(range.end, start) },
				{ ...range, start: Math.max(range.start, end) },
			].filter((part) => part.start < part.end);
		ranges = [...ranges.flatMap(cut), { start, end, type }];
	}
	ranges.sort((a, b) => a.start - b.start);
	const out: TypedRange[] = [];
	for (const range of ranges) {
		const last = out.at(-1);
		if (last?.end === range.start && last.type === range.type) out[out.length - 1] = { ...last, end: range.end };
		else out.push(range);
	}
	return out;
}

/** GetMemoryMap's bytes. */
export function encodeMemoryMap(map: readonly TypedRange[]): Uint8Array {
	const out = new Uint8Array(map.length * efiMemoryDescriptor.size);
	map.forEach(({ start, end, type }, i) => {
		efiMemoryDescriptor.encodeInto(out.subarray(i * efiMemoryDescriptor.size), {
			type,
			physicalStart: BigInt(start),
			numberOfPages: BigInt((end - start) / PAGE_SIZE),
			// EFI_MEMORY_WB, and EFI_MEMORY_RUNTIME where SetVirtualAddressMap must map it.
			attribute: 8n | (isRuntime(type) ? 1n << 63n : 0n),
		});
	});
	return out;
}
const isRuntime = (type: number): boolean =>
	type === EfiMemoryType.runtimeServicesCode || type === EfiMemoryType.runtimeServicesData;

/** The same map in types of E820, as a boot loader hands it on (ACPI 6.5 §15): 1 RAM, 2 reserved, 3 ACPI, 4 NVS. */
export function e820Of(map: readonly TypedRange[]): { addr: number; size: number; type: number }[] {
	const out: { addr: number; size: number; type: number }[] = [];
	for (const { start, end, type } of map) {
		const kind = isFreeToOs(type) ? 1 : type === EfiMemoryType.acpiReclaim ? 3 : type === EfiMemoryType.acpiNvs ? 4 : 2;
		const last = out.at(-1);
		if (last !== undefined && last.type === kind && last.addr + last.size === start) last.size += end - start;
		else out.push({ addr: start, size: end - start, type: kind });
	}
	return out;
}
