import { coalesce, cut, type FrameRange } from './ranges.js';

/** The v10 list of shared pages, in memory that the threads of a VM share. Callers hold the lock. */
export interface StatusList {
	readonly entries: readonly FrameRange[];
	/** false: there is no room, and nothing changed. */
	add(range: FrameRange): boolean;
	remove(range: FrameRange): boolean;
	/** Puts entries behind the others as they are: neither sorted nor merged. */
	append(ranges: readonly FrameRange[]): boolean;
	clear(): void;
}

/**
 * Entries that a list can hold.
 * DEVIATION(kvm list, v10): KVM allocates an entry per range without a bound; here one more is −ENOMEM.
 */
const MAX_ENTRIES = 4096;
/** Bytes for {@link createStatusList}. */
export const LIST_BYTES = 8 + MAX_ENTRIES * 16;

/** A list in {@link LIST_BYTES} of a shared buffer, from word `at` (even) on. */
export function createStatusList(shared: SharedArrayBuffer, at: number): StatusList {
	const count = new Int32Array(shared, at * 4, 1);
	const frames = new Float64Array(shared, at * 4 + 8, MAX_ENTRIES * 2);
	const read = (): FrameRange[] =>
		Array.from({ length: count[0] ?? 0 }, (_, i) => ({
			gfnStart: frames[2 * i] ?? 0,
			gfnEnd: frames[2 * i + 1] ?? 0,
		}));
	const write = (ranges: readonly FrameRange[]): boolean => {
		if (ranges.length > MAX_ENTRIES) return false;
		for (const [i, { gfnStart, gfnEnd }] of ranges.entries()) {
			frames[2 * i] = gfnStart;
			frames[2 * i + 1] = gfnEnd;
		}
		count[0] = ranges.length;
		return true;
	};
	return {
		get entries() {
			return read();
		},
		add: (range) => write(coalesce([...read(), range])),
		remove: (range) => write(cut(read(), range)),
		append: (ranges) => write([...read(), ...ranges]),
		clear: () => {
			count[0] = 0;
		},
	};
}
