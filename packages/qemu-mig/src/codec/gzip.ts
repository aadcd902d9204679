import { Z_FINISH, Z_NO_FLUSH } from 'pako';
import type { ZlibLevel } from './deflate-stream.js';
import { DeflateStream, InflateStream, Wrapping } from './deflate-stream.js';
import { CodecError } from './error.js';

/** Bytes handed out at once, at most. */
const OUTPUT = 64 * 1024;

/** A gzip file, inflated as it arrives; checksums and lengths are verified. Several members are read as one. RFC 1952. */
export class GzipDecoder {
	readonly #output: (data: Uint8Array) => void;
	readonly #stream = new InflateStream(Wrapping.gzip);
	readonly #out = new Uint8Array(OUTPUT);
	#taken = 0;
	#state: 'before' | 'inside' | 'between' | 'closed' = 'before';

	/** @param output takes each piece of output, 64 KiB at most, as a view valid until it returns */
	constructor(output: (data: Uint8Array) => void) {
		this.#output = output;
	}

	/** @throws CodecError `malformed` or `checksum`, and whatever `output` throws; all end the decoder */
	push(chunk: Uint8Array): void {
		this.#close();
		let at = 0;
		let state = this.#state;
		this.#state = 'closed';
		for (let full = false; full || at < chunk.length; ) {
			if (state === 'between') {
				// Files are padded with zeros where devices want whole blocks.
				if (chunk[at] === 0) {
					at++;
					this.#taken++;
					continue;
				}
				this.#stream.reset();
			}
			const { used, made, ended } = this.#stream.run(chunk.subarray(at), this.#out, this.#taken);
			at += used;
			this.#taken += used;
			full = made === OUTPUT && !ended;
			state = ended ? 'between' : 'inside';
			if (made > 0) this.#output(this.#out.subarray(0, made));
		}
		this.#state = state;
	}

	/** The file ends here. @throws CodecError `truncated` */
	end(): void {
		this.#close();
		if (this.#state !== 'between') {
			throw new CodecError('truncated', this.#taken, 'gzip: the file ends before its checksum');
		}
		this.#state = 'closed';
	}

	#close(): void {
		if (this.#state === 'closed') throw new CodecError('closed', this.#taken, 'gzip: the file has ended or failed');
	}
}

/** Writes a gzip file piece by piece, without a time stamp: the same input gives the same file. */
export class GzipEncoder {
	readonly #stream: DeflateStream;
	readonly #output: (data: Uint8Array) => void;

	constructor(output: (data: Uint8Array) => void, level: ZlibLevel = 6) {
		this.#stream = new DeflateStream(Wrapping.gzip, level);
		this.#output = output;
	}

	push(data: Uint8Array): void {
		const made = this.#stream.run(data, Z_NO_FLUSH);
		if (made.length > 0) this.#output(made);
	}

	end(): void {
		this.#output(this.#stream.run(new Uint8Array(0), Z_FINISH));
	}
}
