import { PAGE_SIZE } from '@cvm/layout';
import type { CompressionCounters, XbzrleCounters } from './encoding-counters.js';
import type { MigrationInfo, MigrationStatus, RamStatistics } from './info.js';

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
	postcopyBytes = 0;
	multifdBytes = 0;
	/** Synchronisations of the dirty log so far. */
	passes = 0;
	/** Messages by which the target asked for pages. */
	postcopyRequests = 0;
	/** Pages that went on the connection of `postcopy-preempt`. */
	urgentPages = 0;
	dirtyPagesRate = 0;
	mbps = 0;
	pagesPerSecond = 0;
	/** 0 while the guest is not throttled. */
	throttlePercentage = 0;
	xbzrle: XbzrleCounters | undefined;
	compression: CompressionCounters | undefined;
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
		const encoded = (this.xbzrle?.pages ?? 0) + (this.compression?.pages ?? 0);
		return this.zeroPages + this.plainPages + this.privatePages + encoded;
	}

	/** Bytes of RAM sent so far. */
	get transferred(): number {
		return this.precopyBytes + this.downtimeBytes + this.postcopyBytes + this.multifdBytes;
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
		return {
			status,
			...times,
			...down,
			ram: this.#ram(completed),
			...(this.xbzrle && { 'xbzrle-cache': this.xbzrle.info() }),
			...(this.compression && { compression: this.compression.info() }),
			...(this.throttlePercentage > 0 && { 'cpu-throttle-percentage': this.throttlePercentage }),
		};
	}

	#ram(completed: boolean): RamStatistics {
		const normal = this.plainPages + this.privatePages;
		return {
			transferred: this.transferred,
			remaining: completed ? 0 : this.remaining,
			total: this.total,
			duplicate: this.zeroPages,
			skipped: 0,
			normal,
			'normal-bytes': normal * PAGE_SIZE,
			'dirty-pages-rate': completed ? 0 : this.dirtyPagesRate,
			mbps: this.mbps,
			'dirty-sync-count': this.passes,
			'postcopy-requests': this.postcopyRequests,
			'page-size': PAGE_SIZE,
			'multifd-bytes': this.multifdBytes,
			'pages-per-second': this.pagesPerSecond,
			'precopy-bytes': this.precopyBytes,
			'downtime-bytes': this.downtimeBytes,
			'postcopy-bytes': this.postcopyBytes,
			'dirty-sync-missed-zero-copy': 0,
		};
	}
}
