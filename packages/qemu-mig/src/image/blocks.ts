import { PAGE_SIZE } from '@cvm/layout';
import type { StreamBlock } from '../events.js';
import type { HeaderSlots, ImageBlock } from './content.js';
import { ImageError } from './error.js';
import type { FactDetail } from './facts.js';
import { BlockFacts } from './facts.js';
import type { PageKind } from './page-kind.js';
import { isMissing, isZeroKind } from './page-kind.js';
import type { RamStore } from './store.js';

/** Guest RAM accepted, in bytes: what is kept per page is bounded by it. */
export const DEFAULT_RAM_LIMIT = 16 * 2 ** 40;
/** Address space given to a block whose length is unknown. */
const UNKNOWN_LENGTH = 2 ** 40;
/** Bytes of a header slot at least: the firmware's 52-byte header and a length. */
const SMALLEST_SLOT = 64;

/** A block while the image is built. */
export interface OpenBlock {
	readonly index: number;
	readonly stream: StreamBlock;
	readonly facts: BlockFacts;
	readonly listed: boolean;
	/** Number in the store. */
	readonly stored: number;
	headers: HeaderSlots | undefined;
	/** End of the highest page seen, for blocks of unknown length. */
	reached: number;
}

/** The blocks of an image under construction, and what is in them. */
export class BlockTable {
	readonly all: OpenBlock[] = [];
	readonly store: RamStore | undefined;
	readonly #byName = new Map<string, OpenBlock>();
	/** What is kept of the pages of blocks that are added. */
	detail: FactDetail;
	readonly #limit: number;
	readonly #header = new Uint8Array(2);
	/** The block asked for last: records mostly stay in one. */
	#last: OpenBlock | undefined;
	#total = 0;

	constructor(store: RamStore | undefined, detail: FactDetail, limit: number) {
		this.store = store;
		this.detail = detail;
		this.#limit = limit;
	}

	find(name: string): OpenBlock | undefined {
		if (this.#last?.stream.idstr === name) return this.#last;
		const found = this.#byName.get(name);
		if (found !== undefined) this.#last = found;
		return found;
	}

	/** @throws ImageError `limit`, and what the store throws */
	add(stream: StreamBlock, listed = true): OpenBlock {
		this.#total += listed ? stream.usedLength : 0;
		if (this.#total > this.#limit) {
			throw new ImageError('limit', `blocks: expected at most ${this.#limit} bytes in all, got ${this.#total}`);
		}
		const block: OpenBlock = {
			index: this.all.length,
			stream,
			facts: new BlockFacts(Math.ceil(stream.usedLength / PAGE_SIZE), this.detail),
			listed,
			stored: this.store?.addBlock(stream.idstr, stream.usedLength) ?? this.all.length,
			headers: undefined,
			reached: 0,
		};
		this.all.push(block);
		this.#byName.set(stream.idstr, block);
		return block;
	}

	/** A block that no list announced: in what is left of a damaged stream. */
	addUnlisted(idstr: string): OpenBlock {
		return this.add({ idstr, usedLength: UNKNOWN_LENGTH }, false);
	}

	/** Puts content into place. */
	write(block: OpenBlock, address: number, page: Uint8Array): void {
		this.store?.write(block.stored, address, page);
	}

	read(block: OpenBlock, address: number, into: Uint8Array): void {
		this.store?.read(block.stored, address, into);
	}

	/** Makes a page zero that was of kind `before`. */
	clear(block: OpenBlock, address: number, before: PageKind): void {
		if (isMissing(before) || isZeroKind(before)) return;
		this.store?.clear(block.stored, address, PAGE_SIZE);
	}

	/** Keeps the header of a sealed page. @throws ImageError `unsupported` if it is longer than the slots are */
	writeHeader(block: OpenBlock, address: number, header: Uint8Array): void {
		if (this.store === undefined) return;
		block.headers ??= this.#slots(this.store, block, header.length);
		const { block: slots, stride } = block.headers;
		if (header.length + 2 > stride) {
			const text = `sealed page: expected headers of at most ${stride - 2} bytes as before, got ${header.length}`;
			throw new ImageError('unsupported', text);
		}
		const at = (address / PAGE_SIZE) * stride;
		this.#header[0] = header.length >> 8;
		this.#header[1] = header.length & 0xff;
		this.store.write(slots, at, this.#header);
		this.store.write(slots, at + 2, header);
	}

	#slots(store: RamStore, block: OpenBlock, headerLength: number): HeaderSlots {
		const stride = Math.max(SMALLEST_SLOT, Math.ceil((headerLength + 2) / 8) * 8);
		const number = store.addBlock(`${block.stream.idstr} (headers)`, block.facts.pages * stride);
		return { block: number, stride };
	}

	/** The blocks as they are now. */
	finish(): ImageBlock[] {
		return this.all.map(({ stream, facts, listed, stored, headers, reached }) => {
			if (!listed) facts.pages = reached / PAGE_SIZE;
			const { idstr, pageSize, address } = stream;
			return {
				index: stored,
				idstr,
				usedLength: listed ? stream.usedLength : reached,
				listed,
				...(pageSize === undefined ? {} : { pageSize }),
				...(address === undefined ? {} : { address }),
				facts,
				...(headers === undefined ? {} : { headers }),
			};
		});
	}
}
