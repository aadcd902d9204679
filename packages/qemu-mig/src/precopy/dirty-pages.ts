import { PAGE_SIZE } from '@cvm/layout';
import type { PageSource } from '../ports.js';

/**
 * The pages still to send, one bit each, and a cursor that walks them in order of blocks and pages, wrapping.
 * QEMU 7.2 migration/ram.c keeps the same in `RAMBlock.bmap`.
 */
export class DirtyPages {
	/** Page that {@link take} found. */
	block = 0;
	page = 0;
	/** Bits set. */
	count = 0;
	/** Whether all blocks have been walked through once. */
	walked = false;
	readonly #source: PageSource;
	readonly #bitmaps: readonly Uint32Array[];
	readonly #fresh: readonly Uint32Array[];
	readonly #lastMasks: readonly number[];
	#next = 0;

	/** Every page of every block starts dirty. @throws RangeError if a block is not whole pages */
	constructor(source: PageSource) {
		this.#source = source;
		const pages = source.blocks.map(({ idstr, usedLength }) => {
			if (usedLength % PAGE_SIZE === 0) return usedLength / PAGE_SIZE;
			throw new RangeError(`block '${idstr}': expected a multiple of ${PAGE_SIZE} bytes, got ${usedLength}`);
		});
		this.#bitmaps = pages.map((count) => new Uint32Array(Math.ceil(count / 32)));
		this.#fresh = pages.map((count) => new Uint32Array(Math.ceil(count / 32)));
		this.#lastMasks = pages.map((count) => (count % 32 === 0 ? 0xffffffff : 2 ** (count % 32) - 1));
		for (const fresh of this.#fresh) fresh.fill(0xffffffff);
		this.#merge();
	}

	/** Merges the source's dirty log and returns how many pages became dirty that were not. */
	synchronise(): number {
		for (const [block, fresh] of this.#fresh.entries()) this.#source.syncDirty(block, fresh);
		return this.#merge();
	}

	/** Moves to the next dirty page and marks it clean; false if there is none. */
	take(): boolean {
		if (this.count === 0) return false;
		for (;;) {
			const words = this.#bitmaps[this.block];
			if (words === undefined) return false;
			let word = this.#next >>> 5;
			let bits = (words[word] ?? 0) & (-1 << (this.#next & 31));
			while (bits === 0 && ++word < words.length) bits = words[word] ?? 0;
			if (bits !== 0) {
				const bit = bits & -bits;
				words[word] = (words[word] ?? 0) & ~bit;
				this.page = word * 32 + 31 - Math.clz32(bit);
				this.#next = this.page + 1;
				this.count--;
				return true;
			}
			this.block = (this.block + 1) % this.#bitmaps.length;
			if (this.block === 0) this.walked = true;
			this.#next = 0;
		}
	}

	/** Marks the page that {@link take} found dirty again; the next `take` finds it first. */
	putBack(): void {
		const words = this.#bitmaps[this.block];
		if (words === undefined) return;
		words[this.page >>> 5] = (words[this.page >>> 5] ?? 0) | (1 << (this.page & 31));
		this.#next = this.page;
		this.count++;
	}

	isDirty(block: number, page: number): boolean {
		return ((this.#bitmaps[block]?.[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
	}

	/** Marks a page dirty or clean. */
	mark(block: number, page: number, dirty: boolean): void {
		const words = this.#bitmaps[block];
		if (words === undefined || this.isDirty(block, page) === dirty) return;
		words[page >>> 5] = (words[page >>> 5] ?? 0) ^ (1 << (page & 31));
		this.count += dirty ? 1 : -1;
	}

	/** The next {@link take} looks from here on. */
	seek(block: number, page: number): void {
		this.block = block;
		this.#next = page;
	}

	/** Runs of pages of a block that are all dirty, or all clean, in order: first page and page after the last. */
	*runs(block: number, dirty: boolean): Generator<readonly [number, number]> {
		const pages = (this.#source.blocks[block]?.usedLength ?? 0) / PAGE_SIZE;
		for (let page = 0; page < pages; ) {
			const first = page;
			while (page < pages && this.isDirty(block, page) === dirty) page++;
			if (page > first) yield [first, page];
			while (page < pages && this.isDirty(block, page) !== dirty) page++;
		}
	}

	#merge(): number {
		let added = 0;
		for (const [block, fresh] of this.#fresh.entries()) {
			const words = this.#bitmaps[block];
			if (words === undefined) continue;
			// Bits past the block's end are nobody's pages.
			const last = fresh.length - 1;
			if (last >= 0) fresh[last] = (fresh[last] ?? 0) & (this.#lastMasks[block] ?? 0);
			for (let i = 0; i < fresh.length; i++) {
				const known = words[i] ?? 0;
				const both = known | (fresh[i] ?? 0);
				if (both !== known) {
					added += bitCount(both & ~known);
					words[i] = both;
				}
			}
			fresh.fill(0);
		}
		this.count += added;
		return added;
	}
}

function bitCount(word: number): number {
	const pairs = word - ((word >>> 1) & 0x55555555);
	const nibbles = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
	return Math.imul((nibbles + (nibbles >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
