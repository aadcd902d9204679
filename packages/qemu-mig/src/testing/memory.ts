import { PAGE_SIZE } from '@cvm/layout';
import type { PageSink, PageSource, RamBlock, SharedRegion } from '../ports.js';
import { ToyOpener, ToySealer } from './toy-sealing.js';

/** Guest RAM in plain arrays: a {@link PageSource}, with scripted writes in place of a guest. */
export interface FakeSource extends PageSource {
	/** Contents of each block. */
	readonly memory: readonly Uint8Array[];
	readonly sealer?: ToySealer;
	readonly logging: boolean;
	/** What a guest store does: the bytes change and, while the log runs, the page is dirty. */
	write(block: number, offset: number, data: Uint8Array): void;
	/** What a page-status hypercall does: the status changes and the page is sent again. */
	setPrivate(block: number, page: number, isPrivate: boolean): void;
}

/** Options of {@link createFakeSource}. */
export interface FakeSourceOptions {
	readonly blocks: readonly RamBlock[];
	/** Pages are private until `setPrivate`; needs a sealer then. Default false: a plain guest without sealer. */
	readonly confidential?: boolean;
}

/** A {@link FakeSource} of zeroes. The frames of block 0 begin at 0, those of each next one after it. */
export function createFakeSource({ blocks, confidential = false }: FakeSourceOptions): FakeSource {
	const memory = blocks.map(({ usedLength }) => new Uint8Array(usedLength));
	const pages = blocks.map(({ usedLength }) => usedLength / PAGE_SIZE);
	const dirty = pages.map(() => new Set<number>());
	const shared = pages.map(() => new Set<number>());
	const pageAt = (block: number, page: number): Uint8Array => pageOf(memory, block, page);
	let logging = false;
	const regions = (): SharedRegion[] => sharedRegions(shared, pages);
	return {
		blocks,
		memory,
		get logging() {
			return logging;
		},
		startDirtyLog() {
			logging = true;
			for (const set of dirty) set.clear();
		},
		stopDirtyLog() {
			logging = false;
		},
		syncDirty(block, into) {
			for (const page of dirty[block] ?? []) into[page >>> 5] = (into[page >>> 5] ?? 0) | (1 << (page & 31));
			dirty[block]?.clear();
		},
		isPrivate: (block, page) => confidential && shared[block]?.has(page) !== true,
		plainPage: pageAt,
		allocate: (bytes) => new Uint8Array(bytes),
		write(block, offset, data) {
			memory[block]?.set(data, offset);
			const last = Math.floor((offset + data.length - 1) / PAGE_SIZE);
			for (let page = Math.floor(offset / PAGE_SIZE); logging && page <= last; page++) dirty[block]?.add(page);
		},
		setPrivate(block, page, isPrivate) {
			if (isPrivate) shared[block]?.delete(page);
			else shared[block]?.add(page);
			if (logging) dirty[block]?.add(page);
		},
		...(confidential ? { sealer: new ToySealer(pageAt, regions) } : {}),
	};
}

/** Guest RAM of a target in plain arrays: a {@link PageSink}. */
export interface FakeTarget extends PageSink {
	readonly memory: readonly Uint8Array[];
	readonly opener: ToyOpener;
}

/** A {@link FakeTarget} whose every byte is `fill` until something arrives. */
export function createFakeTarget(blocks: readonly RamBlock[], fill = 0xee): FakeTarget {
	const memory = blocks.map(({ usedLength }) => new Uint8Array(usedLength).fill(fill));
	return {
		blocks,
		memory,
		opener: new ToyOpener((block, page) => pageOf(memory, block, page)),
		plainPage: (block, page, bytes) => memory[block]?.set(bytes, page * PAGE_SIZE),
		zeroPage: (block, page, byte) => {
			pageOf(memory, block, page).fill(byte);
		},
	};
}

function pageOf(memory: readonly Uint8Array[], block: number, page: number): Uint8Array {
	const bytes = memory[block];
	if (bytes === undefined) throw new RangeError(`fake memory: expected a block below ${memory.length}, got ${block}`);
	return bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
}

function sharedRegions(shared: readonly ReadonlySet<number>[], pages: readonly number[]): SharedRegion[] {
	const out: { gfnStart: number; gfnEnd: number }[] = [];
	let base = 0;
	for (const [block, count] of pages.entries()) {
		for (const page of [...(shared[block] ?? [])].sort((a, b) => a - b)) {
			const last = out.at(-1);
			if (last?.gfnEnd === base + page) last.gfnEnd++;
			else out.push({ gfnStart: base + page, gfnEnd: base + page + 1 });
		}
		base += count;
	}
	return out;
}
