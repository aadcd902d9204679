import type { Dialect } from '../dialect.js';
import type { StreamHandler } from '../events.js';

/** Caps on what a stream may make the reader hold, in bytes unless said otherwise. */
export interface ReaderLimits {
	/** Body of one section other than `ram`. Default 16 MiB. */
	readonly deviceBody: number;
	/** VMDESCRIPTION. Default 10 MiB: as far as scripts/analyze-migration.py looks for it. */
	readonly vmDescription: number;
	/** Entries of the block list. Default 1024. */
	readonly blocks: number;
	/** Entries of the shared-region list. Default 65536. */
	readonly sharedRegions: number;
}

/** Default {@link ReaderLimits}. */
export const DEFAULT_LIMITS: ReaderLimits = {
	deviceBody: 16 * 1024 * 1024,
	vmDescription: 10 * 1024 * 1024,
	blocks: 1024,
	sharedRegions: 65536,
};

/**
 * Length of a device's body where the caller knows it; `undefined` leaves it to the footer scan.
 */
export type DeviceLength = (idstr: string, instanceId: number, version: number) => number | undefined;

/** Options of {@link StreamReader}. */
export interface ReaderOptions {
	readonly dialect: Dialect;
	readonly handler: StreamHandler;
	readonly deviceLength?: DeviceLength;
	readonly limits?: Partial<ReaderLimits>;
}
