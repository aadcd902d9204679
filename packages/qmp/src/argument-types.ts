import type { JsonValue } from './json-value.js';

/** What an argument must be, as data; `T` is what a handler gets. */
export type ArgumentType<T = unknown> = {
	/** Carries `T` for inference only; never present. */
	readonly _type?: T;
} & (
	| { readonly kind: 'string' | 'boolean' | 'int64' | 'uint64' | 'uint32' | 'uint8' }
	| { readonly kind: 'enum'; readonly values: readonly string[] }
	| { readonly kind: 'list'; readonly of: ArgumentType }
	| { readonly kind: 'struct'; readonly members: Members }
	| { readonly kind: 'optional'; readonly of: ArgumentType }
);

/** Named arguments in the order in which QEMU visits them. */
export type Members = { readonly [name: string]: ArgumentType };

/** The value of one argument type. */
export type ValueOf<A> = A extends { readonly _type?: infer T } ? Exclude<T, undefined> : never;

type OptionalNames<M extends Members> = { [K in keyof M]: M[K] extends { kind: 'optional' } ? K : never }[keyof M];
type Flatten<T> = { [K in keyof T]: T[K] };

/** The arguments object that a table of members describes. */
export type ArgumentsOf<M extends Members> = Flatten<
	{ readonly [K in Exclude<keyof M, OptionalNames<M>>]: ValueOf<M[K]> } & {
		readonly [K in OptionalNames<M>]?: ValueOf<M[K]>;
	}
>;

/** What a caller may pass where a handler gets `T`: numbers are as good as bigints. */
export type Sendable<T> = T extends bigint
	? bigint | number
	: T extends readonly (infer E)[]
		? readonly Sendable<E>[]
		: T extends object
			? { readonly [K in keyof T]: Sendable<T[K]> }
			: T;

/** Text. */
export const text: { readonly kind: 'string'; readonly _type?: string } = { kind: 'string' };
/** `true` or `false`. */
export const flag: { readonly kind: 'boolean'; readonly _type?: boolean } = { kind: 'boolean' };
/** Signed 64-bit integer. */
export const int64: { readonly kind: 'int64'; readonly _type?: bigint } = { kind: 'int64' };
/** Unsigned 64-bit integer; a negative number is accepted and wraps, as in QEMU. */
export const uint64: { readonly kind: 'uint64'; readonly _type?: bigint } = { kind: 'uint64' };
/** Unsigned 32-bit integer. */
export const uint32: { readonly kind: 'uint32'; readonly _type?: number } = { kind: 'uint32' };
/** Unsigned 8-bit integer. */
export const uint8: { readonly kind: 'uint8'; readonly _type?: number } = { kind: 'uint8' };
/** One of some words. */
export const oneOf = <const V extends readonly string[]>(
	values: V,
): { readonly kind: 'enum'; readonly values: V; readonly _type?: V[number] } => ({ kind: 'enum', values });
/** A list of equal elements. */
export const listOf = <A extends ArgumentType>(
	of: A,
): { readonly kind: 'list'; readonly of: A; readonly _type?: readonly ValueOf<A>[] } => ({ kind: 'list', of });
/** An object with these members and no others. */
export const struct = <const M extends Members>(
	members: M,
): { readonly kind: 'struct'; readonly members: M; readonly _type?: ArgumentsOf<M> } => ({ kind: 'struct', members });
/** An argument that may be left out. */
export const optional = <A extends ArgumentType>(
	of: A,
): { readonly kind: 'optional'; readonly of: A; readonly _type?: ValueOf<A> } => ({ kind: 'optional', of });

/** The arguments as a handler gets them, or QEMU's text of what is wrong with them. */
export type CheckedArguments = { readonly value: { readonly [name: string]: unknown } } | { readonly error: string };

class Refusal extends Error {
	override readonly name = 'Refusal';
}

const wrongType = (path: string, expected: string) =>
	new Refusal(`Invalid parameter type for '${path}', expected: ${expected}`);
const expects = (path: string, expected: string) => new Refusal(`Parameter '${path}' expects ${expected}`);

function unsigned(value: JsonValue, path: string): bigint {
	if (typeof value !== 'bigint') throw expects(path, 'uint64');
	return BigInt.asUintN(64, value);
}

// `name` is the innermost member, which QEMU uses for enums; elements of a list have none and print as 'null'.
function check(type: ArgumentType, value: JsonValue, path: string, name: string): unknown {
	switch (type.kind) {
		case 'optional':
			return check(type.of, value, path, name);
		case 'string':
			if (typeof value !== 'string') throw wrongType(path, 'string');
			return value;
		case 'boolean':
			if (typeof value !== 'boolean') throw wrongType(path, 'boolean');
			return value;
		case 'int64':
			if (typeof value !== 'bigint' || value >= 1n << 63n) throw wrongType(path, 'integer');
			return value;
		case 'uint64':
			return unsigned(value, path);
		case 'uint32':
		case 'uint8': {
			const wide = unsigned(value, path);
			if (wide >= (type.kind === 'uint8' ? 1n << 8n : 1n << 32n)) throw expects(path, `${type.kind}_t`);
			return Number(wide);
		}
		case 'enum':
			if (typeof value !== 'string') throw wrongType(path, 'string');
			if (!type.values.includes(value)) throw new Refusal(`Parameter '${name}' does not accept value '${value}'`);
			return value;
		case 'list':
			if (!Array.isArray(value)) throw wrongType(path, 'array');
			return value.map((element: JsonValue, i) => check(type.of, element, `${path}[${i}]`, 'null'));
		case 'struct':
			return checkMembers(type.members, value, path);
	}
}

function checkMembers(members: Members, value: JsonValue, path: string): { readonly [name: string]: unknown } {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrongType(path, 'object');
	const given = new Map<string, JsonValue>(Object.entries(value));
	const inside = (name: string) => (path === '' ? name : `${path}.${name}`);
	const out = new Map<string, unknown>();
	for (const [name, type] of Object.entries(members)) {
		const argument = given.get(name);
		if (argument !== undefined) out.set(name, check(type, argument, inside(name), name));
		else if (type.kind !== 'optional') throw new Refusal(`Parameter '${inside(name)}' is missing`);
	}
	for (const name of given.keys()) {
		if (!out.has(name)) throw new Refusal(`Parameter '${inside(name)}' is unexpected`);
	}
	return Object.fromEntries(out);
}

/**
 * Checks arguments in the order and with the words of QEMU's input visitor (qemu 7.2 qapi/qobject-input-visitor.c):
 * declared members first, in declared order, then members that are not declared. Integers must be `bigint`.
 */
export function checkArguments(members: Members, value: JsonValue): CheckedArguments {
	try {
		return { value: checkMembers(members, value, '') };
	} catch (refusal) {
		if (refusal instanceof Refusal) return { error: refusal.message };
		throw refusal;
	}
}
