import { bytes, layout, PAGE_SIZE, reserved, u16, u32, u64 } from '@cvm/layout';
import { PublishedGeometry } from '../geometry.js';
import { type Allocation, EfiMemoryType } from './memory-map.js';

/** EFI_HOB_MEMORY_ALLOCATION (PI 1.7 vol. 3 §5.4). */
export const memoryAllocationHob = layout('EFI_HOB_MEMORY_ALLOCATION', 48, {
	/** {@link HobType.memoryAllocation}. */
	hobType: u16(0),
	/** Bytes of this HOB. */
	hobLength: u16(2),
	pad: reserved(4, 4),
	/** GUID of the allocation; zero if it has none. */
	name: bytes(8, 16),
	memoryBaseAddress: u64(24),
	memoryLength: u64(32),
	/** {@link EfiMemoryType}. */
	memoryType: u32(40),
	pad2: reserved(44, 4),
});
/** EFI_HOB_GENERIC_HEADER that ends the list. */
const endOfHobList = layout('EFI_HOB_END', 8, { hobType: u16(0), hobLength: u16(2), pad: reserved(4, 4) });
export const HobType = { memoryAllocation: 2, endOfList: 0xffff } as const;

/**
 * What ConfidentialMigrationPei (FILE_GUID a747792e-71a1-4c24-84a9-a76a0a279878) reserves: mailbox and entry page, as runtime data
 * (edk2 branch sev-mirror2-patches, OvmfPkg/AmdSev/ConfidentialMigration).
 */
export const HANDLER_HOBS: readonly Allocation[] = [
	{
		name: 'mailbox',
		start: PublishedGeometry.mailbox,
		bytes: PublishedGeometry.mailboxBytes,
		type: EfiMemoryType.runtimeServicesData,
	},
	{
		name: 'entry page',
		start: PublishedGeometry.entry,
		bytes: PublishedGeometry.entryBytes,
		type: EfiMemoryType.runtimeServicesData,
	},
];

/** A HOB list of memory allocations, with its end. */
export function encodeHobs(allocations: readonly Allocation[]): Uint8Array {
	const { size } = memoryAllocationHob;
	const out = new Uint8Array(allocations.length * size + endOfHobList.size);
	allocations.forEach(({ start, bytes: length, type }, i) => {
		memoryAllocationHob.encodeInto(out.subarray(i * size, (i + 1) * size), {
			hobType: HobType.memoryAllocation,
			hobLength: size,
			name: new Uint8Array(16),
			memoryBaseAddress: BigInt(start),
			memoryLength: BigInt(length),
			memoryType: type,
		});
	});
	endOfHobList.encodeInto(out.subarray(allocations.length * size), {
		hobType: HobType.endOfList,
		hobLength: endOfHobList.size,
	});
	return out;
}

/** The memory allocations of a HOB list, up to its end or to the first HOB that does not fit. */
export function readHobs(list: Uint8Array): { start: number; bytes: number; type: number }[] {
	const out: { start: number; bytes: number; type: number }[] = [];
	for (let at = 0; at + endOfHobList.size <= list.length; ) {
		const { hobType, hobLength } = endOfHobList.decodePrefix(list.subarray(at));
		if (hobType === HobType.endOfList || hobLength < endOfHobList.size || at + hobLength > list.length) break;
		if (hobType === HobType.memoryAllocation && hobLength === memoryAllocationHob.size) {
			const hob = memoryAllocationHob.decodePrefix(list.subarray(at));
			out.push({
				start: Number(hob.memoryBaseAddress),
				bytes: Number(hob.memoryLength),
				type: hob.memoryType,
			});
		}
		at += hobLength;
	}
	return out.filter(({ bytes: length }) => length % PAGE_SIZE === 0);
}
