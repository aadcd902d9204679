/** A structure could not be encoded or decoded. Recognise it by `name` or `code`: two copies of this package may be loaded. */
export class LayoutError extends Error {
	override readonly name = 'LayoutError';
	/** `length`: too few or too many bytes. `reserved`: a reserved byte is not zero. `range`: a value does not fit its field. */
	readonly code: 'length' | 'reserved' | 'range';
	/** `struct` or `struct.field`. */
	readonly where: string;

	constructor(code: LayoutError['code'], where: string, expected: string, got: string) {
		super(`${where}: expected ${expected}, got ${got}`);
		this.code = code;
		this.where = where;
	}
}
