import { PAGE_SIZE } from '@cvm/layout';
import { MULTIFD_PAGE_COUNT } from '../codec/multifd/packet.js';
import type { MultifdCompression } from '../codec/multifd/reader.js';
import { MultifdWriter } from '../codec/multifd/writer.js';
import type { ZlibLevel } from '../codec/zlib.js';
import type { ByteSink } from '../ports.js';
import { ChunkQueue } from '../write/chunks.js';
import type { PrecopyStatistics } from './statistics.js';

/** Extra connections for pages: capability `multifd`. */
export interface MultifdSinks {
	/** One per channel, in order of their ids. The main connection must be opened before them, as QEMU 7.2 expects. */
	readonly sinks: readonly ByteSink[];
	/** `multifd-compression`. Default none. */
	readonly compression?: MultifdCompression;
	/** `multifd-zlib-level`. Default 1. */
	readonly level?: ZlibLevel;
}

interface Channel {
	readonly queue: ChunkQueue;
	readonly writer: MultifdWriter;
}

/**
 * Spreads pages over channels in packets of at most 128 pages of one block, and puts a barrier across them. QEMU 7.2
 * migration/multifd.c `multifd_queue_page`, `multifd_send_pages`, `multifd_send_sync_main`.
 */
export class MultifdSender {
	readonly #channels: readonly Channel[];
	readonly #statistics: PrecopyStatistics;
	readonly #pages: { address: number; readonly data: Uint8Array }[];
	#block = '';
	#count = 0;
	#packets = 0n;
	#next = 0;

	/** Writes the packet that opens each channel. */
	constructor(o: MultifdSinks, uuid: Uint8Array | undefined, statistics: PrecopyStatistics) {
		this.#statistics = statistics;
		this.#pages = Array.from({ length: MULTIFD_PAGE_COUNT }, () => ({ address: 0, data: new Uint8Array(PAGE_SIZE) }));
		const { sinks, ...how } = o;
		this.#channels = sinks.map((sink, channel) => {
			const queue = new ChunkQueue(sink);
			const write = (data: Uint8Array): void => queue.append(data);
			return { queue, writer: new MultifdWriter({ ...how, write, channel, ...(uuid && { uuid }) }) };
		});
		for (const channel of this.#channels) handOver(channel);
	}

	/** Bytes that wait for their packet to be full. */
	get queued(): number {
		return this.#count * PAGE_SIZE;
	}

	/** Copies the page; it goes out when the packet is full or another block begins, at the latest with the next barrier. */
	page(block: string, address: number, bytes: Uint8Array): void {
		if (this.#count > 0 && block !== this.#block) this.#send();
		const slot = this.#pages[this.#count];
		if (slot === undefined) return;
		this.#block = block;
		slot.address = address;
		slot.data.set(bytes);
		if (++this.#count === MULTIFD_PAGE_COUNT) this.#send();
	}

	/** Sends what is queued and, on each channel, a packet at which the receivers wait for the main stream. */
	barrier(): void {
		if (this.#count > 0) this.#send();
		for (const channel of this.#channels) {
			this.#counted(channel, () => channel.writer.sync(this.#packets++));
			// A receiver of the main stream waits for it: it must not stay here.
			handOver(channel);
		}
	}

	/** Resolves when every channel can take more; undefined if it is so now. @throws what a sink threw */
	ready(): Promise<void> | undefined {
		for (const { queue } of this.#channels) {
			const busy = queue.ready();
			if (busy !== undefined) return busy;
		}
		return undefined;
	}

	/** Resolves when the sinks have taken everything. @throws what a sink threw */
	async flush(): Promise<void> {
		for (const { queue } of this.#channels) await queue.flush();
	}

	#send(): void {
		const channel = this.#channels[this.#next];
		if (channel === undefined) return;
		this.#next = (this.#next + 1) % this.#channels.length;
		const normal = this.#pages.slice(0, this.#count);
		this.#counted(channel, () => channel.writer.pages({ packetNum: this.#packets++, block: this.#block, normal }));
		this.#count = 0;
	}

	#counted({ queue }: Channel, work: () => void): void {
		const before = queue.position;
		work();
		this.#statistics.multifdBytes += queue.position - before;
	}
}

/** Failures show in `ready` and `flush`. */
function handOver({ queue }: Channel): void {
	queue.flush().catch(() => {});
}
