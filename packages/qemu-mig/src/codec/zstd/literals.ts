import type { Block } from './entropy.js';
import { BackwardBits, highBit, readFse } from './entropy.js';

/** A Huffman table, indexed by the next `log` bits. RFC 8878 §4.2. */
interface Huffman {
	readonly log: number;
	readonly symbol: Uint8Array;
	readonly bits: Uint8Array;
}

const LONGEST_CODE = 11;
/** Weights written at most: that of the last symbol is not. */
const WEIGHTS = 255;

/** Weights given as a compressed bit stream: two states take turns until the bits run out. */
function compressedWeights(block: Block, from: number, to: number): number[] {
	const [table, at] = readFse(block, from, to, 256, 6);
	const bits = new BackwardBits(block, at, to);
	const states = [bits.take(table.log), bits.take(table.log)];
	const weights: number[] = [];
	for (let turn = 0; ; turn ^= 1) {
		// States may take no bits at all, so that the bits would never run out.
		if (weights.length >= WEIGHTS) throw block.fail(from, `Huffman table: more than ${WEIGHTS} weights`);
		const state = states[turn] as number;
		weights.push(table.symbol[state] as number);
		const more = bits.take(table.bits[state] as number);
		states[turn] = (table.base[state] as number) + more;
		if (bits.left < 0) {
			weights.push(table.symbol[states[turn ^ 1] as number] as number);
			return weights;
		}
	}
}

function plainWeights(block: Block, from: number, count: number): number[] {
	return Array.from({ length: count }, (_, i) => {
		const byte = block.bytes[from + (i >> 1)] as number;
		return i & 1 ? byte & 15 : byte >> 4;
	});
}

/** Completes the weights by the one left out and lays the codes out. */
function buildHuffman(block: Block, at: number, weights: number[]): Huffman {
	if (weights.length > WEIGHTS) throw block.fail(at, `Huffman table: more than ${WEIGHTS} weights`);
	let sum = 0;
	for (const weight of weights) {
		if (weight > LONGEST_CODE) throw block.fail(at, `Huffman table: expected weights up to 11, got ${weight}`);
		if (weight > 0) sum += 1 << (weight - 1);
	}
	const log = sum === 0 ? 0 : highBit(sum) + 1;
	const rest = (1 << log) - sum;
	const last = highBit(rest) + 1;
	if (sum === 0 || log > LONGEST_CODE || rest !== 1 << (last - 1)) {
		throw block.fail(at, 'Huffman table: the weights leave no room for the last symbol');
	}
	weights.push(last);
	const symbol = new Uint8Array(1 << log);
	const bits = new Uint8Array(1 << log);
	let code = 0;
	for (let weight = 1; weight <= log; weight++) {
		for (let s = 0; s < weights.length; s++) {
			if (weights[s] !== weight) continue;
			const end = code + (1 << (weight - 1));
			symbol.fill(s, code, end);
			bits.fill(log + 1 - weight, code, end);
			code = end;
		}
	}
	return { log, symbol, bits };
}

/** @returns the table and where its description ends */
function readHuffman(block: Block, from: number, to: number): [Huffman, number] {
	if (from >= to) throw block.fail(from, 'Huffman table: missing');
	const head = block.bytes[from] as number;
	const start = from + 1;
	const end = start + (head < 128 ? head : (head - 126) >> 1);
	if (end > to) throw block.fail(from, 'Huffman table: reaches beyond the literals');
	const weights = head < 128 ? compressedWeights(block, start, end) : plainWeights(block, start, head - 127);
	return [buildHuffman(block, from, weights), end];
}

function decodeStream(block: Block, from: number, to: number, table: Huffman, out: Uint8Array): void {
	const { log, symbol, bits } = table;
	let left = new BackwardBits(block, from, to).left;
	const base = from * 8 - log;
	for (let i = 0; i < out.length; i++) {
		// The table looks at more bits than the last codes have: those before the stream do not matter.
		const index = block.bits(base + left, log);
		out[i] = symbol[index] as number;
		left -= bits[index] as number;
		if (left < 0) break;
	}
	if (left !== 0) throw block.fail(from, 'Huffman stream: does not end where its symbols end');
}

/** Four streams, whose lengths precede them but for the last, each with a quarter of the symbols. */
function decodeFour(block: Block, from: number, to: number, table: Huffman, out: Uint8Array): void {
	const quarter = (out.length + 3) >> 2;
	if (to - from < 10 || quarter * 3 > out.length) throw block.fail(from, 'Huffman streams: too short for four');
	const u16 = (at: number) => (block.bytes[at] as number) | ((block.bytes[at + 1] as number) << 8);
	const bounds = [from + 6];
	for (let i = 0; i < 3; i++) bounds.push((bounds[i] as number) + u16(from + 2 * i));
	if ((bounds[3] as number) > to) throw block.fail(from, 'Huffman streams: reach beyond the literals');
	bounds.push(to);
	for (let i = 0; i < 4; i++) {
		const part = out.subarray(i * quarter, Math.min((i + 1) * quarter, out.length));
		decodeStream(block, bounds[i] as number, bounds[i + 1] as number, table, part);
	}
}

/** The literals of a block, and the table that the next may use again. RFC 8878 §3.1.1.3.1. */
export class Literals {
	readonly #bytes: Uint8Array;
	#table: Huffman | undefined;

	/** @param limit literals of a block at most */
	constructor(limit: number) {
		this.#bytes = new Uint8Array(limit);
	}

	/** A new frame: tables do not carry over. */
	reset(): void {
		this.#table = undefined;
	}

	/** Reads the section at `from`. @returns the literals, valid until the next call, and where the section ends */
	read(block: Block, from: number, to: number): [Uint8Array, number] {
		const head = block.bytes[from] as number;
		const type = head & 3;
		const format = (head >> 2) & 3;
		if (type < 2) {
			const width = format === 3 ? 3 : format === 1 ? 2 : 1;
			const out = this.#room(block, from, block.bits(from * 8, width * 8) >> (width === 1 ? 3 : 4));
			const start = from + width;
			const end = start + (type === 0 ? out.length : 1);
			if (end > to) throw block.fail(from, 'literals: reach beyond the block');
			if (type === 0) out.set(block.bytes.subarray(start, end));
			else out.fill(block.bytes[start] as number);
			return [out, end];
		}
		const digits = format < 2 ? 10 : format === 2 ? 14 : 18;
		const start = from + (digits * 2 + 4) / 8;
		const out = this.#room(block, from, block.bits(from * 8 + 4, digits));
		const end = start + block.bits(from * 8 + 4 + digits, digits);
		if (end > to) throw block.fail(from, 'literals: reach beyond the block');
		const streams = type === 2 ? this.#readTable(block, start, end) : start;
		if (this.#table === undefined) throw block.fail(from, 'literals: repeat a Huffman table that was never sent');
		(format === 0 ? decodeStream : decodeFour)(block, streams, end, this.#table, out);
		return [out, end];
	}

	#readTable(block: Block, from: number, to: number): number {
		const [table, at] = readHuffman(block, from, to);
		this.#table = table;
		return at;
	}

	#room(block: Block, at: number, length: number): Uint8Array {
		if (length > this.#bytes.length)
			throw block.fail(at, `literals: expected ${this.#bytes.length} at most, got ${length}`);
		return this.#bytes.subarray(0, length);
	}
}
