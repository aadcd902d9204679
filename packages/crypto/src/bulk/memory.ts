import { fillCounterBlocks } from '../counter-blocks.js';
import { openWasmMemory } from './wasm-memory.js';

/**
 * Memory with the two operations that all bulk work here comes down to besides AES itself. Places are bytes from its
 * start, multiples of 16; lengths are multiples of 16.
 */
export interface BulkMemory {
	readonly bytes: Uint8Array;
	/**
	 * XORs `length` bytes at `from` with those at `pad` and with the 16 bytes at `block` again and again, into `to`.
	 * `to` may be `from`; otherwise they do not overlap.
	 */
	mask(to: number, from: number, pad: number, block: number, length: number): void;
	/** Writes `count` blocks: the one that stands at `at`, a 128-bit big-endian integer, and its successors. */
	countUp(at: number, count: number): void;
}

/** The same results in plain JavaScript, several times slower. */
export function openScriptMemory(size: number): BulkMemory {
	const bytes = new Uint8Array(size);
	const view = new DataView(bytes.buffer);
	const words = new Int32Array(bytes.buffer);
	const word = (at: number): number => words[at] as number;
	return {
		bytes,
		mask: (to, from, pad, block, length) => {
			const [a, b, c, d] = [0, 1, 2, 3].map((i) => word(block / 4 + i)) as [number, number, number, number];
			const end = (from + length) / 4;
			for (let f = from / 4, o = to / 4, p = pad / 4; f < end; f += 4, o += 4, p += 4) {
				words[o] = word(f) ^ word(p) ^ a;
				words[o + 1] = word(f + 1) ^ word(p + 1) ^ b;
				words[o + 2] = word(f + 2) ^ word(p + 2) ^ c;
				words[o + 3] = word(f + 3) ^ word(p + 3) ^ d;
			}
		},
		countUp: (at, count) => fillCounterBlocks(view, at, bytes, at, 0, count),
	};
}

/** Memory of at least `size` bytes, zero: with SIMD where WebAssembly has it, otherwise in JavaScript. */
export const openBulkMemory = (size: number): BulkMemory => openWasmMemory(size) ?? openScriptMemory(size);
