import type { DeviceField, DeviceState, DeviceTree } from './tree.js';

/** Options of {@link deviceToJson}. */
export interface DeviceJsonOptions {
	/** Most bytes of a buffer that are shown. Default 4096. */
	readonly bytes?: number;
	/** Most elements of an array of integers that are shown. Default 4096. */
	readonly elements?: number;
}

/** A device as data for JSON. */
export interface DeviceJson extends StateJson {
	readonly idstr: string;
	readonly instance: number;
}

/** A state as data for JSON. */
export interface StateJson {
	/** vmsd name; absent for an old-style device. */
	readonly vmsd?: string;
	readonly version?: number;
	readonly offset: number;
	readonly length: number;
	readonly fields: readonly FieldJson[];
	readonly subsections?: readonly StateJson[];
}

/** A field as data for JSON. */
export interface FieldJson {
	readonly name: string;
	readonly index?: number;
	readonly count?: number;
	readonly type: string;
	readonly offset: number;
	readonly length: number;
	/**
	 * Integers are numbers where a number holds them exactly, otherwise decimal strings; buffers are hexadecimal; null
	 * pointers null.
	 */
	readonly value: JsonValue | StateJson | readonly StateJson[];
	/** Keys of a `gtree`. */
	readonly keys?: readonly JsonInteger[];
	/** Only part of the value is shown. */
	readonly cut?: true;
}

type JsonInteger = number | string;
type JsonValue = JsonInteger | boolean | null | readonly JsonInteger[];

/** A decoded device as plain data that `JSON.stringify` takes. */
export function deviceToJson(tree: DeviceTree, options: DeviceJsonOptions = {}): DeviceJson {
	const caps = { bytes: options.bytes ?? 4096, elements: options.elements ?? 4096 };
	return { idstr: tree.idstr, instance: tree.instanceId, ...stateJson(tree.root, caps) };
}

type Caps = Required<DeviceJsonOptions>;

function stateJson(state: DeviceState, caps: Caps): StateJson {
	const { name, version, offset, length, fields, subsections } = state;
	return {
		...(name !== '' && { vmsd: name, version }),
		offset,
		length,
		fields: fields.map((field) => fieldJson(field, caps)),
		...(subsections.length > 0 && { subsections: subsections.map((subsection) => stateJson(subsection, caps)) }),
	};
}

function fieldJson(field: DeviceField, caps: Caps): FieldJson {
	const { name, index, count, type, offset, length } = field;
	return {
		name,
		...(index !== undefined && { index }),
		...(count !== undefined && { count }),
		...{ type, offset, length },
		...valueJson(field, caps),
	};
}

function valueJson(field: DeviceField, caps: Caps): Pick<FieldJson, 'value' | 'keys' | 'cut'> {
	switch (field.kind) {
		case 'integer':
			return { value: integerJson(field.value) };
		case 'integers': {
			const shown = Array.from(field.value.subarray(0, caps.elements), integerJson);
			return { value: shown, ...(shown.length < field.value.length && { cut: true }) };
		}
		case 'bytes': {
			const cut = field.value.length > caps.bytes;
			return { value: hexOf(field.value.subarray(0, caps.bytes)), ...(cut && { cut: true }) };
		}
		case 'struct':
			return { value: stateJson(field.value, caps) };
		case 'structs':
			return {
				value: field.value.map((state) => stateJson(state, caps)),
				...(field.keys && { keys: field.keys.map(integerJson) }),
			};
		case 'text':
		case 'boolean':
		case 'null':
			return { value: field.value };
	}
}

/** A number where it is exact, otherwise decimal digits. */
const integerJson = (value: number | bigint): JsonInteger =>
	typeof value === 'number' || BigInt.asIntN(54, value) === value ? Number(value) : value.toString();

/** Lower-case hexadecimal. */
function hexOf(data: Uint8Array): string {
	let text = '';
	for (const byte of data) text += byte.toString(16).padStart(2, '0');
	return text;
}
