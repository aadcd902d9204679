import { PAGE_SIZE } from '@cvm/layout';
import { XbzrleCache } from '../codec/xbzrle.js';
import { deflatePage } from '../codec/zlib.js';
import type { PageSource } from '../ports.js';
import type { PrecopyCapabilities } from './capabilities.js';
import { CompressionCounters, XbzrleCounters } from './encoding-counters.js';
import type { Output } from './output.js';
import type { PrecopyParameters } from './parameters.js';
import { DEFAULTS } from './parameters.js';
import type { PrecopyStatistics } from './statistics.js';
import { ZeroTest } from './zero-test.js';

const ZEROS = new Uint8Array(PAGE_SIZE);
/** Bytes of an XBZRLE record besides its word, its block name and the encoding. */
const XBZRLE_OVERHEAD = 3;

/** How {@link PlainSender} is to send. */
export type Stage = 'precopy' | 'last' | 'postcopy';

/**
 * Sends a page in the clear: as zero page, compressed, on a multifd channel, as XBZRLE, or raw, whichever comes first.
 * QEMU 7.2 migration/ram.c `ram_save_target_page`.
 */
export class PlainSender {
	stage: Stage = 'precopy';
	/** Set when all of memory was walked through once: what is sent from then on was probably sent before. */
	repeating = false;
	readonly #source: PageSource;
	readonly #output: Output;
	readonly #statistics: PrecopyStatistics;
	readonly #parameters: PrecopyParameters;
	readonly #compress: boolean;
	readonly #xbzrle: boolean;
	readonly #zeroTest = new ZeroTest();
	readonly #encoded = new Uint8Array(PAGE_SIZE);
	/** Address of each block among all RAM: the key of the cache. */
	readonly #bases: readonly number[];
	#cache: XbzrleCache | undefined;

	constructor(source: PageSource, output: Output, parameters: PrecopyParameters, capabilities: PrecopyCapabilities) {
		this.#source = source;
		this.#output = output;
		this.#statistics = output.statistics;
		this.#parameters = parameters;
		this.#compress = capabilities.compress ?? false;
		this.#xbzrle = capabilities.xbzrle ?? false;
		if (this.#compress) this.#statistics.compression = new CompressionCounters();
		let base = 0;
		this.#bases = source.blocks.map(({ usedLength }) => {
			base += usedLength;
			return base - usedLength;
		});
		if (this.#xbzrle) this.#resizeCache();
	}

	/** A pass begins: the size of the cache may have changed. */
	passBegins(): void {
		if (this.#xbzrle) this.#resizeCache();
	}

	/** @param sameBlock whether the block was the last one named in the stream */
	send(block: number, page: number, idstr: string, sameBlock: boolean): void {
		const bytes = this.#source.plainPage(block, page);
		const address = page * PAGE_SIZE;
		const { writer, multifd } = this.#output;
		const cache = this.repeating ? this.#cache : undefined;
		if (this.#zeroTest.isZero(bytes)) {
			writer.zeroPage(idstr, address, 0);
			this.#statistics.zeroPages++;
			// What is cached must not be older than what the target has.
			cache?.insert(this.#key(block, page), ZEROS, this.#statistics.passes);
			return;
		}
		if (this.stage === 'postcopy') this.#raw(idstr, address, bytes);
		// The first page of a block goes raw, so that its name is in the stream before the workers of QEMU finish.
		else if (this.#compress && cache === undefined && sameBlock) this.#compressed(idstr, address, bytes);
		else if (multifd !== undefined) {
			multifd.page(idstr, address, bytes);
			this.#statistics.plainPages++;
		} else if (cache === undefined) this.#raw(idstr, address, bytes);
		else this.#delta(cache, this.#key(block, page), idstr, address, bytes, sameBlock);
	}

	#raw(idstr: string, address: number, bytes: Uint8Array): void {
		this.#output.writer.rawPage(idstr, address, bytes);
		this.#statistics.plainPages++;
	}

	#compressed(idstr: string, address: number, bytes: Uint8Array): void {
		const data = deflatePage(bytes, this.#parameters.compressLevel ?? DEFAULTS.compressLevel);
		this.#output.writer.encodedPage('zlib', idstr, address, data);
		const counters = this.#statistics.compression;
		if (counters === undefined) return;
		counters.pages++;
		counters.compressedSize += 4 + data.length;
	}

	/** QEMU 7.2 migration/ram.c `save_xbzrle_page`. */
	#delta(cache: XbzrleCache, key: number, idstr: string, address: number, bytes: Uint8Array, sameBlock: boolean): void {
		const counters = this.#statistics.xbzrle;
		if (counters === undefined) return;
		const out = this.#encoded;
		const outcome = cache.send(key, bytes, this.#statistics.passes, this.stage === 'last', out);
		if (outcome.kind === 'raw') {
			if (outcome.overflow) {
				counters.pages++;
				counters.overflow++;
				counters.bytes += PAGE_SIZE;
			} else counters.cacheMiss++;
			this.#raw(idstr, address, outcome.data);
			return;
		}
		counters.pages++;
		if (outcome.kind === 'unchanged') return;
		this.#output.writer.encodedPage('xbzrle', idstr, address, out.subarray(0, outcome.length));
		counters.bytes += (sameBlock ? 0 : 1 + idstr.length) + XBZRLE_OVERHEAD + outcome.length;
	}

	#key(block: number, page: number): number {
		return (this.#bases[block] ?? 0) + page * PAGE_SIZE;
	}

	#resizeCache(): void {
		const size = this.#parameters.xbzrleCacheSize ?? DEFAULTS.xbzrleCacheSize;
		if (this.#statistics.xbzrle?.cacheSize === size) return;
		this.#cache = new XbzrleCache(size);
		this.#statistics.xbzrle ??= new XbzrleCounters(size);
		this.#statistics.xbzrle.cacheSize = size;
	}
}
