/** What an exception carries besides its kind. */
export interface FaultDetail {
	/** Goes on the stack: of #PF, or the exit code that #VC has to be turned into. */
	readonly errorCode?: number;
	/** Goes to CR2. */
	readonly address?: number;
	/** EXITINFO1 and EXITINFO2 of the exit that a #VC stands for. */
	readonly info1?: bigint;
	readonly info2?: bigint;
}

/**
 * The guest did what raises an exception. The vCPU delivers it through the guest's IDT; without a gate for it, it is a triple
 * fault and KVM_EXIT_SHUTDOWN. `ud`, `gp`: the exceptions of these names. `translation`: #PF; no mapping, or not writable.
 * `vc`: what a SEV-ES guest must ask the hypervisor for by itself. `memory`: no memslot behind a guest-physical address, or
 * a read-only one (KVM would make it an MMIO exit); #VC under SEV-ES, else always a triple fault. `code`: no block at RIP;
 * always a triple fault.
 */
export class TripleFault extends Error {
	override readonly name = 'TripleFault';
	readonly code: 'translation' | 'memory' | 'code' | 'ud' | 'gp' | 'vc';
	readonly detail: FaultDetail;

	constructor(code: TripleFault['code'], message: string, detail: FaultDetail = {}) {
		super(message);
		this.code = code;
		this.detail = detail;
	}
}

/** `0x…`. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
