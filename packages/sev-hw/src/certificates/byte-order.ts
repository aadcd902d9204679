/**
 * A big-endian integer as certificates store it: least significant byte first, zero-padded at the high end to `size`.
 *
 * @throws RangeError if the integer is longer than `size`
 */
export function toLittleEndian(bigEndian: Uint8Array, size: number): Uint8Array {
	if (bigEndian.length > size) {
		throw new RangeError(`integer: expected at most ${size} bytes, got ${bigEndian.length}`);
	}
	const out = new Uint8Array(size);
	out.set(bigEndian);
	out.subarray(0, bigEndian.length).reverse();
	return out;
}

/** A stored integer as `size` big-endian bytes; `undefined` if its value needs more. */
export function fromLittleEndian(littleEndian: Uint8Array, size: number): Uint8Array | undefined {
	if (littleEndian.subarray(size).some((byte) => byte !== 0)) return undefined;
	const out = new Uint8Array(size);
	out.set(littleEndian.subarray(0, size));
	return out.reverse();
}

/** The bytes in reverse, always a copy: `slice` of a Node Buffer is a view, and to reverse that would change the original. */
export const reversed = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes).reverse();
