import { describe, expect, it } from 'vitest';
import type { DeviceDescription, FieldDescription, StateDescription } from '../index.js';
import { describeOldStyle, leavesOf, rawBytes, walkConfiguration, walkDevice } from '../index.js';

const plain = (name: string, type: string, size: number, more: Partial<FieldDescription> = {}): FieldDescription => ({
	...{ name, type, size, nesting: 'none', layouts: [] },
	...more,
});
const state = (
	vmsdName: string,
	fields: readonly FieldDescription[],
	subsections: readonly StateDescription[] = [],
) => ({
	...{ vmsdName, version: 1, fields, subsections },
});
const device = (inside: StateDescription): DeviceDescription => ({
	...{ kind: 'state', idstr: 'd', instanceId: 1, state: inside },
});
const of = (...fields: FieldDescription[]): DeviceDescription => device(state('d', fields));
const nested = (name: string, type: string, size: number, ...layouts: StateDescription[]): FieldDescription =>
	plain(name, type, size, { nesting: type === 'struct' ? 'struct' : 'inline', layouts });
const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const ascii = (text: string): string => Buffer.from(text).toString('hex');
const fault = (code: string, field: string, offset: number) =>
	expect.objectContaining({ name: 'DeviceStateError', code, idstr: 'd', instanceId: 1, field, offset });

/** Kinds and values of the fields of a device. */
const values = (description: DeviceDescription, body: string): [string, unknown][] =>
	walkDevice(description, hex(body)).root.fields.map(({ kind, value }) => [kind, value]);

describe('types', () => {
	it.each([
		['int8', 'ff', -1],
		['uint8', 'ff', 255],
		['int16', 'fffe', -2],
		['uint16', 'fffe', 0xfffe],
		['int32', '80000000', -(2 ** 31)],
		['uint32', '80000000', 2 ** 31],
		['int64', 'ffffffffffffffff', -1n],
		['uint64', 'ffffffffffffffff', 2n ** 64n - 1n],
		['uint8 equal', '80', 128],
		['uint16 equal', '0102', 258],
		['uint32 equal', '00000001', 1],
		['int32 equal', 'ffffffff', -1],
		['int32 le', '00000001', 1],
		['int64 equal', '8000000000000000', 2n ** 63n],
		['timer', 'ffffffffffffffff', -1n],
	])('%s is an integer: %s is %s', (type, body, value) => {
		expect(values(of(plain('f', type, body.length / 2)), body)).toEqual([['integer', value]]);
	});

	it('bool is one byte, and not zero is true', () => {
		expect(values(of(plain('f', 'bool', 1), plain('g', 'bool', 1)), '00 02')).toEqual([
			['boolean', false],
			['boolean', true],
		]);
	});

	it('arrays of integers are typed arrays in host order', () => {
		const fields = of(plain('a', 'uint16', 2, { arrayLength: 2 }), plain('b', 'int64', 8, { arrayLength: 1 }));
		expect(values(fields, '0102 fffe ffffffffffffffff')).toEqual([
			['integers', Uint16Array.of(0x0102, 0xfffe)],
			['integers', BigInt64Array.of(-1n)],
		]);
		expect(values(of(plain('c', 'int8', 1, { arrayLength: 3 })), '01 ff 00')).toEqual([
			['integers', Int8Array.of(1, -1, 0)],
		]);
		expect(values(of(plain('d', 'uint32', 4, { arrayLength: 2 })), '00000001 80000000')).toEqual([
			['integers', Uint32Array.of(1, 2 ** 31)],
		]);
	});

	it('pci irq state is four integers; pci config and buffers are bytes', () => {
		const fields = of(plain('i', 'pci irq state', 16), plain('c', 'pci config', 4), plain('u', 'unused_buffer', 1));
		expect(values(fields, '00000001 00000000 00000000 00000001 86803412 00')).toEqual([
			['integers', Uint32Array.of(1, 0, 0, 1)],
			['bytes', hex('86803412')],
			['bytes', hex('00')],
		]);
	});

	it('keeps unknown types, and known ones of another size, as bytes', () => {
		const fields = of(plain('x', 'from the future', 2, { arrayLength: 2 }), plain('y', 'uint32', 3));
		expect(values(fields, '01020304 050607')).toEqual([
			['bytes', hex('01020304')],
			['bytes', hex('050607')],
		]);
	});

	it('knows null pointers, under their own name and under that of what they stand for', () => {
		const fields = of(
			plain('n', 'nullptr', 1, { arrayLength: 2 }),
			plain('p', 'struct', 1, { nesting: 'struct', index: 0 }),
			plain('q', 'struct', 1, { nesting: 'struct', index: 1 }),
		);
		expect(values(fields, '3030 30 31').map(([kind]) => kind)).toEqual(['null', 'null', 'bytes']);
		expect(() => values(fields, '3031 30 30')).toThrow(fault('value', 'n', 1));
	});
});

