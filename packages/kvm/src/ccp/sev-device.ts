import { type Spa, spa } from '@cvm/layout';
import type { SevMachine } from '@cvm/sev-hw';
import {
	CHIP_ID_SIZE,
	COMMANDS,
	CONFIG_ES,
	PLATFORM_CHAIN_SIZE,
	PlatformState,
	Status,
	TMR_SIZE,
} from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import type { KernelMemory } from '../memory/host-memory.js';

/** Bytes of a SEV certificate: SEV API 0.24 appendix C. */
const SEV_CERT_SIZE = 2084;

/** What an ioctl that may reach the firmware returns. */
export interface SevResult {
	/** 0 or a negative errno; −EIO = the firmware refused. */
	readonly ret: number;
	/** The firmware's status; 0 if it was not reached. */
	readonly error: number;
	/** Only on failures: the firmware was reached before, so `error` is its answer although `ret` is not −EIO. */
	readonly reached?: true;
}

/** Success, and the firmware said nothing else. */
export const SEV_OK: SevResult = { ret: 0, error: 0 };
/** A refusal before the firmware was reached. */
export const fails = (errno: number): SevResult => ({ ret: -errno, error: 0 });
/** A failure after the firmware had done its part. */
export const failsLater = (errno: number): SevResult => ({ ret: -errno, error: 0, reached: true });

/** PLATFORM_STATUS: see `platformStatusBuffer` of `@cvm/sev-hw/abi`. */
export interface PlatformStatus {
	readonly apiMajor: number;
	readonly apiMinor: number;
	readonly build: number;
	/** 0 UNINIT, 1 INIT, 2 WORKING. */
	readonly state: number;
	readonly owner: number;
	readonly config: number;
	readonly guestCount: number;
}

/** /dev/sev of drivers/crypto/ccp, as the VMM uses it. */
export interface SevDevice {
	/** INIT unless that was done, then WBINVD and DF_FLUSH. Everything that needs it does it first. */
	platformInit(): SevResult;
	platformStatus(): SevResult & PlatformStatus;
	/** The platform's PDH certificate (2084 bytes) and PEK ‖ OCA ‖ CEK (6252 bytes); empty on failure. */
	pdhCertExport(): SevResult & { readonly pdh: Uint8Array; readonly chain: Uint8Array };
	/** The 64-byte chip id by which AMD's key server knows this processor; empty on failure. */
	getId(): SevResult & { readonly id: Uint8Array };
}

/** A command with its buffer: a row of `COMMANDS`. */
export interface FirmwareCommand<V> {
	readonly id: number;
	readonly buffer: { encode(value: Partial<V>): Uint8Array; decode(data: Uint8Array): V };
}

/** Physically contiguous kernel memory that the firmware may read and write. */
export interface KernelBuffer {
	readonly spa: Spa;
	readonly bytes: Uint8Array;
}

/** The driver as KVM uses it. */
export interface SevDriver extends SevDevice {
	readonly machine: SevMachine;
	/** Gives a command to the firmware; `out` is the command buffer afterwards. See also {@link NO_ANSWER}. */
	issue<V>(command: FirmwareCommand<V>, fields: Partial<V>): SevResult & { readonly out: V };
	/** Gives a batch of commands to the firmware: how many ran, and the answer to the last one. */
	issueBatch(id: number, buffers: readonly Spa[], statuses: Uint16Array): SevResult & { readonly ran: number };
	/** Gives a command without a buffer to the firmware. */
	issueBare(command: { readonly id: number }): SevResult;
	/** One of four scratch buffers of {@link BLOB_LIMIT} bytes, for the time of one ioctl. */
	scratch(index: 0 | 1 | 2 | 3): KernelBuffer;
	/** Command buffers for a batch: number i at `spa + 64 * i`, {@link BATCH_SLOTS} of them. */
	readonly batch: KernelBuffer;
	/** WBINVD on all cores and DF_FLUSH: what a used ASID needs before its next guest. */
	flush(): SevResult;
}

/** SEV_FW_BLOB_MAX_SIZE: most that KVM copies for the firmware in one piece. */
export const BLOB_LIMIT = 0x4000;
/** Most that the page allocator of x86-64 gives in one piece: KMALLOC_MAX_SIZE of Linux include/linux/slab.h. */
export const KMALLOC_LIMIT = 4 << 20;
/** Commands prepared at once. */
export const BATCH_SLOTS = 256;
/** Bytes from one command buffer of a batch to the next. */
export const BATCH_STRIDE = 64;

/**
 * PROJECT: what `Psp.submit` of a machine may return for firmware that does not answer. The command is −ETIMEDOUT then, and every
 * later one −EBUSY. (A machine without a secure processor, −ENODEV in Linux, has no SEV here, which is −ENOTTY before.)
 */
export const NO_ANSWER = -1;

