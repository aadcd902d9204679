import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import {
	BLOB_LIMIT,
	type FirmwareCommand,
	fails,
	type KernelBuffer,
	SEV_OK,
	type SevDriver,
	type SevResult,
} from '../ccp/sev-device.js';
import type { KernelMemory } from '../host-memory.js';
import { isSince, type Kernel } from '../kernel.js';

/** struct kvm_sev_info: what KVM remembers of one SEV VM, and what its ioctls work with. */
export interface SevContext {
	readonly kernel: Kernel;
	readonly driver: SevDriver;
	readonly memory: KernelMemory;
	/** KVM_SEV_INIT, KVM_SEV_ES_INIT or KVM_SEV_INIT2 succeeded, or the context of another VM came here. */
	active: boolean;
	/** SEV-ES. */
	es: boolean;
	/** SEV_FEATURES of the save areas: what KVM_SEV_INIT2 asked for. */
	vmsaFeatures: bigint;
	/** Highest version of the GHCB protocol that is offered. */
	ghcbVersion: number;
	asid: number;
	/** The firmware's name of the guest; 0 before LAUNCH_START or RECEIVE_START. */
	handle: number;
	/** A *_START stored the caller's /dev/sev descriptor: before, every other command is −EBADF. */
	hasDevice: boolean;
	/** The VM whose context this mirror shares. */
	owner: SevContext | undefined;
	/** The mirrors of this VM. */
	readonly mirrors: Set<SevContext>;
	/** The context went to another VM (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM): every ioctl is −EIO from now on. */
	dead: boolean;
	/** In the middle of a copy or a move. */
	migrating: boolean;
	/** The VM's descriptor was closed; its context lives on as long as a mirror does. */
	closed: boolean;
	/** Memory that the VMM registered. */
	readonly regions: PinnedRegion[];
}

/** An entry of regions_list: what KVM_MEMORY_ENCRYPT_REG_REGION pinned. */
export interface PinnedRegion {
	readonly addr: number;
	readonly size: number;
	readonly spa: number;
}

/** The context of a VM that is not an SEV guest yet. */
export const createSevContext = (kernel: Kernel, driver: SevDriver, memory: KernelMemory): SevContext => ({
	kernel,
	driver,
	memory,
	active: false,
	es: false,
	vmsaFeatures: 0n,
	ghcbVersion: 0,
	asid: 0,
	handle: 0,
	hasDevice: false,
	owner: undefined,
	mirrors: new Set(),
	dead: false,
	migrating: false,
	closed: false,
	regions: [],
});

/** A firmware command on this VM's guest, through the stored descriptor. */
export function issueOnGuest<V extends { readonly handle: number }>(
	sev: SevContext,
	command: FirmwareCommand<V>,
	fields: Omit<Partial<V>, 'handle'>,
): SevResult & { readonly out?: V } {
	if (!sev.hasDevice) return fails(Errno.EBADF);
	const request = { ...fields, handle: sev.handle };
	return sev.driver.issue(command, request as Partial<V>);
}

/** A blob in kernel memory; `errno` 0 or why it is not there. */
export interface CopiedBlob {
	readonly errno: number;
	readonly paddr: bigint;
	readonly length: number;
}

/** psp_copy_user_blob: absent, empty or too long is EINVAL. */
export function copyBlob(into: KernelBuffer, blob: Uint8Array | undefined): CopiedBlob {
	if (blob === undefined || blob.length === 0 || blob.length > BLOB_LIMIT) {
		return { errno: Errno.EINVAL, paddr: 0n, length: 0 };
	}
	into.bytes.set(blob);
	return { errno: 0, paddr: BigInt(into.spa), length: blob.length };
}

/** A physical address as the firmware wants those of guest memory: with the C-bit. */
export const withCbit = (sev: SevContext, spa: number): bigint =>
	BigInt(spa) | (1n << BigInt(sev.driver.machine.cpuid.cbitPosition));

/** What v12 and upstream return when a page of guest memory cannot be pinned. */
export const pinErrno = ({ kernel }: SevContext): number => (isSince(kernel, '5.13') ? Errno.ENOMEM : Errno.EFAULT);

/** sev_bind_asid: the second half of LAUNCH_START and RECEIVE_START. */
export function bindAsid(sev: SevContext, handle: number, o: { decommissionOnFailure: boolean }): SevResult {
	const { ret, error } = sev.driver.issue(COMMANDS.ACTIVATE, { handle, asid: sev.asid });
	if (ret === 0) {
		sev.handle = handle;
		sev.hasDevice = true;
		return SEV_OK;
	}
	if (o.decommissionOnFailure) sev.driver.issue(COMMANDS.DECOMMISSION, { handle });
	return { ret, error };
}

/** sev_unbind_asid: when the VM goes. What the firmware answers does not matter any more. */
export function unbindAsid(sev: SevContext): void {
	if (sev.handle === 0) return;
	sev.driver.issue(COMMANDS.DEACTIVATE, { handle: sev.handle });
	sev.driver.issue(COMMANDS.DECOMMISSION, { handle: sev.handle });
	sev.handle = 0;
	sev.hasDevice = false;
}