describe('states inside', () => {
	const pair = state('pair', [plain('lo', 'uint8', 1), plain('hi', 'uint8', 1)]);

	it('struct, tmp and vstruct are read in place', () => {
		const tree = walkDevice(
			of(nested('s', 'struct', 2, pair), nested('t', 'tmp', 2, pair), nested('v', 'vstruct', 2, pair)),
			hex('010203040506'),
		);
		expect(leavesOf(tree).map(({ path, field }) => [path, field.offset, field.value])).toEqual([
			['s.lo', 0, 1],
			['s.hi', 1, 2],
			['t.lo', 2, 3],
			['t.hi', 3, 4],
			['v.lo', 4, 5],
			['v.hi', 5, 6],
		]);
	});

	it('an array that is told once repeats on the wire', () => {
		const tree = walkDevice(of({ ...nested('s', 'struct', 2, pair), arrayLength: 2 }), hex('01020304'));
		expect(leavesOf(tree).map(({ path, field }) => [path, field.value])).toEqual([
			['s[0].lo', 1],
			['s[0].hi', 2],
			['s[1].lo', 3],
			['s[1].hi', 4],
		]);
		const [field] = tree.root.fields;
		expect(field && rawBytes(tree, field)).toEqual(hex('01020304'));
	});

	it('an array that is listed carries its positions; a path that occurs again is told apart', () => {
		const tree = walkDevice(
			of(plain('a', 'uint8', 1, { index: 0 }), plain('a', 'uint8', 1, { index: 0 })),
			hex('0102'),
		);
		expect(leavesOf(tree).map(({ path }) => path)).toEqual(['a[0]', 'a[0]#1']);
	});

	it('refuses a struct whose fields are not as long as it', () => {
		const wrong = of({ ...nested('s', 'struct', 3, pair), arrayLength: 2 });
		expect(() => walkDevice(wrong, hex('010203040506'))).toThrow(fault('size', 's[0]', 0));
	});

	it('lists have a mark before each element and one after the last', () => {
		const list = of(nested('q', 'qtailq', 7, pair, pair));
		const tree = walkDevice(list, hex('01 0102 01 0304 00'));
		expect(leavesOf(tree).map(({ path, field }) => [path, field.value])).toEqual([
			['q[0].lo', 1],
			['q[0].hi', 2],
			['q[1].lo', 3],
			['q[1].hi', 4],
		]);
		expect(() => walkDevice(list, hex('01 0102 02 0304 00'))).toThrow(fault('value', 'q', 3));
		expect(() => walkDevice(list, hex('01 0102 01 0304 01'))).toThrow(fault('value', 'q', 6));
		expect(() => walkDevice(of(nested('q', 'qlist', 8, pair, pair)), hex('01 0102 01 0304 00'))).toThrow(
			fault('size', 'q', 0),
		);
		expect(walkDevice(of(plain('q', 'qlist', 1)), hex('00')).root.fields[0]?.value).toEqual([]);
	});

	it('trees have their number first, and a key before each value', () => {
		const direct = of(nested('g', 'gtree', 16, pair));
		expect(walkDevice(direct, hex('00000001 01 0000000000000009 0102 00')).root.fields[0]).toMatchObject({
			keys: [9n],
		});
		const keyed = of(nested('g', 'gtree', 10, pair, pair));
		const tree = walkDevice(keyed, hex('00000001 01 0102 0304 00'));
		expect(leavesOf(tree).map(({ field }) => field.value)).toEqual([1, 2, 3, 4]);
		expect(() => walkDevice(keyed, hex('00000003 01 0102 0304 00'))).toThrow(fault('size', 'g', 0));
	});
});

describe('subsections', () => {
	const sub = state('d/s', [plain('x', 'uint8', 1)]);
	const described = device(state('d', [plain('f', 'uint8', 1)], [sub]));
	const wire = `07 05 03 ${ascii('d/s')} 00000001 2a`;

	it('follow the fields with mark, name and version', () => {
		const { root } = walkDevice(described, hex(wire));
		expect(root.subsections).toMatchObject([{ name: 'd/s', version: 1, offset: 1, length: 10 }]);
		expect(root.subsections[0]?.fields[0]).toMatchObject({ name: 'x', offset: 10, value: 42 });
	});

	it.each([
		['07', 'subsection', '', 1, "'d/s', got the end"],
		[`07 06 03 ${ascii('d/s')} 00000001 2a`, 'subsection', '', 1, 'got 0x06'],
		[`07 05 03 ${ascii('d/t')} 00000001 2a`, 'subsection', '', 1, "got 'd/t'"],
		[`07 05 02 ${ascii('d/')} 00000001 2a`, 'subsection', '', 1, "got 'd/'"],
		[`07 05 09 ${ascii('d/s')}`, 'subsection', '', 1, 'got 0x05'],
		[`07 05 03 ${ascii('d/s')} 00000002 2a`, 'subsection', 'd/s', 6, 'version 1, got 2'],
		[`07 05 03 ${ascii('d/s')} 000000`, 'truncated', 'd/s', 6, '4 bytes, got 3'],
		[`07 05 03 ${ascii('d/s')} 00000001`, 'truncated', 'd/s.x', 10, '1 bytes, got 0'],
		[`${wire} 00`, 'trailing', '', 11, '1 more bytes'],
		[`${wire} 05 03 ${ascii('d/u')} 00000001`, 'trailing', '', 11, "begin with a subsection 'd/u'"],
	])('must be as described: %s', (body, code, field, offset, message) => {
		const error = { ...fault(code, field, offset).sample, message: expect.stringContaining(message) };
		expect(() => walkDevice(described, hex(body))).toThrow(expect.objectContaining(error));
	});

	it('may stand inside a struct, and a next field that begins with 0x05 is none', () => {
		const inner = state('i', [plain('a', 'uint8', 1)], [state('i/s', [])]);
		const both = of(nested('n', 'struct', 10, inner), plain('z', 'uint8', 1));
		const tree = walkDevice(both, hex(`01 05 03 ${ascii('i/s')} 00000001 05`));
		expect(tree.root.fields.map(({ offset, length }) => [offset, length])).toEqual([
			[0, 10],
			[10, 1],
		]);
	});
});