const SCRATCH_BUFFERS = 4;

/** Memory for SEV-ES save areas, as Linux reserves it: 1 MiB, aligned to its size. Call it before anything else takes memory. */
export function reserveTmr(memory: KernelMemory): Spa {
	const { spa } = memory.allocate(TMR_SIZE);
	return spa;
}

/**
 * Opens the firmware's mailbox. It takes its kernel memory at once and keeps it.
 *
 * @param tmr where SEV-ES save areas go: INIT then asks for SEV-ES
 */
export function createSevDriver(machine: SevMachine, memory: KernelMemory, tmr?: Spa): SevDriver {
	const { psp } = machine;
	const command = memory.allocate(4096);
	const blobs = memory.allocate(SCRATCH_BUFFERS * BLOB_LIMIT);
	const batch = memory.allocate(BATCH_SLOTS * BATCH_STRIDE);

	/** psp_dead: the firmware did not answer once. */
	let isDead = false;
	const submit = (run: () => number): SevResult => {
		if (isDead) return fails(Errno.EBUSY);
		const status = run();
		if (status === 0) return SEV_OK;
		isDead = status === NO_ANSWER;
		return isDead ? failsLater(Errno.ETIMEDOUT) : { ret: -Errno.EIO, error: status };
	};
	const issue: SevDriver['issue'] = ({ id, buffer }, fields) => {
		const bytes = buffer.encode(fields);
		command.bytes.set(bytes);
		const result = submit(() => psp.submit(id, command.spa));
		return { ...result, out: buffer.decode(command.bytes.slice(0, bytes.length)) };
	};
	const issueBare: SevDriver['issueBare'] = ({ id }) => submit(() => psp.submit(id, command.spa));
	const flush = (): SevResult => {
		machine.wbinvd();
		return issueBare(COMMANDS.DF_FLUSH);
	};
	const scratch: SevDriver['scratch'] = (index) => {
		const at = index * BLOB_LIMIT;
		return { spa: spa(blobs.spa + at), bytes: blobs.bytes.subarray(at, at + BLOB_LIMIT) };
	};
	const platformStatus: SevDriver['platformStatus'] = () => {
		const { ret, error, out } = issue(COMMANDS.PLATFORM_STATUS, {});
		const { apiMajor, apiMinor, build, state, owner, config, guestCount } = out;
		return { ret, error, apiMajor, apiMinor, build, state, owner, config, guestCount };
	};
	const init = () => {
		const es = tmr === undefined ? {} : { flags: CONFIG_ES, tmrPaddr: BigInt(tmr), tmrLength: TMR_SIZE };
		const { ret, error } = issue(COMMANDS.INIT, es);
		return { ret, error };
	};
	/** Asks each time: another driver instance may have brought the platform up or down, and INIT is legal only once. */
	const platformInit = (): SevResult => {
		if (platformStatus().state !== PlatformState.UNINIT) return SEV_OK;
		let result = init();
		// Linux sev-dev.c, __sev_platform_init_locked: firmware that lost its data may have discarded it, so once more.
		if (result.error === Status.SECURE_DATA_INVALID) result = init();
		return result.ret === 0 ? flush() : result;
	};

	return {
		machine,
		issue,
		issueBatch: (id, buffers, statuses) => {
			let ran = 0;
			const result = submit(() => {
				ran = psp.submitBatch(id, buffers, statuses);
				return ran === NO_ANSWER ? NO_ANSWER : (statuses[ran - 1] ?? 0);
			});
			return { ...result, ran: Math.max(0, ran) };
		},
		issueBare,
		flush,
		scratch,
		batch,
		platformInit,
		platformStatus,
		pdhCertExport: () => {
			const ready = platformInit();
			if (ready.ret !== 0) return { ...ready, pdh: new Uint8Array(0), chain: new Uint8Array(0) };
			const pdh = scratch(0);
			const chain = scratch(1);
			const { ret, error } = issue(COMMANDS.PDH_CERT_EXPORT, {
				pdhPaddr: BigInt(pdh.spa),
				pdhLen: SEV_CERT_SIZE,
				certsPaddr: BigInt(chain.spa),
				certsLen: PLATFORM_CHAIN_SIZE,
			});
			const copy = ({ bytes }: KernelBuffer, length: number) => new Uint8Array(bytes.slice(0, ret === 0 ? length : 0));
			return { ret, error, pdh: copy(pdh, SEV_CERT_SIZE), chain: copy(chain, PLATFORM_CHAIN_SIZE) };
		},
		getId: () => {
			const id = scratch(0);
			const { ret, error } = issue(COMMANDS.GET_ID, { idPaddr: BigInt(id.spa), idLen: CHIP_ID_SIZE });
			return { ret, error, id: new Uint8Array(id.bytes.slice(0, ret === 0 ? CHIP_ID_SIZE : 0)) };
		},
	};
}
