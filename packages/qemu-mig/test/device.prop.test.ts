import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { FieldSource, StateSource } from '../src/index.js';
import {
	describeDevice,
	deviceLengths,
	diffDevices,
	formatVmDescription,
	leavesOf,
	parseVmDescription,
	stateField,
	walkDevice,
} from '../src/index.js';
import { patched, thrown } from './streams.js';

const name = fc.constantFrom('a', 'b', 'env.x', 'q[0]', 'with space', 'quo"te\\');
const scalar = fc
	.constantFrom(
		['bool', 1],
		['uint8', 8],
		['uint16', 16],
		['int32 le', 31],
		['uint32 equal', 32],
		['int64', 63],
		['timer', 63],
	)
	.chain(([type, bits]) =>
		fc
			.array(fc.bigInt(0n, 2n ** BigInt(bits) - 1n), { maxLength: 4 })
			.map((values) => ({ type: String(type), values })),
	);
const plainField = fc.record({ name, scalar, isConditional: fc.boolean() }).map(
	(made): FieldSource => ({
		...stateField(made.name, made.scalar.type, ...made.scalar.values),
		isConditional: made.isConditional,
	}),
);
const bufferField = fc
	.record({
		name,
		type: fc.constantFrom('buffer', 'pci config', 'from the future'),
		data: fc.uint8Array({ maxLength: 40 }),
	})
	.map((made) => stateField(made.name, made.type, made.data));

const depth = fc.createDepthIdentifier();

/** Any state: structs, tmp, lists and subsections inside each other. */
const { state } = fc.letrec<{ state: StateSource; field: FieldSource }>((tie) => ({
	field: fc.oneof(
		{ maxDepth: 3, depthSize: 'small', depthIdentifier: depth, withCrossShrink: true },
		plainField,
		bufferField,
		fc
			.record({
				name,
				type: fc.constantFrom('struct', 'tmp', 'vstruct'),
				state: tie('state'),
				times: fc.constantFrom(1, 1, 3),
			})
			.map((made) => stateField(made.name, made.type, ...Array.from({ length: made.times }, () => made.state))),
		fc
			.record({ name, type: fc.constantFrom('qtailq', 'qlist'), states: fc.array(tie('state'), { maxLength: 3 }) })
			.map((made) => stateField(made.name, made.type, ...made.states)),
	),
	state: fc
		.record({
			vmsdName: fc.constantFrom('s', 'pair', 'fpreg'),
			version: fc.integer({ min: 0, max: 9 }),
			fields: fc.array(tie('field'), { maxLength: 4 }),
			subsections: fc.oneof(
				{ maxDepth: 2, depthIdentifier: depth },
				fc.constant<StateSource[]>([]),
				tie('state').map((sub) => [sub]),
			),
			declaresSubsections: fc.boolean(),
		})
		.map((made) => ({ ...made, subsections: made.subsections.map((sub) => under(made.vmsdName, sub)) })),
}));

/** A state as subsection: its names, and those below it, begin with its parent's. */
const under = (parent: string, sub: StateSource): StateSource => {
	const vmsdName = `${parent}/x`;
	return { ...sub, vmsdName, subsections: (sub.subsections ?? []).map((below) => under(vmsdName, below)) };
};

const device = state.map((made) => describeDevice({ idstr: 'dev', instanceId: 3, state: made }));

describe('any device', () => {
	test.prop([device], { numRuns: 300 })(
		'is described by a text that gives its length and decodes all of it',
		(made) => {
			const json = formatVmDescription({ pageSize: 4096, devices: [made.description] });
			const parsed = parseVmDescription(json);
			expect(Buffer.compare(formatVmDescription(parsed), json)).toBe(0);
			expect(deviceLengths(parsed).of('dev', 3)).toBe(made.body.length);
			const [described] = parsed.devices;
			if (described === undefined) throw new Error('no device');
			const tree = walkDevice(described, made.body);
			expect(tree.root.length).toBe(made.body.length);
			expect(diffDevices(tree, walkDevice(made.description, made.body))).toEqual([]);
			// In wire order, without overlap; what is between are marks of lists and heads of subsections.
			let at = 0;
			for (const { field } of leavesOf(tree)) {
				expect(field.offset).toBeGreaterThanOrEqual(at);
				at = field.offset + field.length;
			}
			expect(at).toBeLessThanOrEqual(made.body.length);
		},
	);

	test.prop([device, fc.nat(), fc.nat()], { numRuns: 300 })(
		'is refused when its body is cut or goes on',
		(made, cut, more) => {
			const { description, body } = made;
			if (body.length > 0) {
				expect(thrown(() => walkDevice(description, body.subarray(0, cut % body.length)))).toMatchObject({
					name: 'DeviceStateError',
				});
			}
			const longer = new Uint8Array(body.length + 1 + (more % 20));
			longer.set(body);
			expect(thrown(() => walkDevice(description, longer))).toMatchObject({
				name: 'DeviceStateError',
				code: 'trailing',
			});
		},
	);

	test.prop([device, fc.nat(), fc.nat(255)], { numRuns: 300 })(
		'shows a changed byte as a difference, or refuses it',
		(made, where, byte) => {
			const { description, body } = made;
			if (body.length === 0) return;
			const at = where % body.length;
			const changed = patched(body, at, byte);
			let differences: readonly unknown[] = [];
			const error = thrown(() => {
				differences = diffDevices(walkDevice(description, body), walkDevice(description, changed));
			});
			if (error !== undefined) expect(error).toMatchObject({ name: 'DeviceStateError' });
			else expect(differences.length).toBe(body[at] === byte ? 0 : 1);
		},
	);

	test.prop([device, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 })], { numRuns: 1000 })(
		'with a damaged description gives a typed error or a tree that covers its body',
		(made, edits) => {
			const json = formatVmDescription({ pageSize: 4096, devices: [made.description] });
			for (const [where, byte] of edits) json[where % json.length] = byte;
			const error = thrown(() => {
				const parsed = parseVmDescription(json);
				formatVmDescription(parsed);
				for (const described of parsed.devices) {
					const { root, body } = walkDevice(described, made.body);
					expect(root.length).toBe(body.length);
				}
			});
			if (error !== undefined) expect(['DescriptionError', 'DeviceStateError']).toContain((error as Error).name);
		},
	);
});

describe('any bytes', () => {
	test.prop([fc.uint8Array({ maxLength: 200 })])('are no description, or one', (bytes) => {
		const error = thrown(() => parseVmDescription(bytes));
		if (error !== undefined) expect(error).toMatchObject({ name: 'DescriptionError' });
	});

	test.prop([fc.json()])('that are JSON are no description', (json) => {
		expect(thrown(() => parseVmDescription(new TextEncoder().encode(json)))).toMatchObject({
			name: 'DescriptionError',
		});
	});
});
