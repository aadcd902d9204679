import { LayoutError } from './error.js';
import type { Field } from './field.js';

type Fields = Readonly<Record<string, Field<never> | Field<number> | Field<bigint> | Field<Uint8Array>>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
type Named<F extends Fields> = { [K in keyof F as [ValueOf<F[K]>] extends [never] ? never : K]: ValueOf<F[K]> };

/** The value that a {@link Layout} decodes to. */
export type Infer<L> = L extends Layout<infer F> ? Named<F> : never;

/** A C structure, expressed once: its size and the offset of every field. */
export interface Layout<F extends Fields> {
	readonly name: string;
	/** Bytes, as `sizeof` would say. */
	readonly size: number;
	readonly fields: F;
	offsetOf(field: keyof F & string): number;
	/** Reads a structure that fills `data` exactly. @throws LayoutError on another length or a non-zero reserved byte */
	decode(data: Uint8Array): Named<F>;
	/** Reads a structure from the front of `data`, which may be longer. @throws LayoutError as `decode` */
	decodePrefix(data: Uint8Array): Named<F>;
	/** A new buffer of `size` bytes. Fields left out, and reserved bytes, are zero. @throws LayoutError if a value does not fit */
	encode(value: Partial<Named<F>>): Uint8Array;
	/** As `encode`, into the first `size` bytes of `out`. Nothing is written unless every value fits. */
	encodeInto(out: Uint8Array, value: Partial<Named<F>>): void;
	/** Overwrites the named fields only: how firmware answers in a command buffer. */
	patch(out: Uint8Array, value: Partial<Named<F>>): void;
}

const viewOf = (data: Uint8Array) => new DataView(data.buffer, data.byteOffset, data.byteLength);

/**
 * Declares a structure.
 *
 * @throws RangeError if two fields overlap or a field ends after `size`: that is a mistake in the table, found at start-up
 */
export function layout<const F extends Fields>(name: string, size: number, fields: F): Layout<F> {
	const entries = Object.entries(fields) as [keyof F & string, Field<unknown>][];
	let end = 0;
	for (const [key, field] of [...entries].sort((a, b) => a[1].offset - b[1].offset)) {
		if (field.offset < end) throw new RangeError(`${name}.${key}: overlaps the field before it`);
		end = field.offset + field.size;
		if (end > size) throw new RangeError(`${name}.${key}: ends at ${end}, after the structure's ${size} bytes`);
	}
	const mustBeZero = entries.filter(([, f]) => f.kind === 'reserved' && f.type.startsWith('reserved'));
	const values = entries.filter(([, f]) => f.kind === 'value');

	const decodePrefix = (data: Uint8Array): Named<F> => {
		if (data.length < size) throw new LayoutError('length', name, `${size} bytes`, `${data.length}`);
		for (const [key, { offset, size: length }] of mustBeZero) {
			for (let i = offset; i < offset + length; i++) {
				if (data[i] !== 0) throw new LayoutError('reserved', `${name}.${key}`, 'zero', `0x${data[i]?.toString(16)}`);
			}
		}
		const view = viewOf(data);
		return Object.fromEntries(values.map(([key, field]) => [key, field.read(view, 0)])) as Named<F>;
	};

	const patch = (out: Uint8Array, value: Partial<Named<F>>): void => {
		if (out.length < size) throw new LayoutError('length', name, `room for ${size} bytes`, `${out.length}`);
		// Encoded aside first, so that a value that does not fit leaves `out` as it was; `slice` of a Buffer would be a view.
		const draft = new Uint8Array(out.subarray(0, size));
		const view = viewOf(draft);
		for (const [key, field] of values) {
			const given = (value as Record<string, unknown>)[key];
			if (given === undefined) continue;
			const expected = field.write(view, 0, given);
			if (expected !== undefined) {
				const got = given instanceof Uint8Array ? `${given.length} bytes` : String(given);
				throw new LayoutError('range', `${name}.${key}`, expected, got);
			}
		}
		out.set(draft);
	};

	const encode = (value: Partial<Named<F>>): Uint8Array => {
		const out = new Uint8Array(size);
		patch(out, value);
		return out;
	};

	return {
		name,
		size,
		fields,
		offsetOf: (field) => (fields[field] as Field<unknown>).offset,
		decode: (data) => {
			if (data.length !== size) throw new LayoutError('length', name, `${size} bytes`, `${data.length}`);
			return decodePrefix(data);
		},
		decodePrefix,
		encode,
		encodeInto: (out, value) => {
			if (out.length < size) throw new LayoutError('length', name, `room for ${size} bytes`, `${out.length}`);
			out.set(encode(value));
		},
		patch,
	};
}
