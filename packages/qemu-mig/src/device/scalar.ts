/** How an integer type lies on the wire: always big-endian. */
export interface Scalar {
	/** Bytes. */
	readonly width: 1 | 2 | 4 | 8;
	readonly signed: boolean;
	/** So many of them make one element. */
	readonly perElement?: number;
	readonly isBoolean?: boolean;
}

/** Integers of one field in host byte order; 8-byte ones as bigint. */
export type IntegerArray =
	| Uint8Array
	| Int8Array
	| Uint16Array
	| Int16Array
	| Uint32Array
	| Int32Array
	| BigUint64Array
	| BigInt64Array;

const scalar = (width: Scalar['width'], signed: boolean): Scalar => ({ width, signed });

/**
 * The types of QEMU 7.2 migration/vmstate-types.c and hw/pci/pci.c that are integers. `int32 le` means "less than or equal
 * to the target's own", not an order of bytes; `int64 equal` is the name QEMU gives its unsigned one.
 */
export const SCALARS: ReadonlyMap<string, Scalar> = new Map([
	['bool', { width: 1, signed: false, isBoolean: true }],
	['int8', scalar(1, true)],
	['int16', scalar(2, true)],
	['int32', scalar(4, true)],
	['int64', scalar(8, true)],
	['uint8', scalar(1, false)],
	['uint16', scalar(2, false)],
	['uint32', scalar(4, false)],
	['uint64', scalar(8, false)],
	['uint8 equal', scalar(1, false)],
	['uint16 equal', scalar(2, false)],
	['uint32 equal', scalar(4, false)],
	['int32 equal', scalar(4, true)],
	['int32 le', scalar(4, true)],
	['int64 equal', scalar(8, false)],
	// Expiry in nanoseconds of the timer's clock; -1: not armed. util/qemu-timer.c `timer_put`.
	['timer', scalar(8, true)],
	// The state of INTA to INTD. hw/pci/pci.c.
	['pci irq state', { width: 4, signed: false, perElement: 4 }],
] as const);

/** One integer. */
export function readScalar(view: DataView, at: number, { width, signed }: Scalar): number | bigint {
	switch (width) {
		case 1:
			return signed ? view.getInt8(at) : view.getUint8(at);
		case 2:
			return signed ? view.getInt16(at) : view.getUint16(at);
		case 4:
			return signed ? view.getInt32(at) : view.getUint32(at);
		case 8:
			return signed ? view.getBigInt64(at) : view.getBigUint64(at);
	}
}

/** `count` integers, copied. */
export function readScalars(view: DataView, at: number, count: number, { width, signed }: Scalar): IntegerArray {
	switch (width) {
		case 1: {
			const source = view.buffer.slice(view.byteOffset + at, view.byteOffset + at + count);
			return signed ? new Int8Array(source) : new Uint8Array(source);
		}
		case 2: {
			const out = signed ? new Int16Array(count) : new Uint16Array(count);
			for (let i = 0; i < count; i++) out[i] = view.getUint16(at + 2 * i);
			return out;
		}
		case 4: {
			const out = signed ? new Int32Array(count) : new Uint32Array(count);
			for (let i = 0; i < count; i++) out[i] = view.getUint32(at + 4 * i);
			return out;
		}
		case 8: {
			const out = signed ? new BigInt64Array(count) : new BigUint64Array(count);
			for (let i = 0; i < count; i++) out[i] = view.getBigUint64(at + 8 * i);
			return out;
		}
	}
}

/** Writes one integer, modulo its width. */
export function writeScalar(view: DataView, at: number, { width }: Scalar, value: number | bigint): void {
	const bits = BigInt.asUintN(8 * width, BigInt(value));
	if (width === 8) view.setBigUint64(at, bits);
	else if (width === 4) view.setUint32(at, Number(bits));
	else if (width === 2) view.setUint16(at, Number(bits));
	else view.setUint8(at, Number(bits));
}
