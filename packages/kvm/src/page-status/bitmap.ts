/**
 * Bits for guest frames in memory that the threads of a VM share: set = shared with the host. A frame beyond `size` is
 * encrypted, as every frame is by default. Callers hold the lock.
 */
export interface StatusBitmap {
	/** Frames that have a bit. */
	readonly size: number;
	/** Gives frames below `frames` a bit, encrypted. false: more than fits. */
	grow(frames: number): boolean;
	/** Frames beyond `size` are left out. */
	set(gfnStart: number, gfnEnd: number, isShared: boolean): void;
	isShared(gfn: number): boolean;
	/** All frames encrypted. */
	clear(): void;
}

/**
 * Frames that a bitmap can hold: 64 GiB of guest-physical addresses.
 * DEVIATION(kvm list): KVM allocates what a guest asks for, up to what vmalloc gives; here more is −ENOMEM.
 */
const MAX_FRAMES = 1 << 24;
/** Bytes for {@link createStatusBitmap}. */
export const BITMAP_BYTES = 4 + MAX_FRAMES / 8;

/** A bitmap in {@link BITMAP_BYTES} of a shared buffer, from word `at` on. */
export function createStatusBitmap(shared: SharedArrayBuffer, at: number): StatusBitmap {
	const words = new Int32Array(shared, at * 4, BITMAP_BYTES / 4);
	const size = (): number => words[0] ?? 0;
	const apply = (word: number, mask: number, isShared: boolean): void => {
		const old = words[word + 1] ?? 0;
		words[word + 1] = isShared ? old | mask : old & ~mask;
	};
	return {
		get size() {
			return size();
		},
		grow: (frames) => {
			if (frames > MAX_FRAMES) return false;
			if (frames > size()) words[0] = frames;
			return true;
		},
		set: (gfnStart, gfnEnd, isShared) => {
			const end = Math.min(gfnEnd, size());
			let gfn = gfnStart;
			for (; gfn < end && gfn % 32 !== 0; gfn++) apply(gfn >>> 5, 1 << (gfn & 31), isShared);
			if (end - gfn >= 32) {
				const wholeWords = (end - gfn) >>> 5;
				words.fill(isShared ? -1 : 0, (gfn >>> 5) + 1, (gfn >>> 5) + 1 + wholeWords);
				gfn += wholeWords * 32;
			}
			for (; gfn < end; gfn++) apply(gfn >>> 5, 1 << (gfn & 31), isShared);
		},
		isShared: (gfn) => gfn < size() && (((words[(gfn >>> 5) + 1] ?? 0) >>> (gfn & 31)) & 1) === 1,
		clear: () => words.fill(0, 1, 1 + Math.ceil(size() / 32)),
	};
}
