import { PAGE_SIZE } from '@cvm/layout';
import { ByteWindow } from '../../read/window.js';
import { CodecError } from '../error.js';
import { ZlibChannelInflater } from '../zlib.js';
import { ZstdChannelInflater } from '../zstd/channel.js';
import type { MultifdDeviceState, MultifdInit, MultifdPacket } from './packet.js';
import {
	decodeMultifdDeviceState,
	decodeMultifdInit,
	decodeMultifdPacket,
	MULTIFD_COMPRESSION_MASK,
	MULTIFD_DEVICE_STATE_SIZE,
	MULTIFD_INIT_SIZE,
	MULTIFD_PAGE_COUNT,
	MultifdFlag,
	multifdPacketSize,
} from './packet.js';

/** How the pages of a channel are compressed. */
export type MultifdCompression = 'none' | 'zlib' | 'zstd';

/** {@link MultifdFlag}s of each {@link MultifdCompression}. */
export const COMPRESSION_FLAGS: Readonly<Record<MultifdCompression, number>> = {
	none: 0,
	zlib: MultifdFlag.zlib,
	zstd: MultifdFlag.zstd,
};

/** Others that QEMU knows, and since when. */
const FOREIGN: ReadonlyMap<number, string> = new Map([
	[MultifdFlag.qpl, 'qpl, since QEMU 9.1'],
	[MultifdFlag.uadk, 'uadk, since QEMU 9.1'],
	[MultifdFlag.qatzip, 'qatzip, since QEMU 9.2'],
]);

/**
 * Receives what a {@link MultifdReader} reads, in the order of the channel. `at` is the offset in the channel of the packet
 * or data. Byte arrays are views, valid until the callback returns. An exception thrown here ends the reader.
 */
export interface MultifdHandler {
	/** `raw` is the whole packet of 64 bytes. */
	init?(init: MultifdInit, raw: Uint8Array, at: number): void;
	/** `raw` is the whole packet without its payload. Events of its payload follow. */
	packet?(packet: MultifdPacket, raw: Uint8Array, at: number): void;
	/** The payload as it came; only of compressed packets. */
	compressed?(data: Uint8Array, at: number): void;
	/** A page of the payload, in the order of `packet.normal`. `packet.zero` are pages too, without an event of their own. */
	page?(block: string, address: number, page: Uint8Array, at: number): void;
	/** The packet had SYNC set: all it carried has been delivered. */
	sync?(packetNum: bigint, at: number): void;
	/** `raw` is the header, 276 bytes. */
	deviceState?(state: MultifdDeviceState, data: Uint8Array, raw: Uint8Array, at: number): void;
}

/** Options of {@link MultifdReader}. */
export interface MultifdReaderOptions {
	readonly handler: MultifdHandler;
	/** Default: as the first packet with pages says. */
	readonly compression?: MultifdCompression;
	/** Whether compressed pages are decompressed to `page` events. Without it every compression is read. Default true. */
	readonly decompress?: boolean;
	/** Pages of a packet at most; it gives the size of every packet. Default 128, QEMU's for pages of 4 KiB. */
	readonly pageCount?: number;
	/** Used length of a block, undefined if there is none of that name. Default: every block and offset is accepted. */
	readonly blockLength?: (block: string) => number | undefined;
	/** Bytes of one piece of device state at most. Default 16 MiB. */
	readonly deviceStateLimit?: number;
}

interface Inflater {
	inflate(data: Uint8Array, out: Uint8Array): void;
}

/** Caps `pageCount`: QEMU allowed packets a hundred times longer than usual up to 6.2. */
const PAGE_COUNT_LIMIT = 100 * MULTIFD_PAGE_COUNT;

type Parse<T = void> = Generator<void, T, void>;

/**
 * Reads one multifd channel: push what arrives. Packets of different channels are ordered by `packetNum`; pages of one
 * address sent before and after a SYNC must be applied in that order, and within it no page is sent twice. QEMU 7.2 to 10.0
 * migration/multifd.c.
 */
