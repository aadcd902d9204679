/** A call that has no errno in the modelled ABI could not be done: a bug of the caller, or a machine that is too small. */
export class KvmError extends Error {
	override readonly name = 'KvmError';
	/**
	 * `out-of-memory`: no run of free frames is long enough. `not-mapped`: a mapping that is not, or no longer, mapped.
	 * `bad-length`: a length that is no length. `vcpu-index`: not below 32, or taken. `vm-gone`: the VM was destroyed, or its context was moved away. `not-a-vm`: not an object
	 * that createVm() made. `not-a-kvm`: not an object that createKvm() made. `series`: a posting that is not of the ABI. `vcpu-stuck`: a vCPU that is in the guest does not come to the end of its block.
	 * `vm-type`: a type of VM that this kernel does not offer. `protected`: registers that are encrypted.
	 */
	readonly code:
		| 'series'
		| 'out-of-memory'
		| 'not-mapped'
		| 'bad-length'
		| 'vcpu-index'
		| 'vm-gone'
		| 'not-a-vm'
		| 'not-a-kvm'
		| 'vcpu-stuck'
		| 'vm-type'
		| 'protected';

	constructor(code: KvmError['code'], thing: string, expected: string, got: string) {
		super(`${thing}: expected ${expected}, got ${got}`);
		this.code = code;
	}
}
