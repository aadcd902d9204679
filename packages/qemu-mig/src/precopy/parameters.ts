/** Parameters of a running migration; change the fields at any time, also while it runs. */
export interface PrecopyParameters {
	/** `max-bandwidth`: bytes per second; 0 means unlimited. */
	maxBandwidth: number;
	/** `downtime-limit`: milliseconds. 0 never re-synchronises, so the first drained pass ends the migration, as in QEMU 7.2. */
	downtimeLimit: number;
}

/** QEMU 7.2's defaults: 128 MiB/s and 300 ms. */
export const defaultParameters = (): PrecopyParameters => ({ maxBandwidth: 134217728, downtimeLimit: 300 });

/** A period of the rate limiter, in ms. QEMU 7.2 migration/migration.c `BUFFER_DELAY`. */
export const BUFFER_DELAY = 100;
/** Longest time a PART section spends before it looks up, in ms. QEMU 7.2 migration/ram.c `MAX_WAIT`. */
export const MAX_WAIT = 50;
/** Pages between two looks at the clock in a PART section. QEMU 7.2 migration/ram.c. */
export const PAGES_PER_TIME_CHECK = 64;
/** Downtime to which a confidential guest's limit is raised, in ms. AMDESE/qemu `sev_live_migration_v4`. */
export const CONFIDENTIAL_DOWNTIME = 1000;