export class MultifdReader {
	/**
	 * Set it, also in a callback, to make the reader keep what arrives instead of reading on after the present packet; after
	 * it is cleared, the next `push`, perhaps of nothing, reads what was kept.
	 */
	paused = false;
	readonly #handler: MultifdHandler;
	readonly #options: MultifdReaderOptions;
	readonly #pageCount: number;
	readonly #window = new ByteWindow();
	readonly #steps: Parse;
	#compression: number | undefined;
	#inflater: Inflater | undefined;
	#out: Uint8Array | undefined;
	#channel = 0;
	#between = false;
	#ended = false;

	/** @throws CodecError `argument` */
	constructor(options: MultifdReaderOptions) {
		this.#handler = options.handler;
		this.#options = options;
		this.#pageCount = options.pageCount ?? MULTIFD_PAGE_COUNT;
		if (!Number.isInteger(this.#pageCount) || this.#pageCount < 1 || this.#pageCount > PAGE_COUNT_LIMIT) {
			throw new CodecError('argument', 0, `multifd: expected 1 to ${PAGE_COUNT_LIMIT} pages, got ${this.#pageCount}`);
		}
		if (options.compression !== undefined) this.#compression = COMPRESSION_FLAGS[options.compression];
		this.#steps = this.#run();
	}

	/** Reads a chunk, which may be reused afterwards. @throws CodecError, and whatever the handler throws; both end it */
	push(chunk: Uint8Array): void {
		if (this.#ended) throw new CodecError('closed', this.#window.offset, 'multifd: the channel has ended or failed');
		this.#window.feed(chunk);
		this.#ended = true;
		this.#steps.next();
		this.#ended = false;
	}

	/** The channel was closed. @throws CodecError `truncated` unless that is between packets */
	end(): void {
		if (this.#ended) throw new CodecError('closed', this.#window.offset, 'multifd: the channel has ended or failed');
		this.#ended = true;
		const left = this.#window.end - this.#window.at;
		if (this.#between && left === 0) return;
		throw new CodecError('truncated', this.#window.offset + left, 'multifd: the channel ends inside a packet');
	}

	*#need(count: number): Parse {
		const window = this.#window;
		while (window.end - window.at < count) if (!window.pull(count)) yield;
	}

	*#take(count: number): Parse<Uint8Array> {
		yield* this.#need(count);
		const window = this.#window;
		window.at += count;
		return window.bytes.subarray(window.at - count, window.at);
	}

	*#run(): Parse {
		const raw = yield* this.#take(MULTIFD_INIT_SIZE);
		const init = decodeMultifdInit(raw, 0);
		this.#channel = init.channel;
		this.#handler.init?.(init, raw, 0);
		for (;;) {
			this.#between = true;
			while (this.paused) {
				while (this.#window.pull(Number.MAX_SAFE_INTEGER));
				yield;
			}
			yield* this.#need(1);
			this.#between = false;
			// The flags tell which of two headers it is.
			yield* this.#need(12);
			if (this.#window.view.getUint32(this.#window.at + 8) & MultifdFlag.deviceState) yield* this.#deviceState();
			else yield* this.#packet();
		}
	}

	*#deviceState(): Parse {
		const at = this.#window.offset;
		// A copy: the header is handed out together with the data.
		const raw = (yield* this.#take(MULTIFD_DEVICE_STATE_SIZE)).slice();
		const state = decodeMultifdDeviceState(raw, at);
		const limit = this.#options.deviceStateLimit ?? 16 * 1024 * 1024;
		if (state.size > limit) {
			throw new CodecError(
				'too-large',
				at + 272,
				`multifd: expected device state of ${limit} bytes at most, got ${state.size}`,
			);
		}
		this.#handler.deviceState?.(state, yield* this.#take(state.size), raw, at);
	}

	*#packet(): Parse {
		const at = this.#window.offset;
		const raw = yield* this.#take(multifdPacketSize(this.#pageCount));
		const packet = decodeMultifdPacket(raw, this.#pageCount, at);
		if (packet.normal.length + packet.zero.length > 0) this.#checkPages(packet, at);
		this.#handler.packet?.(packet, raw, at);
		// Without pages there is no payload, whatever `nextPacketSize` says.
		if (packet.normal.length > 0) {
			const compression = this.#compressionOf(packet, at);
			if (compression === 0) yield* this.#plainPages(packet);
			else yield* this.#compressedPages(packet, compression);
		}
		if (packet.flags & MultifdFlag.sync) this.#handler.sync?.(packet.packetNum, at);
	}

	#checkPages(packet: MultifdPacket, at: number): void {
		const { blockLength } = this.#options;
		if (blockLength === undefined) return;
		const length = blockLength(packet.block);
		if (length === undefined) {
			const text = `multifd: unknown ram block ${packet.block}`;
			throw new CodecError('block', at + 64, text, [text]);
		}
		[...packet.normal, ...packet.zero].forEach((offset, i) => {
			if (offset <= length - PAGE_SIZE) return;
			const text = `multifd: offset too long ${offset} (max ${length.toString(16)})`;
			throw new CodecError('offset', at + 320 + 8 * i, text, [text]);
		});
	}

	#compressionOf(packet: MultifdPacket, at: number): number {
		const flags = packet.flags & MULTIFD_COMPRESSION_MASK;
		this.#compression ??= flags;
		if (flags === this.#compression) return flags;
		const [got, expected] = [flags.toString(16), this.#compression.toString(16)];
		const text = `multifd ${this.#channel}: flags received ${got} flags expected ${expected}`;
		throw new CodecError('compression', at + 8, text, [text]);
	}

	*#plainPages(packet: MultifdPacket): Parse {
		for (const address of packet.normal) {
			const at = this.#window.offset;
			this.#handler.page?.(packet.block, address, yield* this.#take(PAGE_SIZE), at);
		}
	}

	*#compressedPages(packet: MultifdPacket, compression: number): Parse {
		const at = this.#window.offset;
		const size = packet.nextPacketSize;
		// QEMU's sender and receiver have a buffer of twice the pages.
		const limit = 2 * PAGE_SIZE * this.#pageCount;
		if (size > limit) throw new CodecError('too-large', at, `multifd: expected ${limit} bytes at most, got ${size}`);
		const data = yield* this.#take(size);
		this.#handler.compressed?.(data, at);
		if (this.#options.decompress === false) return;
		this.#inflater ??= this.#createInflater(compression, at);
		this.#out ??= new Uint8Array(PAGE_SIZE * this.#pageCount);
		const out = this.#out.subarray(0, PAGE_SIZE * packet.normal.length);
		this.#inflate(this.#inflater, data, out, at);
		packet.normal.forEach((address, i) => {
			this.#handler.page?.(packet.block, address, out.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE), at);
		});
	}

	#createInflater(compression: number, at: number): Inflater {
		if (compression === MultifdFlag.zlib) return new ZlibChannelInflater();
		if (compression === MultifdFlag.zstd) return new ZstdChannelInflater();
		const name = FOREIGN.get(compression) ?? `flags 0x${compression.toString(16)}`;
		throw new CodecError('unsupported', at, `multifd: expected zlib or zstd, got ${name}; migrate without it`);
	}

	/** Inflates, and gives errors the place in the channel and QEMU's words. */
	#inflate(inflater: Inflater, data: Uint8Array, out: Uint8Array, at: number): void {
		try {
			inflater.inflate(data, out);
		} catch (error) {
			if (!(error instanceof CodecError)) throw error;
			const zlib = inflater instanceof ZlibChannelInflater;
			// What libzstd calls other faults depends on its version.
			const words: Partial<Record<string, string>> = zlib
				? { 'too-short': 'inflate generated too few output', malformed: 'inflate returned -3 instead of Z_OK' }
				: { 'too-short': 'decompressStream buffer too small' };
			const text = words[error.code];
			const qemu = text === undefined ? [] : [`multifd ${this.#channel}: ${text}`];
			throw new CodecError(error.code, at, `multifd: ${error.detail}`, qemu, error);
		}
	}
}
