/** A mirror VM cannot be made or used as asked: a wrong option of the VMM, or a design that cannot work. */
export class MirrorError extends Error {
	override readonly name = 'MirrorError';
	/**
	 * `smp`: the -smp option. `ram`: a block or a mapping of RAM that contradicts another. `window`: the window of RAM addresses does
	 * not fit. `psp-copy`: option 3, which the firmware's rules forbid. `slots`: the mirror has no slot number left.
	 */
	readonly code: 'smp' | 'ram' | 'window' | 'psp-copy' | 'slots';

	constructor(code: MirrorError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

/** The one form of the messages. */
export const mirrorError = (code: MirrorError['code'], thing: string, expected: string, got: string): MirrorError =>
	new MirrorError(code, `${thing}: expected ${expected}, got ${got}`);
