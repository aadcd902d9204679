import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import type { GpaRange } from '../geometry.js';

/**
 * A guest's private memory as its helper reaches it. All state of a helper is in here, so that a step is a function of memory and
 * input: the same memory goes on where it stopped, in another thread or in a copy.
 */
export interface HelperMemory {
	/** RAM as the firmware recorded it: whole pages, ascending, below {@link MAX_RAM}. */
	readonly ram: readonly GpaRange[];
	/** Through the C=1 mapping; any length, any alignment. */
	read(gpa: number, out: Uint8Array): void;
	write(gpa: number, data: Uint8Array): void;
	/** LOCK XCHG of a u32, atomic between the helpers of the guest. */
	exchange(gpa: number, value: number): number;
}

/** What a helper is given. */
export interface HelperPlatform {
	readonly memory: HelperMemory;
	readonly provider: CryptoProvider;
	/** RDRAND: never the host's word. */
	readonly random: RandomSource;
	/** SEV-ES: the save areas of the guest's vCPUs, as private pages at these addresses, by vCPU; empty otherwise. */
	readonly saveAreas: readonly number[];
	/** Whether a page can be a save area to resume by; one that cannot is not sealed (`incomplete`). Default: any. */
	readonly isSaveArea?: (page: Uint8Array) => boolean;
	/** Protocol versions that this helper speaks. Default: {@link HELPER_VERSIONS}. */
	readonly versions?: { readonly min: number; readonly max: number };
	/** {@link Capability} bits. Default: all, `vcpuStates` if there are save areas. */
	readonly capabilities?: number;
}

/** What a control command came to. `output` is empty unless the command says otherwise. */
export interface ControlResult {
	/** {@link HelperStatus}. */
	readonly status: number;
	readonly output: Uint8Array;
	/**
	 * The command is not at its end: call again with the same command and argument and no input, before anyone is answered. Then
	 * the status is success and there is no output. So long work comes in slices.
	 */
	readonly more: boolean;
}

/** A sealed batch. */
export interface SealResult {
	readonly status: number;
	/** Index of the page at fault. */
	readonly detail: number;
	/** Bytes of the record's header in `out.header`. */
	readonly headerLength: number;
	/** Pages with a body in `out.bodies`, one after the other in the order of the list; the others are zero. */
	readonly bodies: number;
}

/**
 * The hardened helper's core: what the guest code around it does once a command stands in private memory. It knows no mailbox.
 * Every call begins by reading its state from memory and ends by writing it; nothing is kept in JavaScript but caches of it.
 */
export interface HelperCore {
	/** Firmware's set-up: the state page of a guest that runs (`idle`) or waits to be one (`empty`). */
	install(role: 'idle' | 'empty'): void;
	/**
	 * Any command but `save` and `restore`, by helper 0; `digest` by each helper, with its stream. `argument`: `count` of the mailbox.
	 * Never throws for what a host may send. A refusal changes nothing, except where `SESSION_TABLE` says that it is fatal.
	 */
	control(command: number, input: Uint8Array, argument: number, stream?: number): ControlResult;
	/**
	 * `save`: addresses in `gpas[0..count)`, already copied from shared memory. `out.header` has room for 72 + 8 × count bytes,
	 * `out.bodies` for count pages; the latter is written once, front to back, and never read: it may be shared memory.
	 */
	seal(stream: number, gpas: Float64Array, count: number, out: { header: Uint8Array; bodies: Uint8Array }): SealResult;
	/**
	 * `restore`: `header` and `bodies` are private copies, the header exactly 72 + 8 × count bytes, `bodies` at least as long as the
	 * header says. Nothing is written to the guest before everything was checked.
	 */
	open(
		stream: number,
		gpas: Float64Array,
		count: number,
		header: Uint8Array,
		bodies: Uint8Array,
	): { readonly status: number; readonly detail: number };
}
