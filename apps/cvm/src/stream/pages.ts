import { PAGE_SIZE } from '@cvm/layout';
import type { StreamBlock } from '@cvm/qemu-mig';

/** How a page was last sent; the index is its number in {@link PageChunk}. */
export const PAGE_KINDS = [
	'never',
	'raw',
	'zero',
	'xbzrle',
	'zlib',
	'encrypted',
	'helper',
	'multifd',
	'absent',
] as const;
export type PageKind = (typeof PAGE_KINDS)[number];
export const KIND: Readonly<Record<PageKind, number>> = Object.fromEntries(
	PAGE_KINDS.map((name, i) => [name, i]),
) as Record<PageKind, number>;

/** Pages whose marks are kept together. */
export const CHUNK_PAGES = 4096;
/** 64 GiB of guest memory; pages beyond are counted, not told apart. */
const MOST_CHUNKS = 4096;
const MOST_BLOCKS = 1100;
const OTHERS = '(others)';

/** Counts by kind, as JSON shows them: only those that occur. */
export type KindCounts = Partial<Record<PageKind, number>>;

/** Marks of {@link CHUNK_PAGES} pages. */
export interface PageChunk {
	/** Number of a {@link PageKind}. */
	readonly kind: Uint8Array;
	/** How often it was sent; 255 means that or more. */
	readonly sent: Uint8Array;
	/** The round it was last sent in, plus one. */
	readonly round: Uint16Array;
	/** Bits of entropy a byte, times 31, plus one; 0: unknown. */
	readonly entropy?: Uint8Array;
}

/** What was sent of a block. */
export class BlockPages {
	readonly idstr: string;
	/** As listed; undefined for a block that only records name. */
	listed: StreamBlock | undefined;
	/** By number of their first page over {@link CHUNK_PAGES}; not all, a block may claim any length. */
	readonly chunks = new Map<number, PageChunk>();
	/** Records by kind. */
	readonly records = new Float64Array(PAGE_KINDS.length);
	/** Pages sent at least once. */
	distinct = 0;
	#last = -1;
	#chunk: PageChunk | undefined;

	constructor(idstr: string) {
		this.idstr = idstr;
	}

	/** Pages it has, as far as known. */
	get pages(): number {
		if (this.listed !== undefined) return Math.ceil(this.listed.usedLength / PAGE_SIZE);
		return CHUNK_PAGES * (1 + Math.max(-1, ...this.chunks.keys()));
	}

	/** The chunk of a page; the one asked for last costs no look-up. */
	chunkOf(page: number): PageChunk | undefined {
		const number = Math.floor(page / CHUNK_PAGES);
		if (number !== this.#last) {
			this.#chunk = this.chunks.get(number);
			this.#last = number;
		}
		return this.#chunk;
	}

	addChunk(page: number, chunk: PageChunk): PageChunk {
		this.#last = Math.floor(page / CHUNK_PAGES);
		this.#chunk = chunk;
		this.chunks.set(this.#last, chunk);
		return chunk;
	}
}

/** One walk over memory: within it no page is sent twice. */
export interface Round {
	/** Offset of its first record. */
	readonly offset: number;
	readonly records: Float64Array;
}

/** Which pages were sent, how, and how often. Made for speed: a page costs a few stores. */
export class PageTable {
	readonly blocks = new Map<string, BlockPages>();
	readonly rounds: Round[] = [];
	/** Records of pages that are not told apart, for want of room. */
	beyond = 0;
	#chunks = 0;
	#name: string | undefined;
	#block: BlockPages | undefined;
	#round: Round | undefined;
	readonly #withEntropy: boolean;

	/** @param withEntropy whether to keep it a page, which {@link PageTable.entropy} sets */
	constructor(withEntropy = false) {
		this.#withEntropy = withEntropy;
	}

	list(blocks: readonly StreamBlock[]): void {
		for (const block of blocks) this.#get(block.idstr).listed = block;
	}

	/** The next record begins a new round, whatever it is. */
	endRound(): void {
		this.#round = undefined;
	}

	/** Notes a record of the main channel. */
	note(name: string, address: number, kind: number, offset: number): void {
		const block = name === this.#name && this.#block !== undefined ? this.#block : this.#select(name);
		block.records[kind] = (block.records[kind] ?? 0) + 1;
		let round = this.#round ?? this.#begin(offset);
		const number = address / PAGE_SIZE;
		const chunk = block.chunkOf(number) ?? this.#chunk(block, number);
		if (chunk !== undefined) {
			const i = number % CHUNK_PAGES;
			if (chunk.round[i] === this.rounds.length) round = this.#begin(offset);
			chunk.round[i] = this.rounds.length;
			this.#mark(block, chunk, i, kind);
		}
		round.records[kind] = (round.records[kind] ?? 0) + 1;
	}

