import { type BulkMemory, openBulkMemory } from './memory.js';

/** Room for counter mode, 128 KiB, the engine of `@cvm/sev-hw`, 132 KiB, and more like them. What is not used costs nothing. */
const SIZE = 0x100000;
const ALIGNMENT = 64;

let free = 0;

/**
 * The one bulk memory of the thread. Its users keep a place in it each, whose content counts until they return: bulk
 * work runs to its end. Data that stands in it need not be copied. One, because each memory of WebAssembly sets gigabytes
 * of addresses aside.
 */
export const bulkMemory: BulkMemory = openBulkMemory(SIZE);

/** Takes `size` bytes of {@link bulkMemory} for good. @returns their place @throws RangeError if there are no more */
export function reserveBulk(size: number): number {
	const at = free;
	if (!(size >= 0 && at + size <= SIZE))
		throw new RangeError(`bulk memory: expected ${SIZE - at} bytes at most, got ${size}`);
	free = Math.ceil((at + size) / ALIGNMENT) * ALIGNMENT;
	return at;
}
