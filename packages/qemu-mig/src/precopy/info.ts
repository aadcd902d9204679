/** Statuses a source goes through. QEMU 7.2 qapi/migration.json `MigrationStatus`. */
export type MigrationStatus =
	| 'none'
	| 'setup'
	| 'active'
	| 'pre-switchover'
	| 'device'
	| 'postcopy-active'
	| 'postcopy-paused'
	| 'postcopy-recover'
	| 'completed'
	| 'failed'
	| 'cancelling'
	| 'cancelled';

/** The `ram` object of `query-migrate`, with QEMU's names and units. */
export interface RamStatistics {
	/** Bytes of RAM records and multifd packets written. */
	readonly transferred: number;
	readonly remaining: number;
	readonly total: number;
	/** Zero pages. */
	readonly duplicate: number;
	readonly skipped: number;
	/** Pages sent whole, private ones included. */
	readonly normal: number;
	readonly 'normal-bytes': number;
	/** Pages per second. */
	readonly 'dirty-pages-rate': number;
	/** Megabits per second. */
	readonly mbps: number;
	readonly 'dirty-sync-count': number;
	readonly 'postcopy-requests': number;
	readonly 'page-size': number;
	readonly 'multifd-bytes': number;
	readonly 'pages-per-second': number;
	readonly 'precopy-bytes': number;
	readonly 'downtime-bytes': number;
	readonly 'postcopy-bytes': number;
	readonly 'dirty-sync-missed-zero-copy': number;
}

/** The `xbzrle-cache` object: with capability `xbzrle`. */
export interface XbzrleStatistics {
	/** Bytes. */
	readonly 'cache-size': number;
	/** Bytes of encoded pages, and of pages whose encoding overflowed. */
	readonly bytes: number;
	/** Pages found in the cache. */
	readonly pages: number;
	readonly 'cache-miss': number;
	/** Misses per page visited, in the last period. */
	readonly 'cache-miss-rate': number;
	/** Bytes of pages per byte sent, in the last period. */
	readonly 'encoding-rate': number;
	readonly overflow: number;
}

/** The `compression` object: with capability `compress`. Here nothing is ever busy: pages are compressed one by one. */
export interface CompressionStatistics {
	readonly pages: number;
	readonly busy: number;
	readonly 'busy-rate': number;
	/** Bytes. */
	readonly 'compressed-size': number;
	/** Bytes of pages per byte sent, in the last period. */
	readonly 'compression-rate': number;
}

/** Reply of `query-migrate`; which members are present depends on the status as in QEMU 7.2. */
export interface MigrationInfo {
	readonly status?: MigrationStatus;
	readonly ram?: RamStatistics;
	readonly 'xbzrle-cache'?: XbzrleStatistics;
	readonly compression?: CompressionStatistics;
	/** While the guest is throttled. */
	readonly 'cpu-throttle-percentage'?: number;
	/** Milliseconds, as the three below. */
	readonly 'total-time'?: number;
	readonly 'setup-time'?: number;
	readonly 'expected-downtime'?: number;
	readonly downtime?: number;
	readonly 'error-desc'?: string;
}
