import { Token } from './json-lexer.js';
import type { JsonValue } from './json-value.js';
import { codePointAt, INVALID, isCharacter, readableText } from './utf8.js';

/** A token and its bytes, quotes included. */
export interface LexedToken {
	readonly kind: Token;
	readonly text: Uint8Array;
}

/** Why a run of tokens is not a JSON value; `message` is QEMU's text after `JSON parse error, `. */
class ParseFailure extends Error {
	override readonly name = 'ParseFailure';
}

const ESCAPES: Readonly<Record<string, string>> = {
	'"': '"',
	"'": "'",
	'\\': '\\',
	'/': '/',
	b: '\b',
	f: '\f',
	n: '\n',
	r: '\r',
	t: '\t',
};

const ascii = (text: Uint8Array) => String.fromCharCode(...text);

function hex4(text: Uint8Array, at: number): number {
	const digits = ascii(text.subarray(at, at + 4));
	return /^[0-9a-fA-F]{4}$/.test(digits) ? Number.parseInt(digits, 16) : INVALID;
}

/** Reads `\uXXXX` at `at`, or a surrogate pair of two. */
function escapedCharacter(text: Uint8Array, at: number): { point: number; length: number } {
	const first = hex4(text, at + 2);
	const paired = first >= 0xd800 && first <= 0xdbff && text[at + 6] === 0x5c && text[at + 7] === 0x75;
	if (!paired) return { point: first, length: 6 };
	const second = hex4(text, at + 8);
	if (second < 0xdc00 || second > 0xdfff) return { point: INVALID, length: 6 };
	return { point: 0x10000 + ((first & 0x3ff) << 10) + (second & 0x3ff), length: 12 };
}

function stringOf(token: Uint8Array): string {
	const text = token.subarray(1, token.length - 1);
	let out = '';
	for (let at = 0; at < text.length; ) {
		if (text[at] !== 0x5c) {
			const { point, length } = codePointAt(text, at);
			if (point === INVALID) throw new ParseFailure('invalid UTF-8 sequence in string');
			out += String.fromCodePoint(point);
			at += length;
			continue;
		}
		if (text[at + 1] === 0x75) {
			const { point, length } = escapedCharacter(text, at);
			if (!isCharacter(point)) {
				// Cut from the whole token, as QEMU does: when digits are missing, the closing quote shows.
				const shown = readableText(token.subarray(1 + at, 1 + at + length));
				throw new ParseFailure(`${shown} is not a valid Unicode character`);
			}
			out += String.fromCodePoint(point);
			at += length;
			continue;
		}
		const plain = ESCAPES[String.fromCharCode(text[at + 1] ?? 0)];
		if (plain === undefined) throw new ParseFailure('invalid escape sequence in string');
		out += plain;
		at += 2;
	}
	return out;
}

const INT64_MIN = -(1n << 63n);
const UINT64_MAX = (1n << 64n) - 1n;

/** Integers outside 64 bits become floating point, as in QEMU. */
function integerOf(text: string, integers: 'bigint' | 'number'): number | bigint {
	// A long run of digits is never converted to a bigint: that would take quadratic time.
	if (text.length > 20) return Number(text);
	const value = BigInt(text);
	if (value < INT64_MIN || value > UINT64_MAX) return Number(text);
	const near = Number(value);
	return integers === 'bigint' || !Number.isSafeInteger(near) ? value : near;
}

/** Parses tokens with balanced brackets. Returns the value or QEMU's error text (qemu 7.2 qobject/json-parser.c). */
export function parseTokens(
	tokens: readonly LexedToken[],
	integers: 'bigint' | 'number',
): { value: JsonValue } | { error: string } {
	let at = 0;
	const peek = () => {
		const token = tokens[at];
		if (token === undefined) throw new ParseFailure('premature EOI');
		return token;
	};
	const take = () => {
		const token = peek();
		at++;
		return token;
	};

	const list = (): JsonValue => {
		const out: JsonValue[] = [];
		if (peek().kind === Token.closeArray) {
			at++;
			return out;
		}
		for (;;) {
			out.push(value());
			const { kind } = take();
			if (kind === Token.closeArray) return out;
			if (kind !== Token.comma) throw new ParseFailure('expected separator in list');
		}
	};
	const object = (): JsonValue => {
		const out = new Map<string, JsonValue>();
		if (peek().kind === Token.closeObject) {
			at++;
			return {};
		}
		for (;;) {
			const key = value();
			if (typeof key !== 'string') throw new ParseFailure('key is not a string in object');
			if (take().kind !== Token.colon) throw new ParseFailure('missing : in object pair');
			const member = value();
			if (out.has(key)) throw new ParseFailure('duplicate key');
			out.set(key, member);
			const { kind } = take();
			// fromEntries also makes an own member of `__proto__`, which assignment would not.
			if (kind === Token.closeObject) return Object.fromEntries(out);
			if (kind !== Token.comma) throw new ParseFailure('expected separator in dict');
		}
	};
	const keyword = (name: string): JsonValue => {
		if (name === 'true') return true;
		if (name === 'false') return false;
		if (name === 'null') return null;
		throw new ParseFailure(`invalid keyword '${name}'`);
	};
	const value = (): JsonValue => {
		const { kind, text } = peek();
		switch (kind) {
			case Token.openObject:
				at++;
				return object();
			case Token.openArray:
				at++;
				return list();
			case Token.integer:
				at++;
				return integerOf(readableText(text), integers);
			case Token.float:
				at++;
				return Number(readableText(text));
			case Token.string:
				at++;
				return stringOf(text);
			case Token.keyword:
				at++;
				return keyword(readableText(text));
			default:
				throw new ParseFailure('expecting value');
		}
	};

	try {
		return { value: value() };
	} catch (failure) {
		if (failure instanceof ParseFailure) return { error: failure.message };
		throw failure;
	}
}
