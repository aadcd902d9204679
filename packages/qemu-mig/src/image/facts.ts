import { ImageError } from './error.js';
import type { PageKind } from './page-kind.js';

/** What is kept per page. */
export type FactDetail =
	/** Kind, times sent, first and last offset, barrier: 23 bytes per page, 5.75 MiB per GiB. */
	| 'full'
	/** Kind and times sent: 3 bytes per page, 0.75 MiB per GiB. */
	| 'kinds';

/** Pages of neighbouring numbers with the same kind. `end` is the first page after them. */
export interface KindRun {
	readonly kind: PageKind;
	readonly recovered: boolean;
	readonly start: number;
	readonly end: number;
}

/** What the stream said of each page of a block. */
export interface PageFacts {
	/** Pages of the block. */
	readonly pages: number;
	kindAt(page: number): PageKind;
	/** Whether it was read after a gap in a damaged stream, or right before one: it may be wrong. */
	recoveredAt(page: number): boolean;
	/** Records of the page; stops at 65535. */
	timesAt(page: number): number;
	/** Offset of its first record in its input; -1: none, or not kept. */
	firstOffset(page: number): number;
	lastOffset(page: number): number;
	/** All pages, in order. */
	runs(): Iterable<KindRun>;
	/** Bytes of memory held. */
	readonly bytes: number;
}

/** Pages whose facts are allocated together. */
const CHUNK_BITS = 12;
const CHUNK_PAGES = 1 << CHUNK_BITS;
const RECOVERED = 0x80;

interface Chunk {
	readonly kinds: Uint8Array;
	readonly times: Uint16Array;
	readonly first: Float64Array;
	readonly last: Float64Array;
	readonly barriers: Uint32Array;
}

/** {@link PageFacts} that can be changed. Memory is taken as pages are touched. */
export class BlockFacts implements PageFacts {
	pages: number;
	bytes = 0;
	/** Records of the page that has most of them. */
	most = 0;
	readonly #full: boolean;
	readonly #chunks = new Map<number, Chunk>();
	/** The chunk used last: pages mostly come in order. */
	#number = -1;
	#chunk: Chunk | undefined;

	constructor(pages: number, detail: FactDetail) {
		this.pages = pages;
		this.#full = detail === 'full';
	}

	/** Notes a record of the page and returns the kind it had. */
	note(page: number, kind: PageKind, offset: number, recovered: boolean): PageKind {
		// RAM is limited to 2^32 pages.
		const number = page >>> CHUNK_BITS;
		const chunk = number === this.#number && this.#chunk !== undefined ? this.#chunk : this.#use(number);
		const i = page & (CHUNK_PAGES - 1);
		const before = ((chunk.kinds[i] ?? 0) & ~RECOVERED) as PageKind;
		chunk.kinds[i] = recovered ? kind | RECOVERED : kind;
		const times = chunk.times[i] ?? 0;
		if (times < 0xffff) chunk.times[i] = times + 1;
		if (times >= this.most) this.most = times + 1;
		if (this.#full) {
			if (times === 0) chunk.first[i] = offset;
			chunk.last[i] = offset;
		}
		return before;
	}

	/** As `note`, for pages that follow one another, with records of `bytes` bytes. Not in a gap. */
	noteRun(page: number, count: number, kind: PageKind, offset: number, bytes: number): void {
		for (let done = 0; done < count; ) {
			const { kinds, times, first, last } = this.#use((page + done) >>> CHUNK_BITS);
			const start = (page + done) & (CHUNK_PAGES - 1);
			const end = Math.min(start + count - done, CHUNK_PAGES);
			kinds.fill(kind, start, end);
			let most = this.most;
			for (let i = start; i < end; i++) {
				const before = times[i] ?? 0;
				if (before < 0xffff) times[i] = before + 1;
				if (before >= most) most = before + 1;
				if (this.#full) {
					const at = offset + (done + i - start) * bytes;
					if (before === 0) first[i] = at;
					last[i] = at;
				}
			}
			this.most = most;
			done += end - start;
		}
	}

