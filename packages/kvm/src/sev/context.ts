import { PAGE_SIZE } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { type FirmwareCommand, fails, SEV_OK, type SevDriver, type SevResult } from '../ccp/sev-device.js';
import { isSince, type Kernel } from '../kernel.js';
import type { KernelMemory } from '../memory/host-memory.js';
import type { SharedLookup } from '../page-status/ioctls.js';
import type { UserRange } from './handlers/argument.js';

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
	/** Whether that descriptor is still an open /dev/sev: it is looked up anew by each command. */
	isDeviceOpen: () => boolean;
	/** The VM whose context this mirror shares. */
	owner: SevContext | undefined;
	/** The mirrors of this VM. */
	readonly mirrors: Set<SevContext>;
	/** The context went to another VM (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM): every ioctl is −EIO from now on. */
	dead: boolean;
	/** In the middle of a copy or a move. */
	migrating: boolean;
	/** Postings v9 and v10: KVM_SEV_DBG_DECRYPT asks whether guest memory is shared, and copies it plainly then. */
	sharedLookup?: SharedLookup;
	/** The VM's descriptor was closed; its context lives on as long as a mirror does. */
	closed: boolean;
	/** Gives back what the VM holds, when nothing holds the VM any more. */
	free: () => void;
	/** Memory that the VMM registered. */
	readonly regions: PinnedRegion[];
}

/** An entry of regions_list: what KVM_MEMORY_ENCRYPT_REG_REGION pinned. */
interface PinnedRegion {
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
	isDeviceOpen: () => true,
	owner: undefined,
	mirrors: new Set(),
	dead: false,
	migrating: false,
	closed: false,
	free: () => undefined,
	regions: [],
});

/** A firmware command on this VM's guest, through the stored descriptor. */
export function issueOnGuest<V extends { readonly handle: number }>(
	sev: SevContext,
	command: FirmwareCommand<V>,
	fields: Omit<Partial<V>, 'handle'>,
): SevResult & { readonly out?: V } {
	if (!sev.hasDevice || !sev.isDeviceOpen()) return fails(Errno.EBADF);
	const request = { ...fields, handle: sev.handle };
	return sev.driver.issue(command, request as Partial<V>);
}

/** A physical address as the firmware wants those of guest memory: with the C-bit. */
export const withCbit = (sev: SevContext, spa: number): bigint =>
	BigInt(spa) | (1n << BigInt(sev.driver.machine.cpuid.cbitPosition));

/** What v12 and upstream return when a page of guest memory cannot be pinned. */
export const pinErrno = ({ kernel }: SevContext): number => (isSince(kernel, '5.13') ? Errno.ENOMEM : Errno.EFAULT);

/** Whether a range leaves its 4 KiB page. */
export const crossesPage = (address: number, length: number): boolean => (address % PAGE_SIZE) + length > PAGE_SIZE;

/**
 * sev_pin_memory: the physical address of memory that is pinned for one command, or a negative errno. PROJECT: the model's
 * programs may lock any amount of memory (CAP_IPC_LOCK).
 */
export function pinUser(sev: SevContext, { address, length, wraps }: UserRange): number {
	if (length === 0 || wraps) return -Errno.EINVAL;
	const spa = sev.memory.resolve(address, length);
	return spa < 0 ? -Errno.ENOMEM : spa;
}

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
