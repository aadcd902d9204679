/**
 * The JSON lexer of QEMU's monitor as one table, so that every stray byte leads to the same token, error and
 * point of recovery as there (qemu 7.2 qobject/json-lexer.c).
 */

/** What a token is. Numbers below {@link FIRST_STATE} are tokens, the rest are states between bytes. */
export const Token = {
	error: 0,
	openObject: 1,
	closeObject: 2,
	openArray: 3,
	closeArray: 4,
	colon: 5,
	comma: 6,
	integer: 7,
	float: 8,
	keyword: 9,
	string: 10,
	/** A token still unfinished when it outgrew the limit. */
	tooLong: 11,
} as const;
export type Token = (typeof Token)[keyof typeof Token];

const FIRST_STATE = 12;
const RECOVERY = 12;
const DOUBLE_ESCAPE = 13;
const DOUBLE = 14;
const SINGLE_ESCAPE = 15;
const SINGLE = 16;
const ZERO = 17;
const EXPONENT_DIGITS = 18;
const EXPONENT_SIGN = 19;
const EXPONENT = 20;
const MANTISSA_DIGITS = 21;
const MANTISSA = 22;
const DIGITS = 23;
const SIGN = 24;
const KEYWORD = 25;
const START = 26;
const STATES = 27;
/** The byte ends the token without belonging to it, and is looked at again. */
const LOOKAHEAD = 0x80;

const table = new Uint8Array(STATES * 256);
const rule = (state: number, next: number, first: number, last = first) =>
	table.fill(next, state * 256 + first, state * 256 + last + 1);
const code = (character: string) => character.charCodeAt(0);
const digits = (state: number, next: number) => rule(state, next, code('0'), code('9'));

rule(RECOVERY, START | LOOKAHEAD, 0x00, 0x1f);
rule(RECOVERY, RECOVERY, 0x20, 0xfd);
rule(RECOVERY, START | LOOKAHEAD, 0xfe, 0xff);
rule(RECOVERY, RECOVERY, code('\t'));
for (const structural of '{}[]:,') rule(RECOVERY, START | LOOKAHEAD, code(structural));
for (const [state, escaped, quote] of [
	[DOUBLE, DOUBLE_ESCAPE, '"'],
	[SINGLE, SINGLE_ESCAPE, "'"],
] as const) {
	rule(escaped, state, 0x20, 0xfd);
	rule(state, state, 0x20, 0xfd);
	rule(state, escaped, code('\\'));
	rule(state, Token.string, code(quote));
	rule(START, state, code(quote));
}
rule(ZERO, Token.integer | LOOKAHEAD, 0, 0xff);
digits(ZERO, Token.error);
rule(ZERO, MANTISSA, code('.'));
rule(EXPONENT_DIGITS, Token.float | LOOKAHEAD, 0, 0xff);
digits(EXPONENT_DIGITS, EXPONENT_DIGITS);
digits(EXPONENT_SIGN, EXPONENT_DIGITS);
rule(EXPONENT, EXPONENT_SIGN, code('-'));
rule(EXPONENT, EXPONENT_SIGN, code('+'));
digits(EXPONENT, EXPONENT_DIGITS);
rule(MANTISSA_DIGITS, Token.float | LOOKAHEAD, 0, 0xff);
digits(MANTISSA_DIGITS, MANTISSA_DIGITS);
rule(MANTISSA_DIGITS, EXPONENT, code('e'));
rule(MANTISSA_DIGITS, EXPONENT, code('E'));
digits(MANTISSA, MANTISSA_DIGITS);
rule(DIGITS, Token.integer | LOOKAHEAD, 0, 0xff);
digits(DIGITS, DIGITS);
rule(DIGITS, EXPONENT, code('e'));
rule(DIGITS, EXPONENT, code('E'));
rule(DIGITS, MANTISSA, code('.'));
digits(SIGN, DIGITS);
rule(SIGN, ZERO, code('0'));
rule(KEYWORD, Token.keyword | LOOKAHEAD, 0, 0xff);
rule(KEYWORD, KEYWORD, code('a'), code('z'));
digits(START, DIGITS);
rule(START, ZERO, code('0'));
rule(START, SIGN, code('-'));
rule(START, Token.openObject, code('{'));
rule(START, Token.closeObject, code('}'));
rule(START, Token.openArray, code('['));
rule(START, Token.closeArray, code(']'));
rule(START, Token.comma, code(','));
rule(START, Token.colon, code(':'));
rule(START, KEYWORD, code('a'), code('z'));
for (const space of ' \t\r\n') rule(START, START, code(space));

/** Cuts bytes into tokens, one byte at a time. */
export interface JsonLexer {
	feed(byte: number): void;
}

/** `onToken` gets a copy of the token's bytes. A token longer than `limit` bytes is reported as `tooLong` and dropped. */
export function createJsonLexer(limit: number, onToken: (kind: Token, text: Uint8Array) => void): JsonLexer {
	let state = START;
	let text = new Uint8Array(256);
	let length = 0;

	const append = (byte: number) => {
		if (length === text.length) {
			const larger = new Uint8Array(2 * length);
			larger.set(text);
			text = larger;
		}
		text[length++] = byte;
	};
	const emit = (kind: number) => onToken(kind as Token, text.slice(0, length));

	const feed = (byte: number) => {
		let consumed = false;
		while (!consumed) {
			const entry = table[state * 256 + byte] ?? Token.error;
			const next = entry & ~LOOKAHEAD;
			consumed = (entry & LOOKAHEAD) === 0;
			if (consumed) append(byte);
			if (next === Token.error) {
				emit(next);
				state = RECOVERY;
				length = 0;
			} else if (next < FIRST_STATE) {
				emit(next);
				state = START;
				length = 0;
			} else {
				state = next;
				if (next === START || next === RECOVERY) length = 0;
			}
		}
		if (length > limit) {
			emit(Token.tooLong);
			state = START;
			length = 0;
		}
	};
	return { feed };
}
