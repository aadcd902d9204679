import { createJsonLexer, Token } from './json-lexer.js';
import { type LexedToken, parseTokens } from './json-parser.js';
import type { JsonValue } from './json-value.js';
import { readableText } from './utf8.js';

/** What a JSON stream yields: a value, or the text of QEMU's error for the bytes that are none. */
export type JsonMessage = { readonly value: JsonValue } | { readonly error: string };

/** Limits and number form of a {@link createJsonStream}. */
export interface JsonStreamOptions {
	/** Bytes of tokens in one value. QEMU allows 64 MiB; no command served here needs more than the default of 1 MiB. */
	readonly maxBytes?: number;
	/** Tokens in one value; default 32768. */
	readonly maxTokens?: number;
	/** `bigint` keeps `2` and `2.0` apart, as QEMU does; `number` (default) uses bigint only where a number is not exact. */
	readonly integers?: 'bigint' | 'number';
}

/** Turns bytes, split anywhere, into values. Never throws; after an error it resynchronises as QEMU does. */
export interface JsonStream {
	receive(data: Uint8Array): void;
}

/** Nested brackets allowed (qemu 7.2 qobject/json-streamer.c, MAX_NESTING). */
const MAX_NESTING = 1024;

/**
 * A stream of JSON values back to back, without separators. Strings may be single-quoted. `onMessage` is called during
 * `receive`. A number or keyword is complete only when another byte follows it.
 */
export function createJsonStream(
	onMessage: (message: JsonMessage) => void,
	{ maxBytes = 1 << 20, maxTokens = 1 << 15, integers = 'number' }: JsonStreamOptions = {},
): JsonStream {
	let tokens: LexedToken[] = [];
	let bytes = 0;
	let braces = 0;
	let brackets = 0;

	const finish = (message: JsonMessage) => {
		tokens = [];
		bytes = 0;
		braces = 0;
		brackets = 0;
		onMessage(message);
	};

	const onToken = (kind: Token, text: Uint8Array) => {
		if (kind === Token.error) return finish({ error: `JSON parse error, stray '${readableText(text)}'` });
		if (kind === Token.openObject) braces++;
		if (kind === Token.closeObject) braces--;
		if (kind === Token.openArray) brackets++;
		if (kind === Token.closeArray) brackets--;
		if (kind === Token.tooLong || bytes + text.length + 1 > maxBytes) {
			return finish({ error: 'JSON token size limit exceeded' });
		}
		if (tokens.length + 1 > maxTokens) return finish({ error: 'JSON token count limit exceeded' });
		if (braces + brackets > MAX_NESTING) return finish({ error: 'JSON nesting depth limit exceeded' });
		tokens.push({ kind, text });
		bytes += text.length;
		if ((braces > 0 || brackets > 0) && braces >= 0 && brackets >= 0) return;
		const result = parseTokens(tokens, integers);
		finish('error' in result ? { error: `JSON parse error, ${result.error}` } : result);
	};

	const lexer = createJsonLexer(maxBytes, onToken);
	return {
		receive: (data) => {
			for (const byte of data) lexer.feed(byte);
		},
	};
}
