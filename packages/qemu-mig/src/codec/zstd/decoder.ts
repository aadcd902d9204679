import { CodecError } from '../error.js';
import { Block, MARGIN } from './entropy.js';
import { Literals } from './literals.js';
import { Sequences } from './sequences.js';

/** Longest block, compressed or not. RFC 8878 §3.1.1.2.4. */
const BLOCK_LIMIT = 128 * 1024;
const MAGIC = 0xfd2fb528;
/** Magics of frames to skip: the low four bits are free. */
const SKIPPABLE = 0x184d2a50;

/** Caps of {@link ZstdDecoder}. */
export interface ZstdOptions {
	/** Bytes of history that a frame may ask for. Default 32 MiB; `zstd` itself asks for 8 MiB at most without `--ultra`. */
	readonly windowLimit?: number;
}

interface Frame {
	readonly window: number;
	readonly contentSize: number | undefined;
	readonly checksum: boolean;
}

/**
 * Zstandard, decoded as it arrives: frames one after the other, each block handed out as soon as its last byte is here, so
 * that a stream that is flushed and never ends (a multifd channel) can be read to each flush. RFC 8878.
 *
 * DEVIATION(RFC 8878 §3.1.1): the checksum of the content is read, not verified. No dictionaries.
 */
export class ZstdDecoder {
	readonly #output: (data: Uint8Array) => void;
	readonly #windowLimit: number;
	readonly #block = new Block(BLOCK_LIMIT);
	readonly #literals = new Literals(BLOCK_LIMIT);
	readonly #sequences = new Sequences();
	readonly #steps: Generator<void, void, void>;
	/** History and, behind it, the block being made. It grows as the frame does, not as its header says. */
	#window = new Uint8Array(2 * BLOCK_LIMIT);
	/** Bytes of history that the frame may refer to. */
	#history = 0;
	#at = 0;
	/** Bytes of the element being gathered, behind the margin of the block. */
	#gathered = 0;
	#chunk: Uint8Array = new Uint8Array(0);
	#chunkAt = 0;
	#taken = 0;
	#state: 'between' | 'inside' | 'failed' = 'between';

	/** @param output takes each decoded block, 128 KiB at most, as a view valid until it returns */
	constructor(output: (data: Uint8Array) => void, options: ZstdOptions = {}) {
		this.#output = output;
		this.#windowLimit = options.windowLimit ?? 32 * 1024 * 1024;
		this.#steps = this.#run();
	}

	/** Whether the input so far ends where a frame ends. */
	get complete(): boolean {
		return this.#state === 'between';
	}

	/** Decodes all that `chunk` completes. @throws CodecError, and whatever `output` throws; both end the decoder */
	push(chunk: Uint8Array): void {
		if (this.#state === 'failed') throw new CodecError('closed', this.#taken, 'zstd: the stream has failed');
		this.#chunk = chunk;
		this.#chunkAt = 0;
		try {
			this.#steps.next();
		} catch (error) {
			this.#state = 'failed';
			throw error;
		}
	}

	/** Waits until `count` bytes lie in the block behind its margin. */
	*#need(count: number): Generator<void, void, void> {
		this.#gathered = 0;
		this.#block.offset = this.#taken;
		while (this.#gathered < count) {
			const piece = this.#chunk.subarray(this.#chunkAt, this.#chunkAt + count - this.#gathered);
			this.#block.bytes.set(piece, MARGIN + this.#gathered);
			this.#gathered += piece.length;
			this.#chunkAt += piece.length;
			this.#taken += piece.length;
			if (this.#gathered < count) yield;
		}
	}

	/** Little-endian number of `width` bytes, `at` bytes into what was gathered. */
	#number(at: number, width: number): number {
		let value = 0;
		for (let i = width - 1; i >= 0; i--) value = value * 256 + (this.#block.bytes[MARGIN + at + i] as number);
		return value;
	}

	*#run(): Generator<void, void, void> {
		for (;;) {
			yield* this.#need(1);
			this.#state = 'inside';
			const first = this.#number(0, 1);
			yield* this.#need(3);
			const magic = this.#number(0, 3) * 256 + first;
			if (magic === MAGIC) yield* this.#frame();
			else if (magic - (magic % 16) === SKIPPABLE) yield* this.#skip();
			else
				throw new CodecError(
					'magic',
					this.#taken - 4,
					`zstd: expected 0x${MAGIC.toString(16)}, got 0x${magic.toString(16)}`,
				);
			this.#state = 'between';
		}
	}

