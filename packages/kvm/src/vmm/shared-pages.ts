import { kvmSharedPagesEntry } from '../abi/page-status.js';
import { coalesce, type FrameRange } from '../page-status/ranges.js';
import { addAsQemu, removeAsQemu } from './qemu-list.js';

/** Something that keeps which frames are shared. */
export interface PageStatusTracker {
	/** The guest asked for `pages` frames from `gfnStart` on to be shared, or private again. false: refused, nothing changed. */
	set(gfnStart: number, pages: number, isShared: boolean): boolean;
	/** Everything is private. */
	clear(): void;
}

/** The frames that a guest said it shares with its host; all others are private. Frames are numbers below 2^53. */
export interface SharedPages extends PageStatusTracker {
	/** Half-open. Sorted, disjoint, none empty, none that touch: two lists that mean the same are the same. */
	readonly ranges: readonly FrameRange[];
	has(gfn: number): boolean;
	/** Replaces everything: what arrived with a guest, in any order. false: more than `limit`; nothing changed. */
	replace(ranges: readonly FrameRange[]): boolean;
}

/** How to keep the list. */
export interface SharedPagesOptions {
	/** Most ranges: 65536 by default. The list is the host's memory, and a guest may cut it as small as it likes. */
	readonly limit?: number;
	/**
	 * `qemu`: as QEMU's never-merged branches do, for comparison. Their list may overlap, so that a part of a removed range can
	 * stay listed; `ranges` is their list as it is.
	 */
	readonly form?: 'canonical' | 'qemu';
}

const LIMIT = 1 << 16;

/** An empty list. */
export function createSharedPages({ limit = LIMIT, form = 'canonical' }: SharedPagesOptions = {}): SharedPages {
	return form === 'qemu' ? createQemuList(limit) : createCanonicalList(limit);
}

function createCanonicalList(limit: number): SharedPages {
	let starts: number[] = [];
	let ends: number[] = [];
	let view: readonly FrameRange[] | undefined;

	/** Index of the first element for which `test` holds; it holds for all behind it. */
	const firstOf = (test: (at: number) => boolean): number => {
		let low = 0;
		let high = starts.length;
		while (low < high) {
			const middle = (low + high) >>> 1;
			if (test(middle)) high = middle;
			else low = middle + 1;
		}
		return low;
	};
	const start = (at: number): number => starts[at] ?? 0;
	const end = (at: number): number => ends[at] ?? 0;
	const splice = (from: number, to: number, newStarts: readonly number[], newEnds: readonly number[]): boolean => {
		if (starts.length - (to - from) + newStarts.length > limit) return false;
		starts.splice(from, to - from, ...newStarts);
		ends.splice(from, to - from, ...newEnds);
		view = undefined;
		return true;
	};
	const add = (gfnStart: number, gfnEnd: number): boolean => {
		const from = firstOf((at) => end(at) >= gfnStart);
		const to = firstOf((at) => start(at) > gfnEnd);
		if (from === to) return splice(from, to, [gfnStart], [gfnEnd]);
		return splice(from, to, [Math.min(gfnStart, start(from))], [Math.max(gfnEnd, end(to - 1))]);
	};
	const remove = (gfnStart: number, gfnEnd: number): boolean => {
		const from = firstOf((at) => end(at) > gfnStart);
		const to = firstOf((at) => start(at) >= gfnEnd);
		if (from >= to) return true;
		const newStarts: number[] = [];
		const newEnds: number[] = [];
		if (start(from) < gfnStart) {
			newStarts.push(start(from));
			newEnds.push(gfnStart);
		}
		if (end(to - 1) > gfnEnd) {
			newStarts.push(gfnEnd);
			newEnds.push(end(to - 1));
		}
		return splice(from, to, newStarts, newEnds);
	};

	return {
		get ranges() {
			view ??= starts.map((gfnStart, at) => ({ gfnStart, gfnEnd: end(at) }));
			return view;
		},
		has: (gfn) => {
			const at = firstOf((i) => end(i) > gfn);
			return at < starts.length && start(at) <= gfn;
		},
		set: (gfnStart, pages, isShared) => {
			if (pages <= 0) return true;
			return isShared ? add(gfnStart, gfnStart + pages) : remove(gfnStart, gfnStart + pages);
		},
		replace: (ranges) => {
			const next = coalesce(ranges);
			if (next.length > limit) return false;
			starts = next.map((range) => range.gfnStart);
			ends = next.map((range) => range.gfnEnd);
			view = undefined;
			return true;
		},
		clear: () => {
			starts = [];
			ends = [];
			view = undefined;
		},
	};
}

function createQemuList(limit: number): SharedPages {
	let list: readonly FrameRange[] = [];
	const store = (next: readonly FrameRange[]): boolean => {
		if (next.length > limit) return false;
		list = next;
		return true;
	};
	return {
		get ranges() {
			return list;
		},
		has: (gfn) => list.some(({ gfnStart, gfnEnd }) => gfn >= gfnStart && gfn < gfnEnd),
		set: (gfnStart, pages, isShared) => {
			if (pages <= 0) return true;
			const range = { gfnStart, gfnEnd: gfnStart + pages };
			return store(isShared ? addAsQemu(list, range) : removeAsQemu(list, range));
		},
		replace: (ranges) => store([...ranges]),
		clear: () => {
			list = [];
		},
	};
}

const PAIR_BYTES = 16;

/** Pairs of little-endian u64s, first frame and the one behind the last: the buffer of v10's KVM_SET_SHARED_PAGES_LIST. */
export function encodeRanges(ranges: readonly FrameRange[]): Uint8Array {
	const out = new Uint8Array(ranges.length * PAIR_BYTES);
	for (const [i, { gfnStart, gfnEnd }] of ranges.entries()) {
		const entry = { gfnStart: BigInt(gfnStart), gfnEnd: BigInt(gfnEnd) };
		kvmSharedPagesEntry.encodeInto(out.subarray(i * PAIR_BYTES, (i + 1) * PAIR_BYTES), entry);
	}
	return out;
}

/** The inverse of {@link encodeRanges}. @throws RangeError for half an entry, or a frame that is 2^53 or more */
export function decodeRanges(bytes: Uint8Array): FrameRange[] {
	if (bytes.length % PAIR_BYTES !== 0) {
		throw new RangeError(`shared pages: expected a multiple of 16 bytes, got ${bytes.length}`);
	}
	return Array.from({ length: bytes.length / PAIR_BYTES }, (_, i) => {
		const pair = kvmSharedPagesEntry.decode(bytes.subarray(i * PAIR_BYTES, (i + 1) * PAIR_BYTES));
		const range = { gfnStart: Number(pair.gfnStart), gfnEnd: Number(pair.gfnEnd) };
		if (!Number.isSafeInteger(range.gfnStart) || !Number.isSafeInteger(range.gfnEnd)) {
			throw new RangeError(`shared pages: expected frames below 2^53, got ${pair.gfnStart} to ${pair.gfnEnd}`);
		}
		return range;
	});
}
