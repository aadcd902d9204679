import { type BulkMemory, bulkMemory, reserveBulk } from '@cvm/crypto';

/** Bytes that an engine takes at once: as many as bulk AES is fastest with, twice. */
export const SCRATCH_SIZE = 0x20000;

/** Where data passes on its way between DRAM and AES. What is in it counts until the next use of any engine of the thread. */
export interface Scratch {
	readonly memory: BulkMemory;
	/** The memory again. */
	readonly words: Int32Array;
	/** {@link SCRATCH_SIZE} bytes. */
	readonly data: Uint8Array;
	/** Place of `data` in `memory`. */
	readonly dataAt: number;
	/** Place of T for the addresses in the first page: 4096 bytes. */
	readonly tableAt: number;
	/** Place of T for the page being worked on: 16 bytes. */
	readonly pageAt: number;
	/** The table that stands at `tableAt`. */
	table: Int32Array | undefined;
}

const TABLE_SIZE = 4096;
const PAGE_TWEAK_SIZE = 16;
/** Bytes of memory that a scratch needs. */
const SCRATCH_MEMORY = TABLE_SIZE + SCRATCH_SIZE + PAGE_TWEAK_SIZE;

/** Divides {@link SCRATCH_MEMORY} bytes of memory up, from `at` on. */
function openScratch(memory: BulkMemory, at: number): Scratch {
	const dataAt = at + TABLE_SIZE;
	return {
		memory,
		words: new Int32Array(memory.bytes.buffer),
		data: memory.bytes.subarray(dataAt, dataAt + SCRATCH_SIZE),
		dataAt,
		tableAt: at,
		pageAt: dataAt + SCRATCH_SIZE,
		table: undefined,
	};
}

/** One for all engines of the thread: each use runs to its end. */
export const threadScratch = openScratch(bulkMemory, reserveBulk(SCRATCH_MEMORY));
