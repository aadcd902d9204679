import { CodecError } from '../codec/error.js';
import { MULTIFD_COMPRESSION_MASK } from '../codec/multifd/packet.js';
import { MultifdReader } from '../codec/multifd/reader.js';
import type { ImageBuilder } from './builder.js';
import type { MultifdChannelInfo } from './content.js';
import { ImageError } from './error.js';
import type { OpenedInput } from './input.js';
import { PageKind } from './page-kind.js';

/** Pages that came before the block list: packets may overtake the main stream. */
interface Early {
	readonly block: string;
	readonly address: number;
	readonly page: Uint8Array | undefined;
	readonly at: number;
	readonly barrier: number;
}

/** Bytes of pages that may wait for the block list. */
const MAX_EARLY = 64 * 2 ** 20;

/**
 * Reads one multifd channel into an image. Records of one page on different channels are ordered by barriers: the SYNC
 * packets here, what stands for them in the main stream there. Between two barriers no page is sent twice, so that packet
 * numbers, which order packets between channels, decide nothing; they are checked by `verifyStream`.
 */
export class ChannelReader {
	readonly #builder: ImageBuilder;
	readonly #input: OpenedInput;
	readonly #reader: MultifdReader;
	readonly #early: Early[] = [];
	#earlyBytes = 0;
	#channel = 0;
	#uuid: Uint8Array = new Uint8Array(16);
	#packets = 0;
	#pages = 0;
	#syncs = 0;
	#compression = 0;
	#first = -1n;
	#last = -1n;
	#deviceStates = 0;

	constructor(builder: ImageBuilder, input: OpenedInput) {
		this.#builder = builder;
		this.#input = input;
		this.#reader = new MultifdReader({
			handler: {
				init: ({ channel, uuid }) => {
					this.#channel = channel;
					this.#uuid = uuid.slice();
				},
				packet: (packet, _raw, at) => {
					this.#packets += 1;
					this.#pages += packet.normal.length + packet.zero.length;
					if (packet.normal.length > 0) this.#compression = packet.flags & MULTIFD_COMPRESSION_MASK;
					if (this.#first < 0n || packet.packetNum < this.#first) this.#first = packet.packetNum;
					if (packet.packetNum > this.#last) this.#last = packet.packetNum;
					for (const address of packet.zero) this.#page(packet.block, address, undefined, at);
				},
				page: (block, address, page, at) => this.#page(block, address, page, at),
				sync: () => {
					this.#syncs += 1;
				},
				deviceState: () => {
					this.#deviceStates += 1;
				},
			},
		});
	}

	push(chunk: Uint8Array): void {
		this.#reader.push(chunk);
	}

	end(): void {
		this.#reader.end();
	}

	/** Applies what came before the block list; to be called when the main stream was read. */
	settle(): void {
		for (const { block, address, page, at, barrier } of this.#early.splice(0)) {
			this.#apply(block, address, page, at, barrier);
		}
		this.#earlyBytes = 0;
	}

	get info(): MultifdChannelInfo {
		return {
			input: this.#input.index,
			channel: this.#channel,
			uuid: this.#uuid,
			packets: this.#packets,
			pages: this.#pages,
			syncs: this.#syncs,
			compression: this.#compression,
			first: this.#first,
			last: this.#last,
			deviceStates: this.#deviceStates,
		};
	}

	#page(block: string, address: number, page: Uint8Array | undefined, at: number): void {
		if (this.#builder.blocks.all.length === 0) {
			this.#keep({ block, address, page: page?.slice(), at, barrier: this.#syncs });
			return;
		}
		if (this.#early.length > 0) this.settle();
		this.#apply(block, address, page, at, this.#syncs);
	}

	#keep(early: Early): void {
		this.#earlyBytes += early.page?.length ?? 64;
		if (this.#earlyBytes > MAX_EARLY) {
			const text = `${this.#input.name}: expected the main stream's block list before 64 MiB of pages`;
			throw new ImageError('input', text);
		}
		this.#early.push(early);
	}

	#apply(name: string, address: number, page: Uint8Array | undefined, at: number, barrier: number): void {
		const builder = this.#builder;
		const block = builder.blocks.find(name);
		if (block === undefined) {
			const text = `multifd: unknown ram block ${name}`;
			throw new CodecError('block', at, text, [text]);
		}
		if (address >= block.stream.usedLength || address % 4096 !== 0) {
			const text = `multifd: offset too long ${address} (max ${block.stream.usedLength.toString(16)})`;
			throw new CodecError('offset', at, text, [text]);
		}
		if (page === undefined) builder.putZero(block, address, PageKind.multifdZero, at, barrier);
		else builder.putPage(block, address, PageKind.multifd, page, at, barrier);
	}
}
