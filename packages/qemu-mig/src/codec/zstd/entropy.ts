import { CodecError } from '../error.js';

/** Zero bytes kept on both sides of a block, so that reads of whole words near its ends stay inside the array. */
export const MARGIN = 8;

/** A compressed block with {@link MARGIN} bytes around it, and where in the input it stood, for errors. */
export class Block {
	readonly bytes: Uint8Array;
	readonly #view: DataView;
	/** Input offset of the block's first byte. */
	offset = 0;

	/** @param limit bytes of the longest block */
	constructor(limit: number) {
		this.bytes = new Uint8Array(limit + 2 * MARGIN);
		this.#view = new DataView(this.bytes.buffer);
	}

	/** `count` (at most 25) bits from bit `bit` on, counted from the start of the array; the lowest first. */
	bits(bit: number, count: number): number {
		return (this.#view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << count) - 1);
	}

	fail(at: number, message: string): CodecError {
		return new CodecError('malformed', this.offset + at - MARGIN, `zstd: ${message}`);
	}
}

/** Index of the highest set bit of a positive number. */
export const highBit = (value: number): number => 31 - Math.clz32(value);

/** Reads a bit stream that was written forwards and is read backwards: its last byte marks its end with its highest bit. */
export class BackwardBits {
	/** Bits left; negative when more were read than there are. */
	left: number;
	readonly #block: Block;
	readonly #from: number;

	constructor(block: Block, from: number, to: number) {
		const last = to > from ? (block.bytes[to - 1] as number) : 0;
		if (last === 0) throw block.fail(to, 'bit stream: expected an end mark, got none');
		this.#block = block;
		this.#from = from * 8;
		this.left = (to - from - 1) * 8 + highBit(last);
	}

	/** Takes `count` (at most 25) bits. Beyond the start it takes rubbish: compare `left` with 0. */
	take(count: number): number {
		this.left -= count;
		return this.#block.bits(Math.max(0, this.#from + this.left), count);
	}
}

/** A table of finite-state entropy coding: what each state stands for and how the next one is found. RFC 8878 §4.1. */
export interface FseTable {
	/** Bits of a state. */
	readonly log: number;
	readonly symbol: Uint8Array;
	/** Bits to take for the next state ... */
	readonly bits: Uint8Array;
	/** ... and what to add to them. */
	readonly base: Uint16Array;
}

/** A table with one state: the same symbol for ever. */
export const fseOf = (symbol: number): FseTable => ({
	log: 0,
	symbol: Uint8Array.of(symbol),
	bits: new Uint8Array(1),
	base: new Uint16Array(1),
});

/** Spreads symbols over states. `counts` sum to `1 << log`; -1 is "less than one". @returns undefined if they do not fit */
export function buildFse(counts: ArrayLike<number>, log: number): FseTable | undefined {
	const size = 1 << log;
	const symbol = new Uint8Array(size);
	const next = new Uint16Array(counts.length);
	let high = size;
	for (let s = 0; s < counts.length; s++) {
		const count = counts[s] as number;
		if (count === -1) symbol[--high] = s;
		next[s] = Math.abs(count);
	}
	const step = (size >> 1) + (size >> 3) + 3;
	let at = 0;
	for (let s = 0; s < counts.length; s++) {
		for (let i = 0; i < (counts[s] as number); i++) {
			symbol[at] = s;
			do at = (at + step) & (size - 1);
			while (at >= high);
		}
	}
	if (at !== 0) return undefined;
	const bits = new Uint8Array(size);
	const base = new Uint16Array(size);
	for (let i = 0; i < size; i++) {
		const s = symbol[i] as number;
		const state = next[s] as number;
		next[s] = state + 1;
		const count = log - highBit(state);
		bits[i] = count;
		base[i] = (state << count) - size;
	}
	return { log, symbol, bits, base };
}

/**
 * Reads the description of a table from `[from, to)`.
 *
 * @param symbols how many symbols there may be
 * @returns the table and where its description ends
 */
export function readFse(block: Block, from: number, to: number, symbols: number, maxLog: number): [FseTable, number] {
	let bit = from * 8;
	const take = (count: number): number => {
		const value = block.bits(bit, count);
		bit += count;
		if (bit > to * 8) throw block.fail(to, 'entropy table: ends early');
		return value;
	};
	const log = take(4) + 5;
	if (log > maxLog) throw block.fail(from, `entropy table: expected an accuracy of ${maxLog} bits at most, got ${log}`);
	const counts: number[] = [];
	let remaining = 1 << log;
	while (remaining > 0 && counts.length < symbols) {
		const width = highBit(remaining + 1) + 1;
		const short = (1 << width) - 2 - remaining;
		// Small values take one bit less; the longer ones are moved down to close the gap.
		let value = take(width - 1);
		if (value >= short) {
			value += take(1) << (width - 1);
			if (value >= 1 << (width - 1)) value -= short;
		}
		const count = value - 1;
		remaining -= Math.abs(count);
		counts.push(count);
		if (count !== 0) continue;
		for (let repeat = 3; repeat === 3; ) {
			repeat = take(2);
			for (let i = 0; i < repeat; i++) counts.push(0);
		}
	}
	if (remaining !== 0 || counts.length > symbols) {
		throw block.fail(
			from,
			`entropy table: expected probabilities of ${symbols} symbols at most that sum to ${1 << log}`,
		);
	}
	const table = buildFse(counts, log);
	if (table === undefined) throw block.fail(from, 'entropy table: the symbols do not fill it');
	return [table, (bit + 7) >> 3];
}
