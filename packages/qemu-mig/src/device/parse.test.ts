import { describe, expect, it } from 'vitest';
import { formatVmDescription, parseVmDescription } from '../index.js';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const parse = (text: string) => parseVmDescription(bytes(text));
const text = (json: Uint8Array): string => new TextDecoder().decode(json);
const device = (members: string): string =>
	`{"page_size": 4096, "devices": [{"name": "d", "instance_id": 0, ${members}}]}`;
const state = '"vmsd_name": "d", "version": 1, "fields": []';
const fields = (entry: string): string => device(`"vmsd_name": "d", "version": 1, "fields": [${entry}]`);

/** A description of each form that QEMU writes. */
const EVERY_FORM = [
	'{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": [{"name": "len", "type": "uint32", "size": 4}]}, ',
	'"page_size": 4096, "devices": [',
	'{"name": "old", "instance_id": 4294967295, "size": 3, "fields": [{"name": "data", "size": 3, "type": "buffer"}]}, ',
	'{"name": "d\\"\\\\\\u0001\\u00FF", "instance_id": 0, "vmsd_name": "d", "version": -1, "fields": [',
	'{"name": "a", "array_len": 2, "type": "uint8", "size": 1}, ',
	'{"name": "s", "index": 0, "type": "struct", "struct": {"vmsd_name": "s", "version": 0, "fields": []}, "size": 0}, ',
	'{"name": "p", "type": "struct", "struct": {}, "size": 1}, ',
	'{"name": "t", "type": "tmp", "vmsd_name": "t", "version": 0, "fields": [], "size": 0}, ',
	'{"name": "q", "type": "qtailq", "vmsd_name": "e", "version": 1, "fields": [], ',
	'"vmsd_name": "e", "version": 1, "fields": [], "size": 3}], ',
	'"subsections": [{"vmsd_name": "d/x", "version": 2, "fields": []}]}]}',
].join('');