describe('the body as a whole', () => {
	it('of an old-style device is one buffer', () => {
		const old = describeOldStyle('d', 1, 2);
		expect(walkDevice(old, hex('0102')).root).toMatchObject({ name: '', fields: [{ name: 'data', kind: 'bytes' }] });
		expect(() => walkDevice(old, hex('01'))).toThrow(fault('truncated', 'data', 0));
		expect(() => walkDevice(old, hex('010203'))).toThrow(fault('trailing', '', 2));
	});

	it('is compared with the version of its section when that is given', () => {
		const empty = of();
		expect(walkDevice(empty, new Uint8Array(0), { version: 1 }).root.length).toBe(0);
		expect(() => walkDevice(empty, new Uint8Array(0), { version: 2 })).toThrow(fault('version', '', 0));
	});

	it('may be a view at any place of its memory', () => {
		const memory = hex('ffff 0000002a ffff');
		const tree = walkDevice(of(plain('f', 'uint32', 4)), memory.subarray(2, 6));
		expect(tree.root.fields[0]?.value).toBe(42);
	});

	it('cannot be made to fill memory or the stack by what is described', () => {
		const empty = state('e', []);
		const many = of({ ...nested('s', 'struct', 0, empty), arrayLength: Number.MAX_SAFE_INTEGER });
		expect(() => walkDevice(many, new Uint8Array(0))).toThrow(expect.objectContaining({ code: 'too-large' }));
		expect(() => walkDevice(many, new Uint8Array(0), { nodes: 10 })).toThrow(fault('too-large', 's[8]', 0));
		const long = of(plain('b', 'buffer', Number.MAX_SAFE_INTEGER, { arrayLength: Number.MAX_SAFE_INTEGER }));
		expect(() => walkDevice(long, new Uint8Array(9))).toThrow(fault('truncated', 'b', 0));
		expect(() => walkDevice(of(plain('b', 'buffer', -1)), new Uint8Array(9))).toThrow(fault('truncated', 'b', 0));
		let deep = empty;
		for (let i = 0; i < 100_000; i++) deep = state('e', [nested('s', 'struct', 0, deep)]);
		expect(() => walkDevice(device(deep), new Uint8Array(0))).toThrow(expect.objectContaining({ code: 'too-deep' }));
	});
});

describe('walkConfiguration', () => {
	it('reads machine type and capabilities of QEMU 8.2 and later', () => {
		const capabilities = state('configuration/capabilities', [
			plain('caps_count', 'uint32', 4),
			// Told once although the names differ in length: the wire decides.
			plain('capabilities', 'capability', 2, { arrayLength: 2 }),
		]);
		const described = state('configuration', [plain('len', 'uint32', 4), plain('name', 'buffer', 2)], [capabilities]);
		const body = `00000002 ${ascii('pc')} 05 1a ${ascii('configuration/capabilities')} 00000001 00000002 01 61 03 ${ascii('bcd')}`;
		const tree = walkConfiguration(described, hex(body));
		expect(tree.root.subsections[0]?.fields[1]).toMatchObject({ kind: 'text', value: ['a', 'bcd'] });
		expect(() => walkConfiguration(described, hex(body).subarray(0, -1))).toThrow(
			expect.objectContaining({ code: 'truncated', idstr: 'configuration', got: '2' }),
		);
	});
});

it('says what is wrong in one line, whatever the body holds', () => {
	const expected = device(state('d', [], [state('d/one', [plain('n', 'uint8', 1)])]));
	const body = hex(`05 05 ${ascii('d/\no\t')} 00000001 07`);
	expect(() => walkDevice(expected, body)).toThrow(/^[^\n\t]*expected subsection 'd\/one', got 'd\/\\x0ao\\x09'$/);
});
