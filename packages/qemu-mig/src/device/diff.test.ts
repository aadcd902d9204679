import { describe, expect, it } from 'vitest';
import type { DeviceTree, FieldSource, StateSource } from '../index.js';
import { describeDevice, deviceToJson, diffDevices, stateField, walkDevice } from '../index.js';

const tree = (fields: readonly FieldSource[], subsections: readonly StateSource[] = [], idstr = 'd'): DeviceTree => {
	const state = { vmsdName: 'd', version: 1, fields, subsections };
	const { description, body } = describeDevice({ idstr, instanceId: 0, state });
	return walkDevice(description, body);
};
const inner = (x: number): StateSource => ({ vmsdName: 'i', version: 1, fields: [stateField('x', 'uint8', x)] });
const paths = (a: DeviceTree, b: DeviceTree) =>
	diffDevices(a, b).map(({ path, a: left, b: right }) => [path, left, right]);

describe('diffDevices', () => {
	it('names the field, the element of an array, the field of a struct and of a subsection', () => {
		const one = (n: number): DeviceTree =>
			tree(
				[
					stateField('f', 'uint64', n),
					stateField('a', 'uint16', 5, n, 5),
					stateField('s', 'struct', inner(1), inner(n)),
					stateField('b', 'bool', n > 1),
				],
				[{ vmsdName: 'd/s', version: 1, fields: [stateField('y', 'int8', -n)] }],
			);
		expect(paths(one(1), one(2))).toEqual([
			['f', 1n, 2n],
			['a[1]', 1, 2],
			['s[1].x', 1, 2],
			['b', false, true],
			['d/s.y', -1, -2],
		]);
	});

	it('tells where two buffers part', () => {
		const [a, b] = [Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 4)];
		const one = (data: Uint8Array): DeviceTree => tree([stateField('b', 'buffer', data)]);
		expect(diffDevices(one(a), one(b))).toEqual([{ idstr: 'd', instanceId: 0, path: 'b', a, b, at: 2 }]);
		expect(diffDevices(one(a), one(a.subarray(0, 1)))).toMatchObject([{ path: 'b', at: 1 }]);
	});

	it('tells fields, elements and subsections that one side lacks', () => {
		const sub = { vmsdName: 'd/s', version: 1, fields: [stateField('y', 'int8', 3)] };
		expect(paths(tree([stateField('a', 'uint8', 1)], [sub]), tree([stateField('c', 'uint8', 1)]))).toEqual([
			['a', 1, undefined],
			['d/s.y', 3, undefined],
			['c', undefined, 1],
		]);
		expect(paths(tree([stateField('a', 'uint8', 1, 2)]), tree([stateField('a', 'uint8', 1, 2, 3)]))).toEqual([
			['a[2]', undefined, 3],
		]);
	});

	it('tells that bodies differ outside of fields', () => {
		const one = (...version: number[]): DeviceTree =>
			tree(
				[stateField('a', 'uint8', 1)],
				version.map((number) => ({ vmsdName: 'd/s', version: number, fields: [] })),
			);
		expect(diffDevices(one(1), one(2))).toMatchObject([{ path: '', at: 9 }]);
		expect(diffDevices(one(), one(2))).toMatchObject([{ path: '', at: 1 }]);
	});

	it('compares fields of different types, and booleans that are true in two ways, as bytes', () => {
		const one = (bool: number): DeviceTree => tree([stateField('b', 'bool', Uint8Array.of(bool))]);
		expect(diffDevices(one(1), one(2))).toMatchObject([{ a: Uint8Array.of(1), b: Uint8Array.of(2), at: 0 }]);
		const [a, b] = [tree([stateField('a', 'uint8', 1, 2)]), tree([stateField('a', 'uint16', 0x0103)])];
		expect(diffDevices(a, b)).toMatchObject([{ path: 'a', at: 1 }]);
	});

	it('compares the keys of a tree', () => {
		const layout = { vmsdName: 'v', version: 1, fields: [], subsections: [] };
		const field = { name: 'g', type: 'gtree', size: 14, nesting: 'inline', layouts: [layout] } as const;
		const state = { vmsdName: 'd', version: 1, fields: [field], subsections: [] };
		const one = (key: number): DeviceTree =>
			walkDevice(
				{ kind: 'state', idstr: 'd', instanceId: 0, state },
				Uint8Array.of(0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, key, 0),
			);
		expect(paths(one(1), one(2))).toEqual([['g.keys[0]', 1n, 2n]]);
	});

	it('matches devices by idstr and instance, and stops at the limit', () => {
		const [a, b] = [tree([stateField('f', 'uint8', 1)], [], 'a'), tree([stateField('f', 'uint8', 1)], [], 'b')];
		expect(diffDevices([a], [b])).toEqual([
			{ idstr: 'a', instanceId: 0, path: '', a: a.body, b: undefined },
			{ idstr: 'b', instanceId: 0, path: '', a: undefined, b: b.body },
		]);
		expect(diffDevices([a], [b], { limit: 1 }).length).toBe(1);
	});
});

describe('deviceToJson', () => {
	it('gives numbers where they are exact, and cuts what is long', () => {
		const fields = [
			stateField('a', 'uint64', 2n ** 53n - 1n, 2n ** 53n + 1n),
			stateField('b', 'buffer', Uint8Array.of(0, 0xab, 0xff)),
			stateField('n', 'int64', -(2n ** 53n) + 1n),
			stateField('m', 'int64', -(2n ** 63n)),
		];
		const json = deviceToJson(tree(fields), { bytes: 2 });
		expect(json).toMatchObject({ idstr: 'd', instance: 0, vmsd: 'd', version: 1, offset: 0, length: 35 });
		expect(json.fields.map(({ value, cut }) => [value, cut])).toEqual([
			[[9007199254740991, '9007199254740993'], undefined],
			['00ab', true],
			[-9007199254740991, undefined],
			['-9223372036854775808', undefined],
		]);
		expect(deviceToJson(tree(fields), { elements: 1 }).fields[0]).toMatchObject({
			value: [9007199254740991],
			cut: true,
		});
	});
});
