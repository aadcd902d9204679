import { PAGE_SIZE } from '@cvm/layout';
import type { ZlibLevel } from '../deflate-stream.js';
import { joined } from '../deflate-stream.js';
import { CodecError } from '../error.js';
import { ZlibChannelDeflater } from '../zlib.js';
import { ZstdStoredEncoder } from '../zstd/stored.js';
import { encodeMultifdInit, encodeMultifdPacket, MULTIFD_PAGE_COUNT, MultifdFlag } from './packet.js';
import type { MultifdCompression } from './reader.js';
import { COMPRESSION_FLAGS } from './reader.js';

/** Options of {@link MultifdWriter}. */
export interface MultifdWriterOptions {
	/** Takes the bytes of the channel in order. Pages are passed on as given, not copied. */
	readonly write: (data: Uint8Array) => void;
	/** From 0. */
	readonly channel: number;
	/** UUID of the VM, 16 bytes, which the target compares with its own. Default zeros: none. */
	readonly uuid?: Uint8Array;
	/** Default none. `zstd` stores (see {@link ZstdStoredEncoder}). */
	readonly compression?: MultifdCompression;
	/** `multifd-zlib-level`. Default 1. */
	readonly level?: ZlibLevel;
	/** Whether packets may name zero pages: since 9.0. Before, they go on the main channel. Default false. */
	readonly zeroPages?: boolean;
	/** As the target's. Default 128. */
	readonly pageCount?: number;
}

/** Pages of one block for one packet. */
export interface MultifdPages {
	/** Counts packets over all channels, from 0. */
	readonly packetNum: bigint;
	readonly block: string;
	/** Pages with content: byte offset in the block, and 4096 bytes. */
	readonly normal: readonly { readonly address: number; readonly data: Uint8Array }[];
	/** Byte offsets of pages that are zero. */
	readonly zero?: readonly number[];
	/** Whether every channel's receiver waits after this packet. */
	readonly sync?: boolean;
}

/** Writes one multifd channel. The caller spreads pages over channels and sends a SYNC on each of them at every barrier. */
export class MultifdWriter {
	readonly #options: MultifdWriterOptions;
	readonly #compression: MultifdCompression;
	readonly #pageCount: number;
	readonly #compress: ((pages: readonly Uint8Array[]) => Uint8Array) | undefined;

	/** Writes the packet that opens the channel. @throws CodecError `argument` */
	constructor(options: MultifdWriterOptions) {
		this.#options = options;
		this.#compression = options.compression ?? 'none';
		this.#pageCount = options.pageCount ?? MULTIFD_PAGE_COUNT;
		this.#compress = compressor(this.#compression, options.level);
		options.write(encodeMultifdInit({ uuid: options.uuid ?? new Uint8Array(16), channel: options.channel }));
	}

	/** @throws CodecError `argument`: too many pages, a page of another size, or zero pages before 9.0 */
	pages(pages: MultifdPages): void {
		const { packetNum, block, normal, zero = [], sync = false } = pages;
		if (zero.length > 0 && this.#options.zeroPages !== true) {
			throw new CodecError('argument', 0, 'multifd: zero pages belong on the main channel before QEMU 9.0');
		}
		if (normal.some(({ data }) => data.length !== PAGE_SIZE)) {
			throw new CodecError('argument', 0, `multifd: expected pages of ${PAGE_SIZE} bytes`);
		}
		const data = normal.map((page) => page.data);
		// Refused before the compressor has seen any of it.
		const header = {
			flags: (sync ? MultifdFlag.sync : 0) | (normal.length > 0 ? COMPRESSION_FLAGS[this.#compression] : 0),
			pagesAlloc: this.#pageCount,
			nextPacketSize: normal.length * PAGE_SIZE,
			packetNum,
			block,
			normal: normal.map(({ address }) => address),
			zero,
		};
		const draft = encodeMultifdPacket(header, this.#pageCount);
		if (this.#compress === undefined || normal.length === 0) {
			for (const piece of [draft, ...data]) this.#options.write(piece);
			return;
		}
		const payload = this.#compress(data);
		this.#options.write(encodeMultifdPacket({ ...header, nextPacketSize: payload.length }, this.#pageCount));
		this.#options.write(payload);
	}

	/** A packet of nothing but SYNC. */
	sync(packetNum: bigint): void {
		this.pages({ packetNum, block: '', normal: [], sync: true });
	}
}

function compressor(
	kind: MultifdCompression,
	level?: ZlibLevel,
): ((pages: readonly Uint8Array[]) => Uint8Array) | undefined {
	if (kind === 'none') return undefined;
	if (kind === 'zlib') {
		const zlib = new ZlibChannelDeflater(level);
		return (pages) => zlib.deflate(pages);
	}
	const zstd = new ZstdStoredEncoder();
	return (pages) => zstd.encode(joined(pages));
}