describe('parseVmDescription', () => {
	it('reads every form, and formatting gives the same bytes', () => {
		const description = parse(EVERY_FORM);
		expect(description.devices.map(({ kind }) => kind)).toEqual(['old-style', 'state']);
		expect(description.devices[1]?.idstr).toBe('d"\\\u0001\u00ff');
		expect(text(formatVmDescription(description))).toBe(EVERY_FORM);
	});

	it('takes any white space and order of members, and writes QEMU’s', () => {
		const odd =
			' {\n"devices":[\t{"instance_id":0,"fields":[],"version":1,"vmsd_name":"d","name":"d"}],"page_size":4096}\r\n';
		// A state begins with its name: before it, its other members belong to none.
		expect(() => parse(odd)).toThrow(expect.objectContaining({ code: 'shape' }));
		const even =
			'{"devices":[{"instance_id":0,"vmsd_name":"d","fields":[],"version":1,"name":"d"}],"page_size":4096}\n';
		expect(text(formatVmDescription(parse(even)))).toBe(device(state));
	});

	it('keeps members and types that it does not know', () => {
		const unknown = fields('{"name": "f", "type": "from the future", "size": 7, "hint": [1.5e3, {"a": null}, true]}');
		expect(parse(unknown).devices[0]).toMatchObject({ state: { fields: [{ type: 'from the future', size: 7 }] } });
		expect(text(formatVmDescription(parse(unknown)))).toBe(unknown);
	});

	it.each([
		['', 'syntax', 0, 'an object'],
		['[]', 'shape', 0, 'an object'],
		['{"page_size": 4096, "devices": []', 'syntax', 33, "',' or '}'"],
		['{"page_size": 4096, "devices": []} x', 'syntax', 35, 'the end'],
		['{"page_size": 4096, "devices": [],}', 'syntax', 34, 'a string'],
		['{"page_size" 4096}', 'syntax', 13, "':'"],
		['{"devices": []}', 'shape', 0, "'page_size'"],
		['{"page_size": 4096}', 'shape', 0, "'devices'"],
		['{"page_size": 4096, "page_size": 4096, "devices": []}', 'shape', 20, 'once'],
		['{"page_size": 4.5, "devices": []}', 'shape', 14, 'an integer'],
		['{"page_size": 0, "devices": []}', 'shape', 14, 'from 1'],
		['{"page_size": 040, "devices": []}', 'shape', 14, 'an integer'],
		['{"page_size": 99999999999999999999, "devices": []}', 'shape', 14, 'an integer'],
		['{"page_size": "4096", "devices": []}', 'shape', 14, 'an integer'],
		['{"page_size": 4096, "devices": {}}', 'shape', 31, 'an array'],
		['{"page_size": 4096, "devices": [], "x": nul}', 'syntax', 40, 'a value'],
		['{"page_size": 4096, "devices": [], "x": "\\x"}', 'syntax', 42, 'an escape'],
		['{"page_size": 4096, "devices": [], "x": "\\u12g4"}', 'syntax', 42, 'an escape'],
		['{"page_size": 4096, "devices": [], "x": "\u00e9"}', 'syntax', 41, 'ASCII'],
		['{"page_size": 4096, "devices": [], "x": "\n"}', 'syntax', 41, 'ASCII'],
		['{"page_size": 4096, "devices": [], "x": "', 'syntax', 41, 'the end'],
		[device('"size": 1'), 'shape', 32, 'vmsd_name'],
		[device(`"size": 1, ${state}`), 'shape', 32, "no 'size'"],
		[device(`${state}, ${state}`), 'shape', 32, 'several'],
		[device('"version": 1, "fields": []'), 'shape', 32, "'vmsd_name'"],
		[device('"vmsd_name": "d", "fields": []'), 'shape', 32, "'version'"],
		[device('"vmsd_name": "d", "version": 1'), 'shape', 32, "'fields'"],
		[device('"vmsd_name": "d", "version": 4294967296, "fields": []'), 'shape', '4294967296', 'an integer'],
		[device(`${state}, "fields": []`), 'shape', '"fields": []}', 'once'],
		[device('"size": 2, "fields": [{"name": "data", "size": 3, "type": "buffer"}]'), 'shape', 32, 'buffer'],
		[device('"fields": [{"name": "data", "size": 3, "type": "buffer"}]'), 'shape', 32, "'size'"],
		[device('"size": 0, "fields": []'), 'shape', 32, 'one field'],
		[fields('{"type": "bool", "size": 1}'), 'shape', '{"type"', "'name'"],
		[fields('{"name": "f", "size": 1}'), 'shape', '{"name": "f"', "'type'"],
		[fields('{"name": "f", "type": "bool"}'), 'shape', '{"name": "f"', "'size'"],
		[fields('{"name": "f", "type": "bool", "size": -1}'), 'shape', '-1', 'from 0'],
		[fields('{"name": "f", "array_len": 0, "type": "bool", "size": 1}'), 'shape', '0, "type"', 'from 1'],
		[fields('{"name": "f", "array_len": 2, "index": 0, "type": "bool", "size": 1}'), 'shape', '{"name": "f"', 'both'],
		[
			fields(`{"name": "f", "type": "struct", "struct": {${state}}, ${state}, "size": 1}`),
			'shape',
			'{"name": "f"',
			'both',
		],
		[
			fields(`{"name": "f", "type": "struct", "struct": {${state}, ${state}}, "size": 1}`),
			'shape',
			`{${state}`,
			'several',
		],
	])('refuses %j: %s at %j', (json, code, place, message) => {
		const offset = typeof place === 'number' ? place : json.lastIndexOf(place);
		expect(() => parse(json)).toThrow(
			expect.objectContaining({ name: 'DescriptionError', code, offset, message: expect.stringContaining(message) }),
		);
	});

	it('has caps on bytes, depth, values and strings', () => {
		const small = bytes('{"page_size": 4096, "devices": []}');
		const tooLarge = expect.objectContaining({ code: 'too-large' });
		expect(parseVmDescription(small, { bytes: small.length, values: 3, depth: 2 })).toEqual({
			pageSize: 4096,
			devices: [],
		});
		expect(() => parseVmDescription(small, { bytes: small.length - 1 })).toThrow(tooLarge);
		expect(() => parseVmDescription(small, { values: 2 })).toThrow(tooLarge);
		expect(() => parseVmDescription(small, { depth: 1 })).toThrow(
			expect.objectContaining({ code: 'too-deep', offset: 31 }),
		);
		expect(() => parse(`{"${'x'.repeat(5000)}": 1}`)).toThrow(tooLarge);
	});

	it('does not overflow the stack, whatever is nested', () => {
		const tooDeep = expect.objectContaining({ name: 'DescriptionError', code: 'too-deep' });
		expect(() => parse(`{"x": ${'['.repeat(1_000_000)}`)).toThrow(tooDeep);
		expect(() => parse('{"x":'.repeat(1_000_000))).toThrow(tooDeep);
		expect(() => parse(fields('{"struct": {"fields": ['.repeat(100_000)))).toThrow(tooDeep);
		expect(() => parse(device('"subsections": [{'.repeat(100_000)))).toThrow(tooDeep);
	});

	it('formats all that it parses, however deep', () => {
		const inline = '{"name": "f", "type": "tmp", "vmsd_name": "t", "version": 1, "fields": [';
		const nested = `${inline.repeat(61)}${'], "size": 0}'.repeat(61)}`;
		expect(text(formatVmDescription(parse(fields(nested))))).toBe(fields(nested));
	});
});
