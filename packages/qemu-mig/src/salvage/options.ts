import type { Dialect } from '../dialect.js';
import type { StreamImage } from '../image/content.js';
import type { FactDetail } from '../image/facts.js';
import type { ImageInput } from '../image/input.js';
import type { RamStore } from '../image/store.js';
import type { ReaderLimits } from '../read/options.js';
import type { Gap, Missing } from './report.js';

/** A file that can be read anywhere. Spool a pipe first: after a fault, bytes before it must be read again. */
export interface SalvageSource {
	/** Bytes. */
	readonly size: number;
	/** `length` bytes from `offset` on, fewer only at the end of the file. Valid until the next call. */
	read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
}

/** Options of {@link salvage}. */
export interface SalvageOptions {
	readonly store?: RamStore | undefined;
	/** Default `auto`. */
	readonly dialect?: Dialect | 'auto';
	readonly facts?: FactDetail;
	readonly limits?: Partial<ReaderLimits>;
	/** Bytes of guest RAM accepted. Default 16 TiB. */
	readonly ramLimit?: number;
	/** multifd channels; each is read up to its first fault. */
	readonly channels?: readonly ImageInput[];
	/** Faults after which it gives up. Default 1000. */
	readonly gapLimit?: number;
	/** Told now and then: bytes of the file so far. */
	readonly progress?: (bytes: number) => void;
}

/** What is left of a damaged stream. */
export interface Salvage {
	/**
	 * All that could be read. Pages read after a gap, and the last one before it, have `facts.recoveredAt`; devices after it
	 * `recovered`. A page read before a gap may be older than what the gap held.
	 */
	readonly image: StreamImage;
	/** Whether nothing is missing. */
	readonly complete: boolean;
	readonly gaps: readonly Gap[];
	readonly missing: Missing;
}

/** A file in memory. */
export const bytesSource = (data: Uint8Array): SalvageSource => ({
	size: data.length,
	read: (offset, length) => data.subarray(offset, offset + length),
});
