/** Bits of a system-physical address that the tweak can depend on: 4 … 51. */
const TWEAK_BITS = 48;
/** Bytes of a set of tweak constants: one 16-byte constant t_i for each of the address bits 4 … 51, in this order. */
export const TWEAK_CONSTANTS_SIZE = TWEAK_BITS * 16;

const WORDS_PER_PAGE = 1024;
/** Address bits 12 … 51 are looked up eight at a time. */
const HIGH_BYTES = 5;

/**
 * The address tweak of the memory-encryption engine: T(p) is the XOR of the constants t_i of all bits i ≥ 4 that are set
 * in the system-physical address p. So T is linear, T(p ⊕ q) = T(p) ⊕ T(q), and the same under every key
 * (Wilke et al., "SEVurity", IEEE S&P 2020).
 */
export interface Tweak {
	/**
	 * `out[outWord + k] = src[srcWord + k] ^ T` for the `words` words (a multiple of 4) that begin at address `spa`
	 * (a multiple of 16). `src` and `out` may be one array at one position.
	 */
	whiten(src: Int32Array, srcWord: number, out: Int32Array, outWord: number, spa: number, words: number): void;
}

/** Prepares the tweak from its constants. @throws RangeError on another size than {@link TWEAK_CONSTANTS_SIZE} */
export function createTweak(constants: Uint8Array): Tweak {
	if (constants.length !== TWEAK_CONSTANTS_SIZE) {
		throw new RangeError(`tweak constants: expected ${TWEAK_CONSTANTS_SIZE} bytes, got ${constants.length}`);
	}
	const t = new Int32Array(constants.slice().buffer);
	const inPage = sums(t, 0, 8);
	const high = Array.from({ length: HIGH_BYTES }, (_, i) => sums(t, 8 + 8 * i, 8));
	const page = new Int32Array(4);

	const setPage = (spa: number): void => {
		page.fill(0);
		let frame = Math.floor(spa / 4096);
		for (const table of high) {
			const row = (frame % 256) * 4;
			frame = Math.floor(frame / 256);
			for (let w = 0; w < 4; w++) page[w] = word(page, w) ^ word(table, row + w);
		}
	};

	const whiten: Tweak['whiten'] = (src, srcWord, out, outWord, spa, words) => {
		let at = spa;
		let from = srcWord;
		let to = outWord;
		let left = words;
		while (left > 0) {
			setPage(at);
			const first = (at % 4096) >>> 2;
			const count = Math.min(left, WORDS_PER_PAGE - first);
			const a = word(page, 0);
			const b = word(page, 1);
			const c = word(page, 2);
			const d = word(page, 3);
			for (let i = 0; i < count; i += 4) {
				const k = first + i;
				const f = from + i;
				const o = to + i;
				out[o] = word(src, f) ^ word(inPage, k) ^ a;
				out[o + 1] = word(src, f + 1) ^ word(inPage, k + 1) ^ b;
				out[o + 2] = word(src, f + 2) ^ word(inPage, k + 2) ^ c;
				out[o + 3] = word(src, f + 3) ^ word(inPage, k + 3) ^ d;
			}
			at += count * 4;
			from += count;
			to += count;
			left -= count;
		}
	};
	return { whiten };
}

/** All XOR sums of the `bits` constants from number `first` on: 2^bits blocks of 4 words. */
function sums(t: Int32Array, first: number, bits: number): Int32Array {
	const out = new Int32Array(4 << bits);
	for (let n = 1; n < 1 << bits; n++) {
		const lowest = 31 - Math.clz32(n & -n);
		const rest = n & (n - 1);
		for (let w = 0; w < 4; w++) out[4 * n + w] = word(out, 4 * rest + w) ^ word(t, 4 * (first + lowest) + w);
	}
	return out;
}

/** `array[i]`, which the loops above keep in range. */
const word = (array: Int32Array, i: number): number => array[i] as number;
