/**
 * The guest did what raises an exception. This model has no IDT, so that every exception ends in a triple fault and
 * KVM_EXIT_SHUTDOWN. `translation`: no mapping, or not writable. `memory`: no memslot behind a guest-physical address, or a
 * read-only one (KVM would make it an MMIO exit). `code`: no block at RIP. `ud`, `gp`: the exceptions of these names.
 */
export class TripleFault extends Error {
	override readonly name = 'TripleFault';
	readonly code: 'translation' | 'memory' | 'code' | 'ud' | 'gp';

	constructor(code: TripleFault['code'], message: string) {
		super(message);
		this.code = code;
	}
}

/** `0x…`. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
