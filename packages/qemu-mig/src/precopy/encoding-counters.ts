import { PAGE_SIZE } from '@cvm/layout';
import type { CompressionStatistics, XbzrleStatistics } from './info.js';

/** What happened to pages offered to the XBZRLE cache. QEMU 7.2 migration/ram.c `xbzrle_counters`. */
export class XbzrleCounters {
	cacheSize: number;
	bytes = 0;
	pages = 0;
	cacheMiss = 0;
	overflow = 0;
	#missRate = 0;
	#encodingRate = 0;
	#before = { bytes: 0, pages: 0, cacheMiss: 0 };

	constructor(cacheSize: number) {
		this.cacheSize = cacheSize;
	}

	/** A period ended, in which so many pages were visited. QEMU 7.2 migration/ram.c `migration_update_rates`. */
	periodEnded(visited: number): void {
		if (visited === 0) return;
		const { bytes, pages, cacheMiss } = this;
		const sent = bytes - this.#before.bytes;
		this.#missRate = (cacheMiss - this.#before.cacheMiss) / visited;
		this.#encodingRate = sent === 0 ? 0 : ((pages - this.#before.pages) * PAGE_SIZE) / sent;
		this.#before = { bytes, pages, cacheMiss };
	}

	info(): XbzrleStatistics {
		return {
			'cache-size': this.cacheSize,
			bytes: this.bytes,
			pages: this.pages,
			'cache-miss': this.cacheMiss,
			'cache-miss-rate': this.#missRate,
			'encoding-rate': this.#encodingRate,
			overflow: this.overflow,
		};
	}
}

/** Compressed pages. QEMU 7.2 migration/ram.c `compression_counters`. */
export class CompressionCounters {
	pages = 0;
	compressedSize = 0;
	#rate = 0;
	#before = { pages: 0, compressedSize: 0 };

	/** As {@link XbzrleCounters.periodEnded}. */
	periodEnded(visited: number): void {
		const { pages, compressedSize } = this;
		const sent = compressedSize - this.#before.compressedSize;
		if (visited === 0 || sent === 0) return;
		this.#rate = ((pages - this.#before.pages) * PAGE_SIZE) / sent;
		this.#before = { pages, compressedSize };
	}

	info(): CompressionStatistics {
		return {
			pages: this.pages,
			busy: 0,
			'busy-rate': 0,
			'compressed-size': this.compressedSize,
			'compression-rate': this.#rate,
		};
	}
}
