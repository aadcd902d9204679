/**
 * One field of a C structure: where it stands and how its bytes become a value.
 * Offsets are written by hand, not derived, so that a reviewer can hold the C header beside the table.
 */
export interface Field<T> {
	readonly offset: number;
	readonly size: number;
	readonly kind: 'value' | 'reserved';
	/** What the field holds, for messages: `u32`, `bytes[16]`. */
	readonly type: string;
	readonly read: (view: DataView, base: number) => T;
	/** Returns `undefined` on success or what the field would have accepted. */
	readonly write: (view: DataView, base: number, value: T) => string | undefined;
}

const integer = (
	type: string,
	size: number,
	offset: number,
	max: number,
	get: (view: DataView, at: number) => number,
	set: (view: DataView, at: number, value: number) => void,
): Field<number> => ({
	offset,
	size,
	kind: 'value',
	type,
	read: (view, base) => get(view, base + offset),
	write: (view, base, value) => {
		if (!Number.isInteger(value) || value < 0 || value > max) return `an integer from 0 to ${max}`;
		set(view, base + offset, value);
		return undefined;
	},
});

const long = (type: string, offset: number, littleEndian: boolean): Field<bigint> => ({
	offset,
	size: 8,
	kind: 'value',
	type,
	read: (view, base) => view.getBigUint64(base + offset, littleEndian),
	write: (view, base, value) => {
		if (typeof value !== 'bigint' || value < 0n || value >= 1n << 64n) return 'a bigint of at most 64 bits';
		view.setBigUint64(base + offset, value, littleEndian);
		return undefined;
	},
});

/** Unsigned byte. */
export const u8 = (offset: number): Field<number> =>
	integer(
		'u8',
		1,
		offset,
		0xff,
		(v, at) => v.getUint8(at),
		(v, at, n) => v.setUint8(at, n),
	);
/** Unsigned 16-bit integer, little-endian. */
export const u16 = (offset: number): Field<number> =>
	integer(
		'u16',
		2,
		offset,
		0xffff,
		(v, at) => v.getUint16(at, true),
		(v, at, n) => v.setUint16(at, n, true),
	);
/** Unsigned 32-bit integer, little-endian. */
export const u32 = (offset: number): Field<number> =>
	integer(
		'u32',
		4,
		offset,
		0xffffffff,
		(v, at) => v.getUint32(at, true),
		(v, at, n) => v.setUint32(at, n, true),
	);
/** Unsigned 64-bit integer, little-endian. */
export const u64 = (offset: number): Field<bigint> => long('u64', offset, true);
/** Unsigned 16-bit integer, big-endian. */
export const u16be = (offset: number): Field<number> =>
	integer(
		'u16be',
		2,
		offset,
		0xffff,
		(v, at) => v.getUint16(at),
		(v, at, n) => v.setUint16(at, n),
	);
/** Unsigned 32-bit integer, big-endian. */
export const u32be = (offset: number): Field<number> =>
	integer(
		'u32be',
		4,
		offset,
		0xffffffff,
		(v, at) => v.getUint32(at),
		(v, at, n) => v.setUint32(at, n),
	);
/** Unsigned 64-bit integer, big-endian. */
export const u64be = (offset: number): Field<bigint> => long('u64be', offset, false);

const window = (view: DataView, at: number, length: number) =>
	new Uint8Array(view.buffer, view.byteOffset + at, length);

/** A fixed run of bytes. Decoding copies them. Shorter input is refused, not padded. */
export const bytes = (offset: number, length: number): Field<Uint8Array> => ({
	offset,
	size: length,
	kind: 'value',
	type: `bytes[${length}]`,
	read: (view, base) => window(view, base + offset, length).slice(),
	write: (view, base, value) => {
		if (value.length !== length) return `${length} bytes`;
		window(view, base + offset, length).set(value);
		return undefined;
	},
});

/** Bytes that must be zero when decoded and are written as zero. They do not appear in the value. */
export const reserved = (offset: number, length: number): Field<never> => ({
	offset,
	size: length,
	kind: 'reserved',
	type: `reserved[${length}]`,
	read: () => undefined as never,
	write: () => undefined,
});

/** Bytes that the other side ignores: any value decodes, zero is written. They do not appear in the value. */
export const ignored = (offset: number, length: number): Field<never> => ({
	...reserved(offset, length),
	type: `ignored[${length}]`,
});
