/** Reproducible choices. */
export interface Dice {
	below(n: number): number;
	oneOf<T>(list: readonly T[]): T;
}

/** Choices from a text: FNV-1a of it, then splitmix32. */
export function createDice(seed: string): Dice {
	let state = 0x811c9dc5;
	for (let i = 0; i < seed.length; i++) state = Math.imul(state ^ seed.charCodeAt(i), 0x01000193);
	const next = (): number => {
		state = (state + 0x9e3779b9) | 0;
		let x = state ^ (state >>> 16);
		x = Math.imul(x, 0x21f0aaad);
		x ^= x >>> 15;
		x = Math.imul(x, 0x735a2d97);
		return (x ^ (x >>> 15)) >>> 0;
	};
	const below = (n: number): number => next() % Math.max(n, 1);
	return { below, oneOf: (list) => list[below(list.length)] as (typeof list)[number] };
}

/** Lengths, counts and flags that parsers stumble over. */
const HOSTILE: readonly bigint[] = [
	0n,
	1n,
	0x7fn,
	0x80n,
	0xffn,
	0xfffn,
	0x1000n,
	0x1001n,
	0x7fffn,
	0xffffn,
	0x10_0000n,
	0xff_ffffn,
	0x100_0001n,
	0x7fff_ffffn,
	0x8000_0000n,
	0xffff_f000n,
	0xffff_ffffn,
	0x1_0000_0000n,
	0x100_0000_0000n,
	0x20_0000_0000_0000n,
	0x7fff_ffff_ffff_f000n,
	0x8000_0000_0000_0000n,
	0xffff_ffff_ffff_ffffn,
];

/** An offset: half of the time shortly behind a mark, where the small fields are. */
function place(dice: Dice, length: number, marks: readonly number[]): number {
	if (marks.length === 0 || dice.below(2) === 0) return dice.below(length);
	return Math.min(dice.oneOf(marks) + dice.below(24), length - 1);
}

function flipped(dice: Dice, data: Uint8Array, marks: readonly number[]): Uint8Array {
	const out = data.slice();
	for (let i = dice.below(3); i >= 0; i--) {
		const at = place(dice, out.length, marks);
		out[at] = (out[at] ?? 0) ^ (1 << dice.below(8));
	}
	return out;
}

function truncated(dice: Dice, data: Uint8Array, marks: readonly number[]): Uint8Array {
	return data.slice(0, place(dice, data.length, marks));
}

/** Repeats, drops or replaces a stretch; the replacement is of another stream. */
function spliced(dice: Dice, data: Uint8Array, marks: readonly number[], other: Uint8Array): Uint8Array {
	const from = place(dice, data.length, marks);
	const to = dice.below(2) === 0 ? from : place(dice, data.length, marks);
	const start = dice.below(other.length);
	const middle = dice.below(3) === 0 ? [] : other.subarray(start, start + dice.below(dice.oneOf([16, 300, 9000])));
	const out = new Uint8Array(from + middle.length + data.length - to);
	out.set(data.subarray(0, from));
	out.set(middle, from);
	out.set(data.subarray(to), from + middle.length);
	return out;
}

/** A field of 1, 2, 4 or 8 bytes becomes a length that nobody means. */
function hostile(dice: Dice, data: Uint8Array, marks: readonly number[]): Uint8Array {
	const out = data.slice();
	const at = place(dice, out.length, marks);
	const width = Math.min(dice.oneOf([1, 2, 4, 4, 8, 8]), out.length - at);
	const value = dice.oneOf(HOSTILE);
	for (let i = 0; i < width; i++) out[at + i] = Number((value >> BigInt(8 * (width - 1 - i))) & 0xffn);
	return out;
}

/** Bytes with one or two faults, and what was done. `other` is any stream. */
export function damaged(
	dice: Dice,
	data: Uint8Array,
	marks: readonly number[],
	other: Uint8Array,
): { data: Uint8Array; how: string } {
	let out = data;
	const done: string[] = [];
	for (let i = dice.below(4) === 0 ? 2 : 1; i > 0; i--) {
		const how = dice.oneOf(['flip', 'truncate', 'splice', 'length', 'length'] as const);
		if (out.length === 0) break;
		if (how === 'flip') out = flipped(dice, out, marks);
		else if (how === 'truncate') out = truncated(dice, out, marks);
		else if (how === 'splice') out = spliced(dice, out, marks, other);
		else out = hostile(dice, out, marks);
		done.push(how);
	}
	return { data: out, how: done.join('+') };
}
