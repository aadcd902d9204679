import { guidFromBytes } from '@cvm/layout';
import { OwnerError } from './error.js';

/** GUIDs in the table at the end of an OVMF image (edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`). */
const FOOTER = '96b582de-1fb2-45f7-baea-a366c55a082d';
const RESET_BLOCK = '00f771de-1a7e-4fcb-890e-68c77e2fb44e';
const HASH_BLOCK = '7255371f-3a3b-4b04-927b-1da6efa8d454';
/** Where the table ends, counted from the end of an image. */
const TABLE_END = 32;
/** Length and GUID, behind the data of each entry. */
const OVERHEAD = 18;

/** What an OVMF image says about SEV launches, as far as the launch digest depends on it. */
export interface SevBlocks {
	/** Guest-physical address where application processors of an SEV-ES guest start. */
	readonly apResetVector?: number;
	/** Where QEMU places the hashes of kernel, initrd and command line. Absent if the image does not support them. */
	readonly hashTable?: { readonly base: number; readonly size: number };
}

/**
 * Reads the GUIDed table of an OVMF image, or of its last 4 KiB. An image without a table has no blocks.
 *
 * @throws OwnerError `firmware` if the table is broken
 */
export function readSevBlocks(image: Uint8Array): SevBlocks {
	const reset = wordsOf(image, RESET_BLOCK, 1);
	const hashes = wordsOf(image, HASH_BLOCK, 2);
	const [base = 0, size = 0] = hashes ?? [];
	return {
		...(reset?.[0] !== undefined && { apResetVector: reset[0] }),
		// A base of 0 says that this build does not support it.
		...(base !== 0 && { hashTable: { base, size } }),
	};
}

function wordsOf(image: Uint8Array, guid: string, count: number): number[] | undefined {
	const data = findEntry(image, guid);
	if (data === undefined) return undefined;
	if (data.length < 4 * count) {
		throw new OwnerError('firmware', `firmware table, ${guid}: expected ${4 * count} bytes, got ${data.length}`);
	}
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	return Array.from({ length: count }, (_, i) => view.getUint32(4 * i, true));
}

/** The data of the first entry with a GUID. Entries are visited from the end of the image, as QEMU does. */
function findEntry(image: Uint8Array, guid: string): Uint8Array | undefined {
	let end = image.length - TABLE_END;
	if (end < OVERHEAD || guidAt(image, end) !== FOOTER) return undefined;
	const start = end - lengthAt(image, end);
	if (start < 0 || start > end - OVERHEAD) throw brokenAt(end - OVERHEAD);
	for (end -= OVERHEAD; end - start >= OVERHEAD; ) {
		const next = end - lengthAt(image, end);
		if (next < start || next > end - OVERHEAD) throw brokenAt(end - OVERHEAD);
		if (guidAt(image, end) === guid) return image.subarray(next, end - OVERHEAD);
		end = next;
	}
	return undefined;
}

const guidAt = (image: Uint8Array, end: number): string => guidFromBytes(image.subarray(end - 16, end));
const lengthAt = (image: Uint8Array, end: number): number =>
	(image[end - OVERHEAD] ?? 0) | ((image[end - OVERHEAD + 1] ?? 0) << 8);
const brokenAt = (offset: number): OwnerError =>
	new OwnerError('firmware', `firmware table, length at 0x${offset.toString(16)}: expected one that fits the table`);
