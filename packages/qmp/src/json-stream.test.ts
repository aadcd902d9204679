import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createJsonStream, type JsonMessage, type JsonStreamOptions } from './json-stream.js';
import { jsonText } from './json-value.js';

const utf8 = new TextEncoder();

function read(chunks: readonly (string | Uint8Array)[], options?: JsonStreamOptions): JsonMessage[] {
	const out: JsonMessage[] = [];
	const stream = createJsonStream((message) => out.push(message), options);
	for (const chunk of chunks) stream.receive(typeof chunk === 'string' ? utf8.encode(chunk) : chunk);
	return out;
}

const cut = (bytes: Uint8Array, places: readonly number[]) => {
	const at = [0, ...places.map((p) => p % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
	return at.slice(1).map((end, i) => bytes.subarray(at[i], end));
};

describe('a JSON stream', () => {
	it('reads objects back to back, with no separator', () => {
		expect(read(['{"a":1}{"b":[]} \t\r\n{}'])).toEqual([{ value: { a: 1 } }, { value: { b: [] } }, { value: {} }]);
	});

	it('accepts single-quoted strings with quotes of the other kind inside', () => {
		expect(read([`{'a':'say "x"','b':"it's"}`])).toEqual([{ value: { a: 'say "x"', b: "it's" } }]);
	});

	it('keeps 2 and 2.0 apart when integers are asked for as bigint', () => {
		expect(read(['[2, 2.0, -1, 18446744073709551615, 18446744073709551616]'], { integers: 'bigint' })).toEqual([
			{ value: [2n, 2, -1n, 18446744073709551615n, 2 ** 64] },
		]);
	});

	it('uses bigint only for integers that a number cannot hold exactly otherwise', () => {
		expect(read(['[9007199254740991, 9007199254740993]'])).toEqual([{ value: [9007199254740991, 9007199254740993n] }]);
	});

	it('makes an own member of __proto__', () => {
		const [message] = read(['{"__proto__":{"polluted":true}}']);
		expect(message).toEqual({ value: JSON.parse('{"__proto__":{"polluted":true}}') });
		expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
	});

	it('reports a value larger than the limit once and goes on at the next', () => {
		const messages = read([`{"a":"${'x'.repeat(90)}","b":"${'y'.repeat(20)}`, '"} {"c":1}'], { maxBytes: 100 });
		expect(messages[0]).toEqual({ error: 'JSON token size limit exceeded' });
		expect(messages.at(-1)).toEqual({ value: { c: 1 } });
	});

	it('does not buffer one endless string beyond the limit', () => {
		const messages = read(['"', ...Array.from({ length: 20 }, () => 'x'.repeat(64))], { maxBytes: 100 });
		expect(messages).toContainEqual({ error: 'JSON token size limit exceeded' });
	});

	it('refuses too many tokens and too deep nesting', () => {
		expect(read([`[${'1,'.repeat(10)}`], { maxTokens: 10 })[0]).toEqual({ error: 'JSON token count limit exceeded' });
		expect(read(['['.repeat(1025)])[0]).toEqual({ error: 'JSON nesting depth limit exceeded' });
	});

	it('gives nothing for a value that is not finished', () => {
		expect(read(['{"a":[1,2,3', '], "b": "'])).toEqual([]);
	});

	test.prop([fc.array(fc.jsonValue(), { maxLength: 5 }), fc.array(fc.nat(), { maxLength: 8 })])(
		'yields the same messages however the bytes are split',
		(values, places) => {
			const bytes = utf8.encode(values.map((v) => JSON.stringify(v)).join('\n') + '\n');
			const whole = read([bytes]);
			expect(read(cut(bytes, places))).toEqual(whole);
			expect(read(cut(bytes, [...bytes.keys()]))).toEqual(whole);
			expect(whole).toHaveLength(values.length);
		},
	);

	test.prop([fc.jsonValue()])('reads back what jsonText writes', (value) => {
		const [message] = read([jsonText(value as never), ' ']);
		if (!message || 'error' in message) throw new Error(message?.error);
		// Back through a double: an integer beyond 2^53 may have been read exactly.
		expect(JSON.parse(jsonText(message.value))).toEqual(JSON.parse(JSON.stringify(value)));
	});

	const garbage = fc.oneof(
		fc.uint8Array({ maxLength: 200 }),
		fc.string({ unit: fc.constantFrom(...'{}[]:,"\'\\u0189.eE+-truefalsn \n\t\x01') }).map((s) => utf8.encode(s)),
	);
	test.prop([garbage, fc.array(fc.nat(), { maxLength: 4 })])(
		'never throws on garbage, and afterwards understands the next command',
		(bytes, places) => {
			const split = read(cut(bytes, places));
			expect(split).toEqual(read([bytes]));
			// FF ends whatever was open, the line feed ends the recovery from it.
			expect(read([bytes, Uint8Array.of(0xff, 0x0a), '{"execute":"x"}']).at(-1)).toEqual({ value: { execute: 'x' } });
		},
	);
});
