import type { Z_FINISH, Z_NO_FLUSH } from 'pako';
import {
	Z_BUF_ERROR,
	Z_DEFAULT_STRATEGY,
	Z_OK,
	Z_STREAM_END,
	Z_SYNC_FLUSH,
	ZStream,
	zlibDeflate,
	zlibDeflateInit2,
	zlibInflate,
	zlibInflateInit2,
	zlibInflateReset,
} from 'pako';
import { CodecError } from './error.js';

/** How much effort to make: 0 stores, 1 is fastest, 9 smallest. */
export type ZlibLevel = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9;

/** What stands around deflated data, as zlib's `windowBits` says it: a window of 32 KiB in either. */
export const Wrapping = { zlib: 15, gzip: 31 } as const;
export type Wrapping = (typeof Wrapping)[keyof typeof Wrapping];

const DEFLATED = 8;
const MEMORY_LEVEL = 8;
const EMPTY = new Uint8Array(0);

/** What {@link InflateStream.run} did. */
export interface InflateStep {
	/** Bytes taken from the input. */
	readonly used: number;
	/** Bytes written to the output. */
	readonly made: number;
	/** The stream, with its checksum, is over. */
	readonly ended: boolean;
}

/** zlib's inflate: strict, resumable anywhere, and it never makes more bytes than it is given room for. */
export class InflateStream {
	readonly #stream = new ZStream();

	constructor(wrapping: Wrapping) {
		zlibInflateInit2(this.#stream, wrapping);
	}

	/** Begins anew. */
	reset(): void {
		zlibInflateReset(this.#stream);
	}

	/**
	 * Inflates until the input is used up, `out` is full or the stream ends. Output it has no room for waits inside.
	 *
	 * @param offset of `input`, for errors
	 * @throws CodecError `malformed` or `checksum`
	 */
	run(input: Uint8Array, out: Uint8Array, offset: number): InflateStep {
		const stream = this.#stream;
		stream.input = input;
		stream.next_in = 0;
		stream.avail_in = input.length;
		stream.output = out as Uint8Array<ArrayBuffer>;
		stream.next_out = 0;
		stream.avail_out = out.length;
		let status: number = Z_OK;
		while (status === Z_OK && (stream.avail_in > 0 || stream.avail_out > 0)) {
			const before = stream.avail_in + stream.avail_out;
			status = zlibInflate(stream, Z_SYNC_FLUSH);
			if (stream.avail_in + stream.avail_out === before || stream.avail_out === 0) break;
		}
		const step = { used: stream.next_in, made: stream.next_out, ended: status === Z_STREAM_END };
		// The caller's buffers are not kept.
		stream.input = EMPTY;
		stream.output = EMPTY;
		if (status === Z_OK || status === Z_STREAM_END || status === Z_BUF_ERROR) return step;
		const text = stream.msg || `inflate answered ${status}`;
		const code = text === 'incorrect data check' || text === 'incorrect length check' ? 'checksum' : 'malformed';
		throw new CodecError(code, offset + step.used, `zlib: ${text}`);
	}
}

/** zlib's deflate, byte for byte as zlib 1.2 and 1.3 compress. */
export class DeflateStream {
	readonly #stream = new ZStream();
	/** Grows to what the longest output took. */
	#out = new Uint8Array(16 * 1024);

	constructor(wrapping: Wrapping, level: ZlibLevel) {
		// The library's own hash would compress differently from zlib.
		zlibDeflateInit2(this.#stream, level, DEFLATED, wrapping, MEMORY_LEVEL, Z_DEFAULT_STRATEGY, true);
	}

	/** @returns what came out, in a new array */
	run(input: Uint8Array, flush: typeof Z_NO_FLUSH | typeof Z_SYNC_FLUSH | typeof Z_FINISH): Uint8Array {
		const stream = this.#stream;
		stream.input = input;
		stream.next_in = 0;
		stream.avail_in = input.length;
		stream.next_out = 0;
		do {
			if (stream.next_out === this.#out.length) {
				const grown = new Uint8Array(2 * this.#out.length);
				grown.set(this.#out);
				this.#out = grown;
			}
			stream.output = this.#out;
			stream.avail_out = this.#out.length - stream.next_out;
			zlibDeflate(stream, flush);
		} while (stream.avail_out === 0);
		stream.input = EMPTY;
		return this.#out.slice(0, stream.next_out);
	}
}

/** The pieces in one array. */
export function joined(pieces: readonly Uint8Array[]): Uint8Array {
	const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
	let at = 0;
	for (const piece of pieces) {
		out.set(piece, at);
		at += piece.length;
	}
	return out;
}
