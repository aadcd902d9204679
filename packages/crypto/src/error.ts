/** A caller broke a rule of this package. Recognise it by `name` or `code`: two copies of this package may be loaded. */
export class CryptoError extends RangeError {
	override readonly name = 'CryptoError';
	/**
	 * `length`: too few or too many bytes. `overlap`: two buffers overlap without being the same bytes. `key`: a key is
	 * outside its domain. `finished`: the object was wiped or has given its digest. `text`: not the kind of text expected.
	 */
	readonly code: 'length' | 'overlap' | 'key' | 'finished' | 'text';

	constructor(code: CryptoError['code'], what: string, expected: string, got: string) {
		super(`${what}: expected ${expected}, got ${got}`);
		this.code = code;
	}
}