	/** Notes a page that came on another channel, at no known time. */
	noteAside(name: string, address: number, kind: number): void {
		const block = name === this.#name && this.#block !== undefined ? this.#block : this.#select(name);
		block.records[kind] = (block.records[kind] ?? 0) + 1;
		const number = address / PAGE_SIZE;
		const chunk = block.chunkOf(number) ?? this.#chunk(block, number);
		if (chunk !== undefined) this.#mark(block, chunk, number % CHUNK_PAGES, kind);
	}

	/** Keeps the entropy of a page that was noted. @param bits of entropy a byte, 0 to 8 */
	entropy(name: string, address: number, bits: number): void {
		const number = address / PAGE_SIZE;
		const { entropy } = this.blocks.get(name)?.chunkOf(number) ?? {};
		if (entropy !== undefined) entropy[number % CHUNK_PAGES] = 1 + Math.round(bits * 31);
	}

	#mark(block: BlockPages, chunk: PageChunk, i: number, kind: number): void {
		const sent = chunk.sent[i] as number;
		if (sent === 0 && kind !== KIND.absent) block.distinct++;
		if (sent < 255 && kind !== KIND.absent) chunk.sent[i] = sent + 1;
		chunk.kind[i] = kind;
	}

	#begin(offset: number): Round {
		const round = { offset, records: new Float64Array(PAGE_KINDS.length) };
		this.#round = round;
		// Marks hold 16 bits; later rounds are counted as one.
		if (this.rounds.length < 0xffff) this.rounds.push(round);
		return this.rounds.at(-1) ?? round;
	}

	#select(name: string): BlockPages {
		const block = this.#get(name);
		this.#name = name;
		this.#block = block;
		return block;
	}

	#get(name: string): BlockPages {
		let block = this.blocks.get(name);
		if (block === undefined) {
			// A stream may name any number of blocks; QEMU has a handful.
			const kept = this.blocks.size < MOST_BLOCKS ? name : OTHERS;
			block = this.blocks.get(kept) ?? new BlockPages(kept);
			this.blocks.set(kept, block);
		}
		return block;
	}

	#chunk(block: BlockPages, number: number): PageChunk | undefined {
		if (this.#chunks >= MOST_CHUNKS || number >= 2 ** 40) {
			this.beyond++;
			return undefined;
		}
		this.#chunks++;
		return block.addChunk(number, {
			kind: new Uint8Array(CHUNK_PAGES),
			sent: new Uint8Array(CHUNK_PAGES),
			round: new Uint16Array(CHUNK_PAGES),
			...(this.#withEntropy && { entropy: new Uint8Array(CHUNK_PAGES) }),
		});
	}
}

/** Counts by name, without those that are zero. */
export const kindCounts = (records: Float64Array): KindCounts =>
	Object.fromEntries(PAGE_KINDS.map((name, i) => [name, records[i] ?? 0] as const).filter(([, count]) => count > 0));

/** Pages in a row that were sent alike. */
export interface PageRange {
	readonly first: number;
	readonly count: number;
	readonly kind: PageKind;
	readonly sent: number;
}

/** A block as ranges, in ascending order. */
export function* rangesOf(block: BlockPages): Generator<PageRange> {
	let range: { first: number; count: number; kind: number; sent: number } | undefined;
	const named = (r: NonNullable<typeof range>): PageRange => ({ ...r, kind: PAGE_KINDS[r.kind] ?? 'never' });
	for (const { first, count, kind, sent } of runsOf(block)) {
		if (range?.kind === kind && range.sent === sent) range.count += count;
		else {
			if (range) yield named(range);
			range = { first, count, kind, sent };
		}
	}
	if (range) yield named(range);
}

/** The same, not yet joined: page by page, and what has no marks at once. */
function* runsOf(block: BlockPages): Generator<{ first: number; count: number; kind: number; sent: number }> {
	const { pages } = block;
	let first = 0;
	for (const number of [...block.chunks.keys()].sort((a, b) => a - b)) {
		const begin = Math.min(pages, number * CHUNK_PAGES);
		if (begin > first) yield { first, count: begin - first, kind: 0, sent: 0 };
		const end = Math.min(pages, begin + CHUNK_PAGES);
		const chunk = block.chunkOf(begin);
		for (let i = 0; chunk !== undefined && begin + i < end; i++) {
			yield { first: begin + i, count: 1, kind: chunk.kind[i] ?? 0, sent: chunk.sent[i] ?? 0 };
		}
		first = end;
	}
	if (first < pages) yield { first, count: pages - first, kind: 0, sent: 0 };
}