	*#skip(): Generator<void, void, void> {
		yield* this.#need(4);
		for (let left = this.#number(0, 4); left > 0; ) {
			const piece = Math.min(left, BLOCK_LIMIT);
			yield* this.#need(piece);
			left -= piece;
		}
	}

	*#frame(): Generator<void, void, void> {
		const frame = yield* this.#header();
		this.#literals.reset();
		this.#sequences.reset();
		this.#at = 0;
		let made = 0;
		for (let last = false; !last; ) {
			yield* this.#need(3);
			const header = this.#number(0, 3);
			last = (header & 1) === 1;
			made += yield* this.#blockOf((header >> 1) & 3, header >> 3, Math.min(BLOCK_LIMIT, frame.window));
			if (made > (frame.contentSize ?? made))
				throw this.#fault('too-long', `expected ${frame.contentSize} bytes, got more`);
		}
		if (made !== (frame.contentSize ?? made)) {
			throw this.#fault('too-short', `expected ${frame.contentSize} bytes, got ${made}`);
		}
		if (frame.checksum) yield* this.#need(4);
	}

	*#header(): Generator<void, Frame, void> {
		yield* this.#need(1);
		const flags = this.#number(0, 1);
		if (flags & 8) throw this.#fault('malformed', 'frame header: a reserved bit is set');
		const single = (flags & 0x20) !== 0;
		const idWidth = [0, 1, 2, 4][flags & 3] as number;
		const sizeWidth = flags >> 6 === 0 ? Number(single) : 1 << (flags >> 6);
		const windowWidth = single ? 0 : 1;
		yield* this.#need(windowWidth + idWidth + sizeWidth);
		if (this.#number(windowWidth, idWidth) !== 0) {
			throw this.#fault('unsupported', 'frame header: expected no dictionary, got one');
		}
		const size = this.#number(windowWidth + idWidth, sizeWidth) + (sizeWidth === 2 ? 256 : 0);
		const descriptor = this.#number(0, windowWidth);
		const window = single ? size : 2 ** (10 + (descriptor >> 3)) * (1 + (descriptor & 7) / 8);
		if (window > this.#windowLimit) {
			throw this.#fault(
				'too-large',
				`frame header: expected a window of ${this.#windowLimit} bytes at most, got ${window}`,
			);
		}
		this.#history = window;
		return { window, contentSize: sizeWidth === 0 ? undefined : size, checksum: (flags & 4) !== 0 };
	}

	/** @returns the bytes it decoded to */
	*#blockOf(type: number, size: number, limit: number): Generator<void, number, void> {
		if (type === 3) throw this.#fault('malformed', 'block: expected type 0, 1 or 2, got 3');
		if (size > limit) throw this.#fault('too-large', `block: expected ${limit} bytes at most, got ${size}`);
		yield* this.#need(type === 1 ? 1 : size);
		const start = this.#room();
		const { bytes } = this.#block;
		if (type === 0) this.#window.set(bytes.subarray(MARGIN, MARGIN + size), start);
		else if (type === 1) this.#window.fill(bytes[MARGIN] as number, start, start + size);
		this.#at = type === 2 ? this.#compressed(size, start, limit) : start + size;
		if (this.#at > start) this.#output(this.#window.subarray(start, this.#at));
		return this.#at - start;
	}

	/** @returns where its output ends */
	#compressed(size: number, start: number, limit: number): number {
		const block = this.#block;
		const end = MARGIN + size;
		if (size < 2) throw block.fail(MARGIN, 'block: expected literals and sequences, got less than 2 bytes');
		// What an earlier, longer block left behind must not be taken for bits.
		block.bytes.fill(0, end, end + MARGIN);
		const [literals, from] = this.#literals.read(block, MARGIN, end);
		if (from >= end) throw block.fail(from, 'sequences: missing');
		const window = this.#window;
		const stop = start + limit;
		let [at, used] = [start, 0];
		this.#sequences.read(block, from, end, (count, match, offset) => {
			if (used + count > literals.length) throw block.fail(from, 'sequences: more literals than there are');
			if (at + count + match > stop) throw block.fail(from, `block: decodes to more than ${limit} bytes`);
			for (let i = 0; i < count; i++) window[at++] = literals[used++] as number;
			if (offset > at) throw block.fail(from, `sequences: an offset of ${offset} reaches before the frame`);
			if (offset >= match) {
				window.copyWithin(at, at - offset, at - offset + match);
				at += match;
			} else for (const to = at + match; at < to; at++) window[at] = window[at - offset] as number;
		});
		const rest = literals.length - used;
		if (at + rest > stop) throw block.fail(from, `block: decodes to more than ${limit} bytes`);
		window.set(literals.subarray(used), at);
		return at + rest;
	}

	/** Makes room for one more block behind the history. @returns where it goes */
	#room(): number {
		if (this.#at + BLOCK_LIMIT <= this.#window.length) return this.#at;
		if (this.#window.length < this.#history + 2 * BLOCK_LIMIT) {
			const grown = new Uint8Array(Math.min(this.#window.length * 2, this.#history + 2 * BLOCK_LIMIT));
			grown.set(this.#window.subarray(0, this.#at));
			this.#window = grown;
			return this.#room();
		}
		this.#window.copyWithin(0, this.#at - this.#history, this.#at);
		this.#at = this.#history;
		return this.#at;
	}

	#fault(code: 'malformed' | 'too-large' | 'too-long' | 'too-short' | 'unsupported', message: string): CodecError {
		return new CodecError(code, this.#taken - this.#gathered, `zstd: ${message}`);
	}
}
