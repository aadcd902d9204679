import { expect } from 'vitest';
import type { askCompiler, Place } from './headers.js';

/** A layout of ours, as far as C can say something about it. */
export interface AnyLayout {
	readonly name: string;
	readonly size: number;
	readonly fields: Readonly<Record<string, { readonly offset: number; readonly size: number }>>;
}

/** Fields of ours that together are members of theirs: `flags+reserved` beside `flags+reserved`, in order. */
type Names = Readonly<Record<string, string>>;
export type Pairing = readonly [struct: string, ours: AnyLayout, names: Names];

/** The place of some fields that stand next to each other. */
function union(places: readonly (Place | undefined)[]): Place | undefined {
	const known = places.filter((place) => place !== undefined);
	if (known.length !== places.length) return undefined;
	const start = Math.min(...known.map(([offset]) => offset));
	const sum = known.reduce((bytes, [, size]) => bytes + size, 0);
	const end = Math.max(...known.map(([offset, size]) => offset + size));
	return end - start === sum ? [start, sum] : undefined;
}

export const placesOf = ({ fields }: AnyLayout): Record<string, Place> =>
	Object.fromEntries(Object.entries(fields).map(([name, { offset, size }]) => [name, [offset, size]]));

const split = (names: string) => names.split('+');

export const snakeCase = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Compares each pairing: sizes, and every field of both sides with its offset and size. */
export function comparePairings(
	pairings: readonly Pairing[],
	compile: (structs: Record<string, string[]>) => ReturnType<typeof askCompiler>,
) {
	const answers = compile(
		Object.fromEntries(pairings.map(([struct, , names]) => [struct, Object.values(names).flatMap(split)])),
	);
	for (const [struct, ours, names] of pairings) {
		const theirs = answers.structs[struct];
		const mine = placesOf(ours);
		expect([struct, 'size', ours.size]).toEqual([struct, 'size', theirs?.size]);
		for (const [our, their] of Object.entries(names)) {
			const place = union(split(our).map((name) => mine[name]));
			expect([struct, our, place]).toEqual([struct, our, union(split(their).map((name) => theirs?.members[name]))]);
		}
		// Nothing left out, on either side: these structures are packed.
		expect([struct, Object.keys(names).flatMap(split).sort()]).toEqual([struct, Object.keys(mine).sort()]);
		const bytes = Object.values(theirs?.members ?? {}).reduce((sum, [, size]) => sum + size, 0);
		expect([struct, 'bytes', bytes]).toEqual([struct, 'bytes', theirs?.size]);
	}
}

/** Compares numbers of ours with constants of theirs, by name. */
export function compareNumbers(
	ours: Readonly<Record<string, number>>,
	compile: (constants: string[]) => ReturnType<typeof askCompiler>,
) {
	expect(ours).toEqual(compile(Object.keys(ours)).constants);
}

/** Numbers under other names. */
export const renamed = (numbers: object, rename: (name: string) => string) =>
	Object.fromEntries(Object.entries(numbers).map(([name, value]) => [rename(name), Number(value)]));
