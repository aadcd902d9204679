import { PAGE_SIZE } from '@cvm/layout';
import type { PageSink, PageSource, PostcopyMemory, RamBlock, SharedRegion } from '../ports.js';
import { ToyHelper, ToyHelperTarget } from './toy-helper.js';
import { ToyOpener, ToySealer } from './toy-sealing.js';

/** Guest RAM in plain arrays: a {@link PageSource}, with scripted writes in place of a guest. */
export interface FakeSource extends PageSource {
	/** Contents of each block. */
	readonly memory: readonly Uint8Array[];
	readonly sealer?: ToySealer;
	readonly helper?: ToyHelper;
	readonly logging: boolean;
	/** Runs of pages given back, as `block:first+count`; their bytes are overwritten. */
	readonly released: readonly string[];
	/** What a guest store does: the bytes change and, while the log runs, the page is dirty. */
	write(block: number, offset: number, data: Uint8Array): void;
	/** What a page-status hypercall does: the status changes and the page is sent again. */
	setPrivate(block: number, page: number, isPrivate: boolean): void;
}

/** Options of {@link createFakeSource}. */
export interface FakeSourceOptions {
	readonly blocks: readonly RamBlock[];
	/**
	 * Pages are private until `setPrivate`, and there is a sealer, or an in-guest helper. Default false: a plain guest without
	 * either.
	 */
	readonly confidential?: boolean | 'helper';
}

/** A {@link FakeSource} of zeroes. The frames of block 0 begin at 0, those of each next one after it. */
export function createFakeSource({ blocks, confidential = false }: FakeSourceOptions): FakeSource {
	const memory = blocks.map(({ usedLength }) => new Uint8Array(usedLength));
	const pages = blocks.map(({ usedLength }) => usedLength / PAGE_SIZE);
	const dirty = pages.map(() => new Set<number>());
	const shared = pages.map(() => new Set<number>());
	const pageAt = (block: number, page: number): Uint8Array => pageOf(memory, block, page);
	let logging = false;
	const released: string[] = [];
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
		isPrivate: (block, page) => confidential !== false && shared[block]?.has(page) !== true,
		released,
		release(block, page, count) {
			released.push(`${block}:${page}+${count}`);
			memory[block]?.fill(0xdf, page * PAGE_SIZE, (page + count) * PAGE_SIZE);
		},
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
		...(confidential === true ? { sealer: new ToySealer(pageAt, regions) } : {}),
		...(confidential === 'helper' ? { helper: new ToyHelper(pageAt) } : {}),
	};
}

/** Guest RAM of a target in plain arrays: a {@link PageSink}, and {@link PostcopyMemory} whose guest is a test. */
export interface FakeTarget extends PageSink {
	readonly memory: readonly Uint8Array[];
	readonly opener: ToyOpener;
	readonly helper: ToyHelperTarget;
	readonly postcopy: PostcopyMemory;
	/** Whether the page is there, so that a guest can touch it. */
	isPresent(block: number, page: number): boolean;
	/** Called when a host page was placed while the guest runs: address and length in bytes. */
	onPlaced: (block: number, address: number, length: number) => void;
}

/** A {@link FakeTarget} whose every byte is `fill` until something arrives. */
export function createFakeTarget(blocks: readonly RamBlock[], fill = 0xee): FakeTarget {
	const memory = blocks.map(({ usedLength }) => new Uint8Array(usedLength).fill(fill));
	const present = blocks.map(({ usedLength }) => new Uint8Array(usedLength / PAGE_SIZE));
	const pageAt = (block: number, page: number): Uint8Array => pageOf(memory, block, page);
	let watching = false;
	const arrive = (block: number, page: number, count: number): void => {
		if (watching && present[block]?.subarray(page, page + count).includes(1)) {
			throw new Error(`fake memory: expected page ${page} of block ${block} to be missing, got one that is there`);
		}
		present[block]?.fill(1, page, page + count);
	};
	const placed = (block: number, address: number, length: number): void => {
		arrive(block, address / PAGE_SIZE, length / PAGE_SIZE);
		target.onPlaced(block, address, length);
	};
	const target: FakeTarget = {
		blocks,
		memory,
		opener: new ToyOpener(pageAt),
		helper: new ToyHelperTarget((block, page) => {
			if (!watching) present[block]?.fill(1, page, page + 1);
			return pageAt(block, page);
		}),
		contents: pageAt,
		isPresent: (block, page) => present[block]?.[page] === 1,
		onPlaced: () => {},
		plainPage(block, page, bytes) {
			if (watching) throw new Error('fake memory: expected whole pages at once while the guest runs');
			present[block]?.fill(1, page, page + 1);
			memory[block]?.set(bytes, page * PAGE_SIZE);
		},
		zeroPage(block, page, byte) {
			if (watching) throw new Error('fake memory: expected whole pages at once while the guest runs');
			present[block]?.fill(1, page, page + 1);
			pageAt(block, page).fill(byte);
		},
		postcopy: {
			discard(block, address, length) {
				memory[block]?.fill(fill, address, address + length);
				present[block]?.fill(0, address / PAGE_SIZE, (address + length) / PAGE_SIZE);
			},
			watch() {
				watching = true;
			},
			place(block, address, bytes) {
				memory[block]?.set(bytes, address);
				placed(block, address, bytes.length);
			},
			placeZero(block, address) {
				const length = blocks[block]?.pageSize ?? PAGE_SIZE;
				memory[block]?.fill(0, address, address + length);
				placed(block, address, length);
			},
			placeSealed(block, address, header, bytes) {
				target.helper.open(block, address / PAGE_SIZE, header, bytes);
				placed(block, address, PAGE_SIZE);
			},
		},
	};
	return target;
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