	/** Changes the kind alone. */
	mark(page: number, kind: PageKind, recovered: boolean): void {
		const chunk = this.#use(Math.floor(page / CHUNK_PAGES));
		chunk.kinds[page % CHUNK_PAGES] = recovered ? kind | RECOVERED : kind;
	}

	/** The multifd barrier behind which the page was last sent. */
	barrierAt(page: number): number {
		return this.#at(page)?.barriers[page % CHUNK_PAGES] ?? 0;
	}

	/** @throws ImageError `argument` unless all facts are kept */
	setBarrier(page: number, barrier: number): void {
		if (!this.#full) throw new ImageError('argument', "facts: expected 'full' for multifd channels, got 'kinds'");
		this.#use(Math.floor(page / CHUNK_PAGES)).barriers[page % CHUNK_PAGES] = barrier;
	}

	kindAt(page: number): PageKind {
		return ((this.#at(page)?.kinds[page % CHUNK_PAGES] ?? 0) & ~RECOVERED) as PageKind;
	}

	recoveredAt(page: number): boolean {
		return ((this.#at(page)?.kinds[page % CHUNK_PAGES] ?? 0) & RECOVERED) !== 0;
	}

	timesAt(page: number): number {
		return this.#at(page)?.times[page % CHUNK_PAGES] ?? 0;
	}

	firstOffset(page: number): number {
		return this.#at(page)?.first[page % CHUNK_PAGES] ?? -1;
	}

	lastOffset(page: number): number {
		return this.#at(page)?.last[page % CHUNK_PAGES] ?? -1;
	}

	/** Pages from `start` up to `end` that any record was about, or whose neighbours were. */
	*touched(start: number, end: number): Generator<number, void, void> {
		for (const number of this.#chunks.keys()) {
			const last = Math.min(end, (number + 1) * CHUNK_PAGES);
			for (let page = Math.max(start, number * CHUNK_PAGES); page < last; page++) yield page;
		}
	}

	*runs(): Generator<KindRun, void, void> {
		let start = 0;
		let state = -1;
		for (let page = 0; page < this.pages; ) {
			const chunk = this.#chunks.get(Math.floor(page / CHUNK_PAGES));
			const end = Math.min(this.pages, page - (page % CHUNK_PAGES) + CHUNK_PAGES);
			const kinds = chunk?.kinds;
			while (page < end) {
				const next = kinds?.[page % CHUNK_PAGES] ?? 0;
				if (next !== state) {
					if (page > start) yield run(state, start, page);
					start = page;
					state = next;
				}
				page =
					kinds === undefined ? end : page + sameFrom(kinds, page % CHUNK_PAGES, (page % CHUNK_PAGES) + end - page);
			}
		}
		if (this.pages > start) yield run(state, start, this.pages);
	}

	#at(page: number): Chunk | undefined {
		const number = Math.floor(page / CHUNK_PAGES);
		return number === this.#number ? this.#chunk : this.#chunks.get(number);
	}

	#use(number: number): Chunk {
		let chunk = this.#chunks.get(number);
		if (chunk === undefined) {
			const count = Math.min(CHUNK_PAGES, Math.max(1, this.pages - number * CHUNK_PAGES));
			const wide = this.#full ? count : 0;
			chunk = {
				kinds: new Uint8Array(count),
				times: new Uint16Array(count),
				first: new Float64Array(wide).fill(-1),
				last: new Float64Array(wide).fill(-1),
				barriers: new Uint32Array(wide),
			};
			this.bytes += count * (this.#full ? 23 : 3);
			this.#chunks.set(number, chunk);
		}
		this.#number = number;
		this.#chunk = chunk;
		return chunk;
	}
}

/** How many bytes from `start` on are the same. */
function sameFrom(bytes: Uint8Array, start: number, end: number): number {
	const first = bytes[start];
	let i = start + 1;
	while (i < end && bytes[i] === first) i++;
	return i - start;
}

const run = (state: number, start: number, end: number): KindRun => ({
	kind: (state & ~RECOVERED) as PageKind,
	recovered: (state & RECOVERED) !== 0,
	start,
	end,
});
