import { describe, expect, it } from 'vitest';
import type { FieldSource, StateSource } from '../index.js';
import { describeDevice, describeOldStyle, formatVmDescription, stateField, walkDevice } from '../index.js';

const state = (vmsdName: string, fields: readonly FieldSource[], more: Partial<StateSource> = {}): StateSource => ({
	...{ vmsdName, version: 1, fields },
	...more,
});
const built = (...fields: FieldSource[]) => describeDevice({ idstr: 'd', instanceId: 0, state: state('d', fields) });
/** The text of `fields`. */
const textOf = (...fields: FieldSource[]): string => {
	const { description, body } = built(...fields);
	// What is built is what is walked.
	expect(walkDevice(description, body).root.length).toBe(body.length);
	const text = new TextDecoder().decode(formatVmDescription({ pageSize: 4096, devices: [description] }));
	return text.slice(text.indexOf('[{', 45) + 1, -4);
};
const hexOf = (body: Uint8Array): string => Buffer.from(body).toString('hex');

describe('describeDevice', () => {
	it('writes integers big-endian and describes an array of one without a length', () => {
		const fields = [stateField('a', 'uint16', 0x0102), stateField('b', 'int64', -2n), stateField('c', 'bool', true)];
		expect(hexOf(built(...fields).body)).toBe('0102fffffffffffffffe01');
		expect(textOf(...fields)).toBe(
			'{"name": "a", "type": "uint16", "size": 2}, {"name": "b", "type": "int64", "size": 8}, ' +
				'{"name": "c", "type": "bool", "size": 1}',
		);
	});

	it('tells an array of equal elements once', () => {
		expect(textOf(stateField('a', 'uint32', 1, 2, 3))).toBe(
			'{"name": "a", "array_len": 3, "type": "uint32", "size": 4}',
		);
		const pair = (lo: number): StateSource => state('pair', [stateField('lo', 'uint8', lo)]);
		expect(textOf(stateField('s', 'struct', pair(1), pair(2)))).toBe(
			'{"name": "s", "array_len": 2, "type": "struct", "struct": {"vmsd_name": "pair", "version": 1, ' +
				'"fields": [{"name": "lo", "type": "uint8", "size": 1}]}, "size": 1}',
		);
	});

	it('tells nothing of an array of none', () => {
		expect(textOf(stateField('a', 'uint32'), stateField('b', 'bool', false))).toBe(
			'{"name": "b", "type": "bool", "size": 1}',
		);
	});

	const listed = (index: number): string => `{"name": "s", "index": ${index}, "type": `;

	it('lists the elements of a conditional field', () => {
		expect(textOf({ ...stateField('s', 'uint8', 1, 2), isConditional: true })).toBe(
			`${listed(0)}"uint8", "size": 1}, ${listed(1)}"uint8", "size": 1}`,
		);
	});

	it('lists structs that hold a conditional field, or could have subsections', () => {
		const inner = { ...stateField('x', 'uint8', 1), isConditional: true };
		const deep = (field: FieldSource): StateSource => state('i', [stateField('y', 'struct', state('j', [field]))]);
		expect(textOf(stateField('s', 'struct', deep(inner), deep(inner)))).toContain(listed(1));
		expect(
			textOf(stateField('s', 'struct', deep(stateField('x', 'uint8', 1)), deep(stateField('x', 'uint8', 1)))),
		).not.toContain('"index"');
		const declared = state('i', [], { declaresSubsections: true });
		expect(textOf(stateField('s', 'struct', declared, declared))).toContain(listed(1));
		const sent = state('i', [], { subsections: [state('i/x', [])] });
		expect(textOf(stateField('s', 'struct', sent, declared))).toContain(
			'"subsections": [{"vmsd_name": "i/x", "version": 1, "fields": []}]}, "size": 9}',
		);
		// What is conditional inside a tmp does not count: QEMU looks into structs only.
		expect(textOf(stateField('t', 'tmp', state('i', [inner]), state('i', [inner])))).toContain('"array_len": 2');
	});

	it('numbers names that are not unique, also when one of them is not sent', () => {
		expect(textOf(stateField('a', 'uint8', 1), stateField('a', 'uint8'), stateField('a', 'uint8', 2, 3))).toBe(
			'{"name": "a[0]", "type": "uint8", "size": 1}, {"name": "a[2]", "array_len": 2, "type": "uint8", "size": 1}',
		);
	});

	it('puts the layout of tmp and of lists into the field itself', () => {
		const one = state('t', [stateField('x', 'uint8', 7)]);
		const layout = '"vmsd_name": "t", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]';
		expect(textOf(stateField('t', 'tmp', one))).toBe(`{"name": "t", "type": "tmp", ${layout}, "size": 1}`);
		expect(textOf(stateField('q', 'qtailq', one, one))).toBe(
			`{"name": "q", "type": "qtailq", ${layout}, ${layout}, "size": 5}`,
		);
		expect(hexOf(built(stateField('q', 'qtailq', one, one)).body)).toBe('0107010700');
	});

	it('describes a null pointer among structs as QEMU before 10.0 does', () => {
		const one = state('i', [stateField('x', 'uint16', 7)], { declaresSubsections: true });
		expect(textOf(stateField('s', 'struct', one, null))).toContain(`${listed(1)}"struct", "struct": {}, "size": 1}`);
	});

	it('writes capabilities with their length', () => {
		expect(hexOf(built(stateField('c', 'capability', 'ab')).body)).toBe('026162');
	});

	it.each([
		['a value that does not fit', () => stateField('a', 'uint8', 256)],
		['a negative value of an unsigned type', () => stateField('a', 'uint64', -1)],
		['a number for a type that is no integer', () => stateField('a', 'buffer', 1)],
		['text for a type that is none', () => stateField('a', 'buffer', 'x')],
		[
			'elements of different lengths that are told once',
			() => built(stateField('a', 'buffer', new Uint8Array(1), new Uint8Array(2))),
		],
		[
			'elements of different forms that are told once',
			() =>
				built(
					stateField(
						's',
						'struct',
						state('i', [stateField('x', 'uint8', 1)]),
						state('i', [stateField('x', 'int8', 1)]),
					),
				),
		],
		['bytes in a list', () => built(stateField('q', 'qlist', new Uint8Array(1)))],
		[
			'a subsection of another',
			() => describeDevice({ idstr: 'd', instanceId: 0, state: state('d', [], { subsections: [state('e/x', [])] }) }),
		],
		[
			'a subsection named like its parent',
			() => describeDevice({ idstr: 'd', instanceId: 0, state: state('d', [], { subsections: [state('d', [])] }) }),
		],
	])('refuses %s', (_, build) => {
		expect(build).toThrow(RangeError);
	});
});

describe('describeOldStyle', () => {
	it('is one buffer', () => {
		const text = formatVmDescription({ pageSize: 4096, devices: [describeOldStyle('x', 2, 9)] });
		expect(new TextDecoder().decode(text)).toBe(
			'{"page_size": 4096, "devices": [{"name": "x", "instance_id": 2, "size": 9, "fields": [{"name": "data", "size": 9, "type": "buffer"}]}]}',
		);
	});
});
