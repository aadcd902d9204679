import type { ZlibLevel } from '../codec/zlib.js';

/**
 * Parameters of a running migration; change the fields at any time, also while it runs. Those that are absent have QEMU's
 * defaults.
 */
export interface PrecopyParameters {
	/** `max-bandwidth`: bytes per second; 0 means unlimited. */
	maxBandwidth: number;
	/** `downtime-limit`: milliseconds. 0 never re-synchronises, so the first drained pass ends the migration, as in QEMU 7.2. */
	downtimeLimit: number;
	/** `max-postcopy-bandwidth`: bytes per second of pages nobody asked for; 0 means unlimited. Default 0. */
	maxPostcopyBandwidth?: number;
	/** `throttle-trigger-threshold`: dirtied bytes in percent of the bytes sent, beyond which guests are throttled. Default 50. */
	throttleTriggerThreshold?: number;
	/** `cpu-throttle-initial`: percent. Default 20. */
	cpuThrottleInitial?: number;
	/** `cpu-throttle-increment`: percent. Default 10. */
	cpuThrottleIncrement?: number;
	/** `cpu-throttle-tailslow`: no larger steps than needed. Default false. */
	cpuThrottleTailslow?: boolean;
	/** `max-cpu-throttle`: percent. Default 99. */
	maxCpuThrottle?: number;
	/** `xbzrle-cache-size`: bytes, a power of two of at least 4096. Another size takes effect in the next pass. Default 64 MiB. */
	xbzrleCacheSize?: number;
	/** `compress-level`. Default 1. */
	compressLevel?: ZlibLevel;
}

/** QEMU 7.2's defaults: 128 MiB/s and 300 ms. */
export const defaultParameters = (): PrecopyParameters => ({ maxBandwidth: 134217728, downtimeLimit: 300 });

/** QEMU 7.2's defaults of what {@link PrecopyParameters} may leave out. */
export const DEFAULTS = {
	maxPostcopyBandwidth: 0,
	throttleTriggerThreshold: 50,
	cpuThrottleInitial: 20,
	cpuThrottleIncrement: 10,
	cpuThrottleTailslow: false,
	maxCpuThrottle: 99,
	xbzrleCacheSize: 64 * 1024 * 1024,
	compressLevel: 1,
} as const satisfies Omit<PrecopyParameters, 'maxBandwidth' | 'downtimeLimit'>;

/** A period of the rate limiter, in ms. QEMU 7.2 migration/migration.c `BUFFER_DELAY`. */
export const BUFFER_DELAY = 100;
/** Longest time a PART section spends before it looks up, in ms. QEMU 7.2 migration/ram.c `MAX_WAIT`. */
export const MAX_WAIT = 50;
/** Pages between two looks at the clock in a PART section. QEMU 7.2 migration/ram.c. */
export const PAGES_PER_TIME_CHECK = 64;
/** Downtime to which a confidential guest's limit is raised, in ms. AMDESE/qemu `sev_live_migration_v4`. */
export const CONFIDENTIAL_DOWNTIME = 1000;
