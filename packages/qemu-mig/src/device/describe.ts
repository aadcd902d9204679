import { nameToBytes } from '../latin1.js';
import type { DeviceKey, FieldDescription, OldStyleDevice, StateDescription, StateDevice } from './description.js';
import { MAX_STATE_DEPTH } from './description.js';
import { stateMembers } from './format.js';
import { SCALARS, writeScalar } from './scalar.js';
import { NULL_POINTER } from './walk.js';

/** The state of a device, struct or subsection, to be put on the wire and described. */
export interface StateSource {
	/** Of a subsection: its name on the wire, which must be its parent's, `/` and more. */
	readonly vmsdName: string;
	readonly version: number;
	readonly fields: readonly FieldSource[];
	/** Those that are sent. */
	readonly subsections?: readonly StateSource[];
	/** Whether there could be subsections, though none is sent: arrays of such states are listed one by one. */
	readonly declaresSubsections?: boolean;
}

/** A field. Without elements it stands for one that is not sent; it still makes another of its name not unique. */
export interface FieldSource {
	readonly name: string;
	/** `qtailq` and `qlist` make a list of their elements, all others an array. */
	readonly type: string;
	readonly elements: readonly ElementSource[];
	/** Whether it exists depends on the device (`field_exists`): arrays of such are listed one by one. */
	readonly isConditional?: boolean;
}

/** One element: its bytes on the wire, a state inside, or a null pointer. */
export type ElementSource = Uint8Array | StateSource | null;

/**
 * A field of values: integers and booleans for types that are such, text for `capability`, bytes for any, states for
 * `struct`, `tmp`, `vstruct` and lists.
 *
 * @throws RangeError when a value does not fit the type
 */
export function stateField(
	name: string,
	type: string,
	...values: readonly (number | bigint | boolean | string | ElementSource)[]
): FieldSource {
	return { name, type, elements: values.map((value) => elementOf(name, type, value)) };
}

function elementOf(
	name: string,
	type: string,
	value: number | bigint | boolean | string | ElementSource,
): ElementSource {
	if (typeof value === 'object') return value;
	if (typeof value === 'string') {
		if (type !== 'capability' || value.length > 255) {
			throw new RangeError(
				`${name}: expected text of at most 255 bytes for a capability only, got one of type ${type}`,
			);
		}
		return Uint8Array.of(value.length, ...nameToBytes(value));
	}
	const scalar = SCALARS.get(type);
	if (scalar === undefined || scalar.perElement !== undefined) {
		throw new RangeError(`${name}: expected bytes or a state for type ${type}, got ${String(value)}`);
	}
	const bits = 8 * scalar.width;
	const number = BigInt(value);
	if ((scalar.signed ? BigInt.asIntN(bits, number) : BigInt.asUintN(bits, number)) !== number) {
		throw new RangeError(`${name}: expected a value of type ${type}, got ${number}`);
	}
	const out = new Uint8Array(scalar.width);
	writeScalar(new DataView(out.buffer), 0, scalar, number);
	return out;
}

/** A device of one opaque body, as QEMU describes those with code of their own. */
export const describeOldStyle = (idstr: string, instanceId: number, size: number): OldStyleDevice => ({
	kind: 'old-style',
	...{ idstr, instanceId, size },
});

/**
 * Puts a device's state on the wire and describes it as QEMU 7.2 does: a name that is not unique gets `[k]`; an array of
 * equal elements becomes one entry with `array_len`; one whose elements may differ (conditional fields or subsections
 * inside) an entry with `index` for each; an array of one neither. QEMU 7.2 migration/vmstate.c.
 *
 * @throws RangeError for what QEMU could not send: elements of different forms in an array that is told once, a
 * subsection's name outside of its parent's, states nested too deep
 */
export function describeDevice(device: DeviceKey & { readonly state: StateSource }): {
	readonly description: StateDevice;
	readonly body: Uint8Array;
} {
	const wire = new Wire();
	const state = wire.state(device.state, 0);
	const { idstr, instanceId } = device;
	return { description: { kind: 'state', idstr, instanceId, state }, body: wire.bytes() };
}

/** Whether an array of a field is described once. QEMU 7.2 migration/vmstate.c `vmsd_can_compress`. */
const isToldOnce = ({ isConditional, type, elements }: FieldSource): boolean =>
	isConditional !== true && (type !== 'struct' || elements.every(isUniform));

