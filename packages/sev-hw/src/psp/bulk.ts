import { transportBuffer } from '../abi/buffers.js';

/** Commands gathered at most: enough for bulk AES to reach its speed. */
const SLOTS = 32;
/** Room for the command buffer of any page command. */
const BUFFER_SIZE = transportBuffer.size;
const OUTPUTS_PER_SLOT = 3;

/**
 * Work of several commands of one kind on one guest, gathered so that its AES is done in bulk. It is done later than the
 * commands would have done it, so whoever gathers must ask `isPendingOutput` before reading any memory for the next one.
 */
export interface Bulk {
	/** Commands gathered. */
	count: number;
	/** Where the command buffer of command i stands in DRAM. */
	readonly bufferSpas: Float64Array;
	/** Data of command i, `lengths[i]` bytes each, one after the other. */
	readonly data: Uint8Array;
	readonly guestSpas: Float64Array;
	readonly lengths: Uint32Array;
	readonly headerSpas: Float64Array;
	readonly transSpas: Float64Array;
	/** Packet IVs, 16 bytes each. */
	readonly ivs: Uint8Array;
	/** The command buffer of command i, as it was read. */
	buffer(i: number): Uint8Array;
	/** Whether a command with `length` bytes of data still fits. A command that fits into an empty bulk always does. */
	hasRoom(length: number): boolean;
	/** Whether a range meets memory that a gathered command is going to write. */
	isPendingOutput(spa: number, length: number): boolean;
	/** Notes a range that the command being gathered is going to write. */
	addOutput(spa: number, length: number): void;
	reset(): void;
}

/** @param data room for the data: the scratch memory of the engine, so that it is copied no more than needed */
export function createBulk(data: Uint8Array): Bulk {
	const lengths = new Uint32Array(SLOTS);
	const starts = new Float64Array(SLOTS * OUTPUTS_PER_SLOT);
	const ends = new Float64Array(SLOTS * OUTPUTS_PER_SLOT);
	const buffers = Array.from({ length: SLOTS }, () => new Uint8Array(BUFFER_SIZE));
	let outputs = 0;
	const bulk: Bulk = {
		count: 0,
		bufferSpas: new Float64Array(SLOTS),
		data,
		guestSpas: new Float64Array(SLOTS),
		lengths,
		headerSpas: new Float64Array(SLOTS),
		transSpas: new Float64Array(SLOTS),
		ivs: new Uint8Array(16 * SLOTS),
		buffer: (i) => buffers[i] ?? new Uint8Array(BUFFER_SIZE),
		// Equal lengths, because the CTR streams of many packets are made in one go.
		hasRoom: (length) =>
			bulk.count === 0 || (bulk.count < SLOTS && length === lengths[0] && (bulk.count + 1) * length <= data.length),
		isPendingOutput: (spa, length) => {
			const end = spa + length;
			for (let i = 0; i < outputs; i++) if (spa < (ends[i] ?? 0) && end > (starts[i] ?? 0)) return true;
			return false;
		},
		addOutput: (spa, length) => {
			starts[outputs] = spa;
			ends[outputs] = spa + length;
			outputs++;
		},
		reset: () => {
			bulk.count = 0;
			outputs = 0;
		},
	};
	return bulk;
}
