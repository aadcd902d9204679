/** A guest owner's tool was called with something that cannot work. Recognise it by `name` or `code`. */
export class OwnerError extends Error {
	override readonly name = 'OwnerError';
	/** `platform-pdh`: no usable PDH certificate. `secret`: nothing to inject. `measure`: not a measurement. */
	readonly code: 'platform-pdh' | 'secret' | 'measure';

	constructor(code: OwnerError['code'], message: string) {
		super(message);
		this.code = code;
	}
}