function isUniform(element: ElementSource): boolean {
	if (element === null || element instanceof Uint8Array) return true;
	const { declaresSubsections = false, subsections = [], fields } = element;
	return !declaresSubsections && subsections.length === 0 && fields.every(isToldOnce);
}

/** Body under construction. */
class Wire {
	readonly #chunks: Uint8Array[] = [];
	#length = 0;

	bytes(): Uint8Array {
		const out = new Uint8Array(this.#length);
		let at = 0;
		for (const chunk of this.#chunks) {
			out.set(chunk, at);
			at += chunk.length;
		}
		return out;
	}

	state(source: StateSource, depth: number): StateDescription {
		if (depth > MAX_STATE_DEPTH) throw new RangeError(`state: expected at most ${MAX_STATE_DEPTH} levels, got more`);
		const { vmsdName, version, subsections = [] } = source;
		const names = new Map<string, { used: number; total: number }>();
		for (const { name } of source.fields) {
			const times = names.get(name);
			names.set(name, { used: 0, total: (times?.total ?? 0) + 1 });
		}
		const fields = source.fields.flatMap((field) => {
			const times = names.get(field.name);
			const name = times && times.total > 1 ? `${field.name}[${times.used++}]` : field.name;
			return this.#field({ ...field, name }, depth);
		});
		return { vmsdName, version, fields, subsections: subsections.map((sub) => this.#subsection(vmsdName, sub, depth)) };
	}

	#subsection(parent: string, source: StateSource, depth: number): StateDescription {
		const name = nameToBytes(source.vmsdName);
		// A target tells a subsection from the next field by its name.
		if (!source.vmsdName.startsWith(parent) || name.length <= parent.length || name.length > 255) {
			throw new RangeError(`subsection: expected a name that begins with '${parent}', got '${source.vmsdName}'`);
		}
		const head = new Uint8Array(6 + name.length);
		head.set([0x05, name.length]);
		head.set(name, 2);
		new DataView(head.buffer).setInt32(2 + name.length, source.version);
		this.#put(head);
		return this.state(source, depth + 1);
	}

	#field(field: FieldSource, depth: number): FieldDescription[] {
		const { name, type, elements } = field;
		if (type === 'qtailq' || type === 'qlist') return [this.#list(field, depth)];
		const isArray = elements.length > 1;
		const once = isToldOnce(field);
		const all = elements.map((element, i): FieldDescription => {
			const start = this.#length;
			const layouts = this.#element(element, depth);
			const nesting = type === 'struct' ? 'struct' : layouts.length > 0 ? 'inline' : 'none';
			const place = !isArray ? {} : once ? { arrayLength: elements.length } : { index: i };
			return { name, ...place, type, size: this.#length - start, nesting, layouts };
		});
		const [first] = all;
		if (!isArray || !once || first === undefined) return all;
		const form = formOf(first);
		if (all.some((other) => formOf(other) !== form)) {
			throw new RangeError(`${name}: expected elements of one form in an array that is described once, got others`);
		}
		return [first];
	}

	#list({ name, type, elements }: FieldSource, depth: number): FieldDescription {
		const start = this.#length;
		const layouts = elements.flatMap((element) => {
			if (element === null || element instanceof Uint8Array) throw new RangeError(`${name}: expected states in a list`);
			this.#put(Uint8Array.of(1));
			return this.#element(element, depth);
		});
		this.#put(Uint8Array.of(0));
		const nesting = layouts.length > 0 ? 'inline' : 'none';
		return { name, type, size: this.#length - start, nesting, layouts };
	}

	/** @returns the layout of a state, if it is one */
	#element(element: ElementSource, depth: number): readonly StateDescription[] {
		if (element !== null && !(element instanceof Uint8Array)) return [this.state(element, depth + 1)];
		this.#put(element ?? Uint8Array.of(NULL_POINTER));
		return [];
	}

	#put(chunk: Uint8Array): void {
		this.#chunks.push(chunk);
		this.#length += chunk.length;
	}
}

const formOf = ({ size, layouts }: FieldDescription): string =>
	`${size} ${layouts.map((layout) => stateMembers(layout, 0)).join()}`;
