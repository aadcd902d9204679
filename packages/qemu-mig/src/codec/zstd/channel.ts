import { CodecError } from '../error.js';
import type { ZstdOptions } from './decoder.js';
import { ZstdDecoder } from './decoder.js';

/** One frame that is flushed now and then and never ends: a multifd channel. Each call takes the bytes up to a flush. */
export class ZstdChannelInflater {
	readonly #decoder: ZstdDecoder;
	#out: Uint8Array = new Uint8Array(0);
	#made = 0;
	#taken = 0;
	#failed = false;

	constructor(options?: ZstdOptions) {
		this.#decoder = new ZstdDecoder((data) => {
			if (this.#made + data.length > this.#out.length) {
				throw new CodecError('too-long', this.#taken, `zstd: expected ${this.#out.length} bytes decoded, got more`);
			}
			this.#out.set(data, this.#made);
			this.#made += data.length;
		}, options);
	}

	/**
	 * Decodes to exactly `out.length` bytes.
	 *
	 * @throws CodecError as {@link ZstdDecoder} does, and `too-short` or `too-long`; it cannot be continued after that
	 */
	inflate(data: Uint8Array, out: Uint8Array): void {
		if (this.#failed) throw new CodecError('closed', this.#taken, 'zstd: the stream has failed');
		this.#failed = true;
		this.#out = out;
		this.#made = 0;
		this.#decoder.push(data);
		this.#taken += data.length;
		if (this.#made < out.length) {
			throw new CodecError('too-short', this.#taken, `zstd: expected ${out.length} bytes decoded, got ${this.#made}`);
		}
		this.#failed = false;
	}
}
