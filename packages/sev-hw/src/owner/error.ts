/** A guest owner's tool was called with something that cannot work. Recognise it by `name` or `code`. */
export class OwnerError extends Error {
	override readonly name = 'OwnerError';
	/**
	 * `platform-pdh`: no usable PDH certificate. `secret`: nothing to inject, or no table of secrets. `measure`: not a
	 * measurement. `csr`: not a signing request for a PEK. `key`: not a P-384 private key, or not that of its certificate.
	 * `firmware`: an image whose table is broken or lacks what is asked for. `report`: not an attestation report.
	 * `file`: a file of a public tool is missing or malformed.
	 */
	readonly code: 'platform-pdh' | 'secret' | 'measure' | 'csr' | 'key' | 'firmware' | 'report' | 'file';

	constructor(code: OwnerError['code'], message: string) {
		super(message);
		this.code = code;
	}
}
