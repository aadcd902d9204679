import type { Block, FseTable } from './entropy.js';
import { BackwardBits, buildFse, fseOf, readFse } from './entropy.js';

/** One of the three codes of a sequence: what a code stands for is a base value and that many bits more. */
interface CodeKind {
	readonly name: string;
	readonly maxLog: number;
	readonly base: readonly number[];
	readonly extra: readonly number[];
	readonly standard: FseTable;
}

/** Base values that continue one another, for codes with these extra bits. */
function bases(first: number, extra: readonly number[]): number[] {
	let value = first;
	return extra.map((bits) => {
		value += 2 ** bits;
		return value - 2 ** bits;
	});
}

const repeated = (count: number, value: number): number[] => new Array<number>(count).fill(value);

function kind(name: string, maxLog: number, extra: number[], base: number[], counts: number[], log: number): CodeKind {
	return { name, maxLog, extra, base, standard: buildFse(counts, log) as FseTable };
}

const upTo = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

const LITERAL_EXTRA = [...repeated(16, 0), 1, 1, 1, 1, 2, 2, 3, 3, 4, ...upTo(6, 16)];
const MATCH_EXTRA = [...repeated(32, 0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, ...upTo(7, 16)];
const OFFSET_EXTRA = upTo(0, 31);

/** RFC 8878 §3.1.1.3.2.1.1 and, for the standard distributions, §3.1.1.3.2.2. */
const LITERAL_LENGTH = kind(
	'literal lengths',
	9,
	LITERAL_EXTRA,
	bases(0, LITERAL_EXTRA),
	[4, 3, ...repeated(11, 2), 1, 1, 1, ...repeated(9, 2), 3, 2, ...repeated(5, 1), ...repeated(4, -1)],
	6,
);
const MATCH_LENGTH = kind(
	'match lengths',
	9,
	MATCH_EXTRA,
	bases(3, MATCH_EXTRA),
	[1, 4, 3, ...repeated(6, 2), ...repeated(37, 1), ...repeated(7, -1)],
	6,
);
const OFFSET = kind(
	'offsets',
	8,
	OFFSET_EXTRA,
	OFFSET_EXTRA.map((bits) => 2 ** bits),
	[...repeated(6, 1), 2, 2, 2, ...repeated(15, 1), ...repeated(5, -1)],
	5,
);

/** Takes what one sequence says: this many literals, then this many bytes from `offset` back. */
export type TakeSequence = (literals: number, match: number, offset: number) => void;

/** The sequences of a block, with the tables and offsets that carry over to the next. RFC 8878 §3.1.1.3.2, §3.1.1.5. */
export class Sequences {
	readonly #tables = new Map<CodeKind, FseTable>();
	#recent: [number, number, number] = [1, 4, 8];

	/** A new frame: nothing carries over. */
	reset(): void {
		this.#tables.clear();
		this.#recent = [1, 4, 8];
	}

	/** Reads the section that fills `[from, to)`. */
	read(block: Block, from: number, to: number, take: TakeSequence): void {
		const { bytes } = block;
		const first = bytes[from] as number;
		const width = first < 128 ? 1 : first < 255 ? 2 : 3;
		if (from + width > to) throw block.fail(from, 'sequences: the count reaches beyond the block');
		const [second, third] = [bytes[from + 1] as number, bytes[from + 2] as number];
		const count = width === 1 ? first : width === 2 ? ((first - 128) << 8) + second : second + (third << 8) + 0x7f00;
		if (count === 0) {
			if (from + width !== to) throw block.fail(from, 'sequences: none, but bytes follow');
			return;
		}
		let at = from + width;
		if (at >= to) throw block.fail(at, 'sequences: the modes are missing');
		const modes = bytes[at++] as number;
		if (modes & 3) throw block.fail(at - 1, 'sequences: reserved bits are set');
		const tables: FseTable[] = [];
		for (const [shift, code] of [
			[6, LITERAL_LENGTH],
			[4, OFFSET],
			[2, MATCH_LENGTH],
		] as const) {
			at = this.#readTable(block, at, to, (modes >> shift) & 3, code);
			tables.push(this.#tables.get(code) as FseTable);
		}
		this.#decode(block, at, to, count, tables as [FseTable, FseTable, FseTable], take);
	}

	#readTable(block: Block, at: number, to: number, mode: number, code: CodeKind): number {
		if (mode === 0) this.#tables.set(code, code.standard);
		else if (mode === 1) {
			const symbol = block.bytes[at] as number;
			if (at >= to || symbol >= code.base.length) throw block.fail(at, `${code.name}: no such code`);
			this.#tables.set(code, fseOf(symbol));
			return at + 1;
		} else if (mode === 2) {
			const [table, end] = readFse(block, at, to, code.base.length, code.maxLog);
			this.#tables.set(code, table);
			return end;
		} else if (!this.#tables.has(code)) throw block.fail(at, `${code.name}: repeat a table that was never sent`);
		return at;
	}

	#decode(
		block: Block,
		from: number,
		to: number,
		count: number,
		[literalTable, offsetTable, matchTable]: [FseTable, FseTable, FseTable],
		take: TakeSequence,
	): void {
		const bits = new BackwardBits(block, from, to);
		let literalState = bits.take(literalTable.log);
		let offsetState = bits.take(offsetTable.log);
		let matchState = bits.take(matchTable.log);
		for (let left = count; ; ) {
			const offsetCode = offsetTable.symbol[offsetState] as number;
			const matchCode = matchTable.symbol[matchState] as number;
			const literalCode = literalTable.symbol[literalState] as number;
			const offset = (OFFSET.base[offsetCode] as number) + takeMany(bits, offsetCode);
			const match = (MATCH_LENGTH.base[matchCode] as number) + bits.take(MATCH_LENGTH.extra[matchCode] as number);
			const literals =
				(LITERAL_LENGTH.base[literalCode] as number) + bits.take(LITERAL_LENGTH.extra[literalCode] as number);
			if (bits.left < 0) throw block.fail(from, 'sequences: the bits end early');
			const distance = this.#distance(offset, literals);
			if (distance === 0) throw block.fail(from, 'sequences: a repeated offset of 0');
			take(literals, match, distance);
			if (--left === 0) break;
			literalState = nextState(bits, literalTable, literalState);
			matchState = nextState(bits, matchTable, matchState);
			offsetState = nextState(bits, offsetTable, offsetState);
		}
		if (bits.left !== 0) throw block.fail(from, 'sequences: bits are left over');
	}

	/** What an offset value means: the low three repeat recent offsets. */
	#distance(value: number, literals: number): number {
		const [first, second, third] = this.#recent;
		if (value > 3) {
			this.#recent = [value - 3, first, second];
			return value - 3;
		}
		const index = literals === 0 ? value : value - 1;
		if (index === 0) return first;
		const distance = index === 1 ? second : index === 2 ? third : first - 1;
		this.#recent = index === 1 ? [second, first, third] : [distance, first, second];
		return distance;
	}
}

function nextState(bits: BackwardBits, table: FseTable, state: number): number {
	return (table.base[state] as number) + bits.take(table.bits[state] as number);
}

/** Up to 31 bits, more than fit one read. */
function takeMany(bits: BackwardBits, count: number): number {
	if (count <= 24) return bits.take(count);
	const high = bits.take(count - 16);
	return high * 65536 + bits.take(16);
}
