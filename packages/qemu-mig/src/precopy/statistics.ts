import { PAGE_SIZE } from '@cvm/layout';

/** Statuses a precopy source goes through. QEMU 7.2 qapi/migration.json `MigrationStatus`. */
export type MigrationStatus = 'none' | 'setup' | 'active' | 'completed' | 'failed' | 'cancelling' | 'cancelled';

/** The `ram` object of `query-migrate`, with QEMU's names and units. */
export interface RamStatistics {
	/** Bytes of RAM records written. */
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

/** Reply of `query-migrate`; which members are present depends on the status as in QEMU 7.2. */
export interface MigrationInfo {
	readonly status?: MigrationStatus;
	readonly ram?: RamStatistics;
	/** Milliseconds, as the three below. */
	readonly 'total-time'?: number;
	readonly 'setup-time'?: number;
	readonly 'expected-downtime'?: number;
	readonly downtime?: number;
	readonly 'error-desc'?: string;
}

/** Counters of one outgoing migration: the engine writes them, anybody reads `info()`. */
export class PrecopyStatistics {
	status: MigrationStatus = 'none';
	/** Bytes of all blocks. */
	total = 0;
	remaining = 0;
	zeroPages = 0;
	plainPages = 0;
	privatePages = 0;
	precopyBytes = 0;
	downtimeBytes = 0;
	/** Synchronisations of the dirty log so far. */
	passes = 0;
	dirtyPagesRate = 0;
	mbps = 0;
	pagesPerSecond = 0;
	/** Clock readings, in ms. */
	startedAt = 0;
	setupEndedAt = 0;
	endedAt: number | undefined;
	expectedDowntime = 0;
	downtime = 0;
	error: string | undefined;
	readonly #now: () => number;

	constructor(now: () => number) {
		this.#now = now;
	}

	/** Pages sent so far, repeats included. */
	get pages(): number {
		return this.zeroPages + this.plainPages + this.privatePages;
	}

	/** A snapshot in the form of `query-migrate`. */
	info(): MigrationInfo {
		switch (this.status) {
			case 'none':
				return {};
			case 'setup':
				return { status: this.status };
			case 'cancelled':
				return { status: this.status };
			case 'failed':
				return this.error === undefined ? { status: this.status } : { status: this.status, 'error-desc': this.error };
			default:
				return this.#running(this.status);
		}
	}

	#running(status: MigrationStatus): MigrationInfo {
		const completed = status === 'completed';
		const times = {
			'total-time': Math.round((this.endedAt ?? this.#now()) - this.startedAt),
			'setup-time': Math.round(this.setupEndedAt - this.startedAt),
		};
		const down = completed
			? { downtime: Math.round(this.downtime) }
			: { 'expected-downtime': Math.round(this.expectedDowntime) };
		return { status, ...times, ...down, ram: this.#ram(completed) };
	}

	#ram(completed: boolean): RamStatistics {
		const normal = this.plainPages + this.privatePages;
		return {
			transferred: this.precopyBytes + this.downtimeBytes,
			remaining: completed ? 0 : this.remaining,
			total: this.total,
			duplicate: this.zeroPages,
			skipped: 0,
			normal,
			'normal-bytes': normal * PAGE_SIZE,
			'dirty-pages-rate': completed ? 0 : this.dirtyPagesRate,
			mbps: this.mbps,
			'dirty-sync-count': this.passes,
			'postcopy-requests': 0,
			'page-size': PAGE_SIZE,
			'multifd-bytes': 0,
			'pages-per-second': this.pagesPerSecond,
			'precopy-bytes': this.precopyBytes,
			'downtime-bytes': this.downtimeBytes,
			'postcopy-bytes': 0,
			'dirty-sync-missed-zero-copy': 0,
		};
	}
}
