import type { PrecopyParameters } from './parameters.js';
import { BUFFER_DELAY, CONFIDENTIAL_DOWNTIME } from './parameters.js';
import type { PrecopyStatistics } from './statistics.js';

/**
 * Bandwidth quota per 100 ms and the threshold below which the rest fits into the allowed downtime.
 * QEMU 7.2 migration/migration.c `migration_update_counters`, `migration_rate_limit`.
 */
export class Pacer {
	/** Bytes that can be sent within the downtime limit; 0 until the first period has ended. */
	threshold = 0;
	readonly #parameters: PrecopyParameters;
	readonly #statistics: PrecopyStatistics;
	readonly #bump: boolean;
	/** Bytes per second instead of `maxBandwidth`. */
	#bandwidth: (() => number) | undefined;
	#periodStart = 0;
	#periodPosition = 0;
	#periodPages = 0;

	constructor(parameters: PrecopyParameters, statistics: PrecopyStatistics, downtimeBump: boolean) {
		this.#parameters = parameters;
		this.#statistics = statistics;
		this.#bump = downtimeBump;
	}

	/** The quota's first period begins, at a time in ms and a stream position. */
	begin(now: number, position: number): void {
		this.#periodStart = now;
		this.#periodPosition = position;
		this.#periodPages = this.#statistics.pages;
		this.#statistics.expectedDowntime = this.#parameters.downtimeLimit;
	}

	/** As `begin`, on a connection or in a phase with another limit. */
	restart(now: number, position: number, bandwidth: () => number): void {
		this.#bandwidth = bandwidth;
		this.#periodStart = now;
		this.#periodPosition = position;
		this.#periodPages = this.#statistics.pages;
	}

	/** Stream position after which the quota of this period is used up. */
	get stopPosition(): number {
		const maxBandwidth = this.#bandwidth?.() ?? this.#parameters.maxBandwidth;
		if (maxBandwidth <= 0) return Number.POSITIVE_INFINITY;
		return this.#periodPosition + Math.floor(maxBandwidth / (1000 / BUFFER_DELAY));
	}

	/** Milliseconds until the period ends; 0 or less when it has. */
	remainingTime(now: number): number {
		return this.#periodStart + BUFFER_DELAY - now;
	}

	/** Ends the period if it is over: new bandwidth estimate, new threshold, new quota. */
	update(now: number, position: number): void {
		const elapsed = now - this.#periodStart;
		if (elapsed < BUFFER_DELAY) return;
		const bytes = position - this.#periodPosition;
		const bandwidth = bytes / elapsed;
		if (this.#bump && this.#parameters.downtimeLimit < CONFIDENTIAL_DOWNTIME) {
			this.#parameters.downtimeLimit = CONFIDENTIAL_DOWNTIME;
		}
		this.threshold = bandwidth * this.#parameters.downtimeLimit;
		const statistics = this.#statistics;
		statistics.mbps = (bytes * 8) / (elapsed / 1000) / 1e6;
		statistics.pagesPerSecond = Math.round((statistics.pages - this.#periodPages) / (elapsed / 1000));
		if (statistics.dirtyPagesRate > 0 && bytes > 10000) statistics.expectedDowntime = statistics.remaining / bandwidth;
		this.#periodStart = now;
		this.#periodPosition = position;
		this.#periodPages = statistics.pages;
	}
}
