import { PAGE_SIZE } from '@cvm/layout';
import { Z_FINISH, Z_NO_FLUSH, Z_SYNC_FLUSH } from 'pako';
import type { ZlibLevel } from './deflate-stream.js';
import { DeflateStream, InflateStream, joined, Wrapping } from './deflate-stream.js';
import { CodecError, isCodecError } from './error.js';

export type { ZlibLevel } from './deflate-stream.js';

/** Compressed bytes of a page at most: zlib's `compressBound(4096)`, as QEMU 7.2 migration/ram.c checks. */
export const ZLIB_PAGE_LIMIT = 4110;

/** QEMU 7.2 migration/ram.c `do_data_decompress`. */
const PAGE_ERROR = ['decompress data failed'];

const pageError = (code: CodecError['code'], at: number, message: string): CodecError =>
	new CodecError(code, at, `zlib page: ${message}`, PAGE_ERROR);

/**
 * Inflates one page of a COMPRESS_PAGE record, an independent zlib stream, into `page`. `page` is written only if the
 * whole stream is valid.
 *
 * @throws CodecError `truncated`, `malformed`, `checksum`, `too-short` or `too-long` (not exactly `page.length` bytes, or
 * bytes after the stream), `too-large` (more than {@link ZLIB_PAGE_LIMIT} compressed bytes)
 *
 * DEVIATION(QEMU 7.2 migration/ram.c `qemu_uncompress_data`): accepts a shorter page, and bytes after the stream.
 */
export function inflatePage(data: Uint8Array, page: Uint8Array): void {
	const { length } = data;
	if (length > ZLIB_PAGE_LIMIT) {
		throw new CodecError('too-large', 0, `zlib page: expected ${ZLIB_PAGE_LIMIT} bytes at most, got ${length}`, [
			`Invalid compressed data length: ${length | 0}`,
		]);
	}
	// One byte of room more than wanted tells "too long" from "just right".
	const draft = new Uint8Array(page.length + 1);
	const { used, made, ended } = inflateOnce(data, draft);
	if (made > page.length) throw pageError('too-long', used, `expected ${page.length} bytes inflated, got more`);
	if (!ended) throw pageError('truncated', used, `the stream ends early, after ${made} bytes inflated`);
	if (made < page.length) throw pageError('too-short', used, `expected ${page.length} bytes inflated, got ${made}`);
	if (used < length) throw pageError('too-long', used, `expected the end, got ${length - used} bytes more`);
	page.set(draft.subarray(0, made));
}

function inflateOnce(data: Uint8Array, out: Uint8Array) {
	try {
		return new InflateStream(Wrapping.zlib).run(data, out, 0);
	} catch (error) {
		if (!isCodecError(error)) throw error;
		throw new CodecError(error.code, error.offset, error.detail, PAGE_ERROR, error);
	}
}

/**
 * Deflates a page as an independent zlib stream of at most {@link ZLIB_PAGE_LIMIT} bytes, as QEMU does.
 *
 * @param level `compress-level`; QEMU's default is 1
 */
export function deflatePage(page: Uint8Array, level: ZlibLevel = 1): Uint8Array {
	if (page.length !== PAGE_SIZE) {
		throw new CodecError('argument', 0, `zlib: expected a page of ${PAGE_SIZE} bytes, got ${page.length}`);
	}
	return new DeflateStream(Wrapping.zlib, level).run(page, Z_FINISH);
}

/**
 * One zlib stream that is flushed now and then and never ends: a multifd channel. Each call takes the bytes up to a flush.
 */
export class ZlibChannelInflater {
	readonly #stream = new InflateStream(Wrapping.zlib);
	readonly #spill = new Uint8Array(1);
	#taken = 0;
	#failed = false;

	/**
	 * Inflates to exactly `out.length` bytes.
	 *
	 * @throws CodecError `malformed`, `too-short` or `too-long`; the stream cannot be continued after that
	 */
	inflate(data: Uint8Array, out: Uint8Array): void {
		if (this.#failed) throw new CodecError('closed', this.#taken, 'zlib: the stream has failed');
		this.#failed = true;
		const { used, made, ended } = this.#stream.run(data, out, this.#taken);
		this.#taken += used;
		if (ended) throw new CodecError('malformed', this.#taken, 'zlib: the stream of a channel ends');
		if (made < out.length) {
			throw new CodecError('too-short', this.#taken, `zlib: expected ${out.length} bytes inflated, got ${made}`);
		}
		// What is left is the flush, unless there are more bytes in it.
		const rest = this.#stream.run(data.subarray(used), this.#spill, this.#taken);
		this.#taken += rest.used;
		if (rest.made > 0) {
			throw new CodecError('too-long', this.#taken, `zlib: expected ${out.length} bytes inflated, got more`);
		}
		if (rest.ended) throw new CodecError('malformed', this.#taken, 'zlib: the stream of a channel ends');
		this.#failed = false;
	}
}

/** The sending end of {@link ZlibChannelInflater}: each call ends in a sync flush (`00 00 ff ff`), as QEMU's packets do. */
export class ZlibChannelDeflater {
	readonly #stream: DeflateStream;

	/** @param level `multifd-zlib-level`; QEMU's default is 1 */
	constructor(level: ZlibLevel = 1) {
		this.#stream = new DeflateStream(Wrapping.zlib, level);
	}

	/** @param pages at least one */
	deflate(pages: readonly Uint8Array[]): Uint8Array {
		const last = pages.length - 1;
		return joined(pages.map((page, i) => this.#stream.run(page, i === last ? Z_SYNC_FLUSH : Z_NO_FLUSH)));
	}
}
