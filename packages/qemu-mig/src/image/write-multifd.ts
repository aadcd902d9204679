import { PAGE_SIZE } from '@cvm/layout';
import { MULTIFD_PAGE_COUNT } from '../codec/multifd/packet.js';
import { MultifdWriter } from '../codec/multifd/writer.js';
import { ChunkQueue } from '../write/chunks.js';
import type { ImageBlock } from './content.js';
import { ImageError } from './error.js';
import type { ImageSinks, WriteImageOptions } from './write-options.js';
import type { OutgoingPage } from './write-ram.js';

/** The channels of a migration: packets of 128 pages go to one after another. */
export class ChannelGroup {
	readonly #queues: readonly ChunkQueue[];
	readonly #writers: readonly MultifdWriter[];
	readonly #zeroPages: boolean;
	readonly #buffer = new Uint8Array(MULTIFD_PAGE_COUNT * PAGE_SIZE);
	#block: ImageBlock | undefined;
	#normal: { address: number; data: Uint8Array }[] = [];
	#zero: number[] = [];
	#next = 0;
	#packetNum = 0n;

	/** @throws ImageError `argument` */
	constructor(sinks: ImageSinks, options: WriteImageOptions, uuid: Uint8Array | undefined) {
		const { channels = 2, compression = 'none', zeroPages = false } = options.multifd ?? {};
		const { channel } = sinks;
		if (channel === undefined || !Number.isInteger(channels) || channels < 1 || channels > 255) {
			throw new ImageError('argument', `multifd: expected 1 to 255 channels and a sink for each, got ${channels}`);
		}
		this.#zeroPages = zeroPages;
		this.#queues = Array.from({ length: channels }, (_, i) => new ChunkQueue(channel(i)));
		this.#writers = this.#queues.map(
			(queue, i) =>
				new MultifdWriter({
					write: (data) => queue.append(data),
					channel: i,
					compression,
					zeroPages,
					...(uuid === undefined ? {} : { uuid }),
					...(options.level === undefined ? {} : { level: options.level }),
				}),
		);
	}

	/** Bytes per channel. */
	get positions(): number[] {
		return this.#queues.map(({ position }) => position);
	}

	/** Takes a page, unless it must go on the main channel. */
	async page({ block, address, content }: OutgoingPage): Promise<boolean> {
		if (content === undefined && !this.#zeroPages) return false;
		if (this.#block !== block || this.#normal.length + this.#zero.length === MULTIFD_PAGE_COUNT) await this.#packet();
		this.#block = block;
		if (content === undefined) this.#zero.push(address);
		else {
			const data = this.#buffer.subarray(this.#normal.length * PAGE_SIZE, (this.#normal.length + 1) * PAGE_SIZE);
			data.set(content);
			this.#normal.push({ address, data });
		}
		return true;
	}

	/** A barrier: what was taken so far arrives before it on every channel. */
	async sync(): Promise<void> {
		await this.#packet();
		for (const [i, writer] of this.#writers.entries()) {
			writer.sync(this.#packetNum++);
			await this.#queues[i]?.ready();
		}
	}

	async flush(): Promise<void> {
		await this.#packet();
		for (const queue of this.#queues) await queue.flush();
	}

	async #packet(): Promise<void> {
		if (this.#block === undefined || this.#normal.length + this.#zero.length === 0) return;
		const number = this.#next;
		this.#next = (number + 1) % this.#writers.length;
		const pages = { block: this.#block.idstr, normal: this.#normal, zero: this.#zero, packetNum: this.#packetNum++ };
		this.#writers[number]?.pages(pages);
		this.#normal = [];
		this.#zero = [];
		await this.#queues[number]?.ready();
	}
}
