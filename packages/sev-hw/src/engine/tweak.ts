import type { Scratch } from './scratch.js';

/** Bits of a system-physical address that the tweak can depend on: 4 … 51. */
export const TWEAK_BITS = 48;
/** Bytes of a set of tweak constants: one 16-byte constant t_i for each of the address bits 4 … 51, in this order. */
export const TWEAK_CONSTANTS_SIZE = TWEAK_BITS * 16;

const PAGE = 4096;
/** Address bits 12 … 51 are looked up eight at a time. */
const HIGH_BYTES = 5;

/**
 * The address tweak of the memory-encryption engine: T(p) is the XOR of the constants t_i of all bits i ≥ 4 that are set
 * in the system-physical address p. So T is linear, T(p ⊕ q) = T(p) ⊕ T(q), and the same under every key
 * (Wilke et al., "SEVurity", IEEE S&P 2020).
 */
export interface Tweak {
	/** XORs T into the four words of the block at address `spa`. */
	whitenBlock(words: Int32Array, spa: number): void;
	/** XORs T into `length` bytes of the scratch's data, from `at` on, that begin at address `spa`: multiples of 16. */
	whiten(scratch: Scratch, at: number, spa: number, length: number): void;
}

/** Prepares the tweak from its constants. @throws RangeError on another size than {@link TWEAK_CONSTANTS_SIZE} */
export function createTweak(constants: Uint8Array): Tweak {
	if (constants.length !== TWEAK_CONSTANTS_SIZE) {
		throw new RangeError(`tweak constants: expected ${TWEAK_CONSTANTS_SIZE} bytes, got ${constants.length}`);
	}
	const t = new Int32Array(constants.slice().buffer);
	const inPage = sums(t, 0, 8);
	const inPageBytes = new Uint8Array(inPage.buffer);
	const high = Array.from({ length: HIGH_BYTES }, (_, i) => sums(t, 8 + 8 * i, 8));
	const page = new Int32Array(4);

	const setPage = (spa: number, out: Int32Array, at: number): void => {
		let [a, b, c, d] = [0, 0, 0, 0];
		let frame = Math.floor(spa / PAGE);
		for (let i = 0; frame > 0; i++) {
			const table = high[i] as Int32Array;
			const row = (frame % 256) * 4;
			frame = Math.floor(frame / 256);
			a ^= word(table, row);
			b ^= word(table, row + 1);
			c ^= word(table, row + 2);
			d ^= word(table, row + 3);
		}
		out[at] = a;
		out[at + 1] = b;
		out[at + 2] = c;
		out[at + 3] = d;
	};

	return {
		whitenBlock: (words, spa) => {
			setPage(spa, page, 0);
			const row = (spa % PAGE) / 4;
			for (let w = 0; w < 4; w++) words[w] = word(words, w) ^ word(inPage, row + w) ^ word(page, w);
		},
		whiten: (scratch, at, spa, length) => {
			const { memory, words, dataAt, tableAt, pageAt } = scratch;
			if (scratch.table !== inPage) {
				memory.bytes.set(inPageBytes, tableAt);
				scratch.table = inPage;
			}
			for (let done = 0; done < length; ) {
				const row = (spa + done) % PAGE;
				const n = Math.min(length - done, PAGE - row);
				setPage(spa + done, words, pageAt / 4);
				memory.mask(dataAt + at + done, dataAt + at + done, tableAt + row, pageAt, n);
				done += n;
			}
		},
	};
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
