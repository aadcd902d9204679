import type { DeviceKey } from './description.js';
import type { IntegerArray } from './scalar.js';

/** The state of one device, decoded. Byte arrays in it are views of `body`. */
export interface DeviceTree extends DeviceKey {
	/** The whole body; every byte of it belongs to a field, a subsection's header or a list's marks. */
	readonly body: Uint8Array;
	/** What is in it; an old-style device has one field `data`, and no name or version. */
	readonly root: DeviceState;
}

/** A VMState: the device itself, a struct inside it, or a subsection. */
export interface DeviceState {
	/** vmsd name; for a subsection its name on the wire, e.g. `cpu/poll_control_msr`. Empty for an old-style device. */
	readonly name: string;
	/** -1 for an old-style device. */
	readonly version: number;
	/** Byte of the body: of the first field, or of a subsection's mark 0x05. */
	readonly offset: number;
	/** Bytes, subsections included. */
	readonly length: number;
	readonly fields: readonly DeviceField[];
	readonly subsections: readonly DeviceState[];
}

/** What all fields have. */
export interface FieldPlace {
	readonly name: string;
	/** Position in an array whose elements are listed one by one. */
	readonly index?: number;
	/** Elements, where the description told a length of an array. */
	readonly count?: number;
	/** Type name of the description. */
	readonly type: string;
	/** Byte of the body. */
	readonly offset: number;
	/** Bytes of all elements. */
	readonly length: number;
}

/** One field with its value, by `kind`. */
export type DeviceField = FieldPlace & DeviceValue;

/**
 * - `integer`, `boolean`: one number; 8-byte ones are bigint
 * - `integers`: an array of them (of booleans as 0 and 1) in host order, copied
 * - `text`: names of capabilities
 * - `bytes`: buffers, and types this package does not know
 * - `struct`, `structs`: states; the latter of an array or a list
 * - `null`: null pointers, one byte '0' each
 */
export type DeviceValue =
	| { readonly kind: 'integer'; readonly value: number | bigint }
	| { readonly kind: 'boolean'; readonly value: boolean }
	| { readonly kind: 'integers'; readonly value: IntegerArray }
	| { readonly kind: 'text'; readonly value: readonly string[] }
	| { readonly kind: 'bytes'; readonly value: Uint8Array }
	| { readonly kind: 'struct'; readonly value: DeviceState }
	| {
			readonly kind: 'structs';
			readonly value: readonly DeviceState[];
			/** Keys of a `gtree` that are integers rather than states. */
			readonly keys?: readonly bigint[];
	  }
	| { readonly kind: 'null'; readonly value: null };

/** The bytes of a field or state on the wire: a view of the body. */
export const rawBytes = (tree: DeviceTree, part: { readonly offset: number; readonly length: number }): Uint8Array =>
	tree.body.subarray(part.offset, part.offset + part.length);

/** A field as paths and reports name it: `name`, or `name[index]`. */
export const fieldLabel = ({ name, index }: FieldPlace): string => (index === undefined ? name : `${name}[${index}]`);

/** A field that is not a state, with its path, e.g. `env.segs[2].base` or `cpu/poll_control_msr.env.poll_control_msr`. */
export interface Leaf {
	readonly path: string;
	readonly field: DeviceField;
}

/**
 * All fields of a tree that are not states themselves, in wire order; the integer keys of a `gtree` as one more, `keys`. A
 * path that occurs again gets `#1`, `#2` …
 */
export function leavesOf(tree: DeviceTree): Leaf[] {
	const leaves: Leaf[] = [];
	const seen = new Map<string, number>();
	collect(tree.root, '', (path, field) => {
		const times = seen.get(path) ?? 0;
		seen.set(path, times + 1);
		leaves.push({ path: times === 0 ? path : `${path}#${times}`, field });
	});
	return leaves;
}

function collect(state: DeviceState, prefix: string, leaf: (path: string, field: DeviceField) => void): void {
	for (const field of state.fields) {
		const path = prefix + fieldLabel(field);
		if (field.kind === 'struct') collect(field.value, `${path}.`, leaf);
		else if (field.kind === 'structs') {
			field.value.forEach((item, i) => {
				collect(item, `${path}[${i}].`, leaf);
			});
			if (field.keys) leaf(`${path}.keys`, { ...field, kind: 'integers', value: BigUint64Array.from(field.keys) });
		} else leaf(path, field);
	}
	for (const subsection of state.subsections) collect(subsection, `${prefix}${subsection.name}.`, leaf);
}
