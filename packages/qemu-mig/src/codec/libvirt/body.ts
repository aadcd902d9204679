import { CodecError } from '../error.js';
import { GzipDecoder, GzipEncoder } from '../gzip.js';
import { ZstdDecoder } from '../zstd/decoder.js';
import { ZstdStoredEncoder } from '../zstd/stored.js';
import type { SaveFormat } from './header.js';
import { decodeSaveHeader, SAVE_HEADER_SIZE, saveFormatOf } from './header.js';

/** A step that turns bytes into others, as they come. */
export interface ByteFilter {
	push(data: Uint8Array): void;
	/** No more will come. */
	end(): void;
}

/** How to unpack what is not unpacked here. libvirt src/qemu/qemu_saveimage.c `qemuSaveImageGetCompressionCommand`. */
const PROGRAMS: Partial<Record<SaveFormat, string>> = {
	bzip2: 'bzip2 -dc',
	xz: 'xz -dc',
	lzop: 'lzop -dc --ignore-warn',
};

function unpacked(format: SaveFormat, bodyOffset: number): CodecError {
	const program = PROGRAMS[format];
	const advice =
		program === undefined
			? 'read it as a file, not as a stream: it is a mapped-ram file'
			: `pipe it through '${program}': tail -c +${bodyOffset + 1} FILE | ${program}`;
	return new CodecError('unsupported', bodyOffset, `libvirt save file: the stream is ${format}; ${advice}`);
}

/**
 * Unpacks the migration stream behind the header of a save file: raw, gzip and zstd.
 *
 * @param bodyOffset where the stream begins in the file, for errors and advice
 * @throws CodecError `unsupported` for the others; the message says which program unpacks them
 */
export function createSaveUnpacker(
	format: SaveFormat,
	output: (data: Uint8Array) => void,
	bodyOffset = SAVE_HEADER_SIZE,
): ByteFilter {
	if (format === 'raw') return { push: output, end: () => {} };
	if (format === 'gzip') return new GzipDecoder(output);
	if (format !== 'zstd') throw unpacked(format, bodyOffset);
	let taken = 0;
	const zstd = new ZstdDecoder(output);
	return {
		push(data) {
			zstd.push(data);
			taken += data.length;
		},
		end() {
			if (zstd.complete && taken > 0) return;
			throw new CodecError('truncated', bodyOffset + taken, 'zstd: the file ends inside a frame');
		},
	};
}

/**
 * Packs a migration stream for a save file: raw, gzip, or zstd without compression.
 *
 * @throws CodecError `unsupported` for the others
 */
export function createSavePacker(format: SaveFormat, output: (data: Uint8Array) => void): ByteFilter {
	if (format === 'raw') return { push: output, end: () => {} };
	if (format === 'gzip') return new GzipEncoder(output);
	if (format !== 'zstd') {
		throw new CodecError('unsupported', 0, `libvirt save file: expected raw, gzip or zstd, got ${format}`);
	}
	const zstd = new ZstdStoredEncoder();
	return { push: (data) => output(zstd.encode(data)), end: () => output(zstd.end()) };
}

/** Options of {@link SaveImageReader}. */
export interface SaveImageReaderOptions {
	/** Takes the bytes up to the migration stream, once; `decodeSaveImage` reads them. Throw to refuse a partial file. */
	readonly header: (prefix: Uint8Array) => void;
	/** Takes the migration stream, unpacked. */
	readonly body: (data: Uint8Array) => void;
	/** Bytes of XML and cookie at most. Default 16 MiB. */
	readonly limit?: number;
}

/** Reads a libvirt save file as it arrives: from a pipe as from a file. */
export class SaveImageReader implements ByteFilter {
	readonly #options: SaveImageReaderOptions;
	#prefix = new Uint8Array(SAVE_HEADER_SIZE);
	#filled = 0;
	#wanted = SAVE_HEADER_SIZE;
	#unpacker: ByteFilter | undefined;

	constructor(options: SaveImageReaderOptions) {
		this.#options = options;
	}

	/** @throws CodecError, and whatever the callbacks throw; not to be used after that */
	push(chunk: Uint8Array): void {
		let at = 0;
		while (this.#unpacker === undefined && at < chunk.length) {
			const piece = chunk.subarray(at, at + this.#wanted - this.#filled);
			this.#keep(piece);
			at += piece.length;
			if (this.#filled === this.#wanted) this.#step();
		}
		if (at < chunk.length) this.#unpacker?.push(chunk.subarray(at));
	}

	/** @throws CodecError `truncated` in the header or the packed stream, `checksum` */
	end(): void {
		if (this.#unpacker !== undefined) {
			this.#unpacker.end();
			return;
		}
		const got = `expected ${this.#wanted} bytes, got ${this.#filled}`;
		throw new CodecError('truncated', this.#filled, `libvirt save header: ${got}`);
	}

	/** The buffer grows as bytes arrive, not as the header says. */
	#keep(piece: Uint8Array): void {
		const end = this.#filled + piece.length;
		if (end > this.#prefix.length) {
			const grown = new Uint8Array(Math.max(2 * this.#prefix.length, end));
			grown.set(this.#prefix.subarray(0, this.#filled));
			this.#prefix = grown;
		}
		this.#prefix.set(piece, this.#filled);
		this.#filled = end;
	}

	/** All that was wanted is here: the fixed part, then the rest. */
	#step(): void {
		const prefix = this.#prefix.subarray(0, this.#filled);
		const header = decodeSaveHeader(prefix, this.#options.limit);
		this.#wanted = SAVE_HEADER_SIZE + header.dataLength;
		if (this.#filled < this.#wanted) return;
		// The header is told first, so that a file of an unsupported format can still be described.
		this.#options.header(prefix);
		this.#unpacker = createSaveUnpacker(saveFormatOf(header), this.#options.body, this.#wanted);
		this.#prefix = new Uint8Array(0);
	}
}
