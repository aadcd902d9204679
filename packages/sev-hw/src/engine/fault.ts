/**
 * Something asked the memory controller for what no hardware would be asked for: a bug in the caller.
 * `range`: outside DRAM. `asid`: an ASID without a slot. `key`: no key is installed for the ASID.
 */
export class SiliconError extends Error {
	override readonly name = 'SiliconError';
	readonly code: 'range' | 'asid' | 'key';

	constructor(code: SiliconError['code'], message: string) {
		super(message);
		this.code = code;
	}
}
