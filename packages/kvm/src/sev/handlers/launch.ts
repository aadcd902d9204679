import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { BLOB_LIMIT, fails, failsLater, type SevResult } from '../../ccp/sev-device.js';
import { bindAsid, issueOnGuest, pinUser, type SevContext, unbindAsid, withCbit } from '../context.js';
import { type Argument, type CopiedBlob, readBlob, type UserBuffer, type UserRange } from './argument.js';

/** `struct kvm_sev_launch_start`. */
export interface LaunchStart {
	/** 0: a guest with a key of its own; else that of a guest to share the key with. */
	readonly handle: number;
	readonly policy: number;
	readonly dhCert: UserBuffer;
	readonly session: UserBuffer;
}

const NO_BLOB: CopiedBlob = { errno: 0, paddr: 0n, length: 0 };

/** KVM_SEV_LAUNCH_START: sev_launch_start. */
export function launchStart(
	sev: SevContext,
	argument: Argument<LaunchStart, { readonly handle: number }>,
	isDeviceOpen: () => boolean,
): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { handle, policy, dhCert, session } = input;
	// Without an address the length does not matter, and neither is mandatory.
	const dh = dhCert.isNull ? NO_BLOB : readBlob(sev.driver.scratch(0), dhCert);
	if (dh.errno !== 0) return fails(dh.errno);
	const blob = session.isNull ? NO_BLOB : readBlob(sev.driver.scratch(1), session);
	if (blob.errno !== 0) return fails(blob.errno);
	if (!isDeviceOpen()) return fails(Errno.EBADF);
	const { ret, error, out } = sev.driver.issue(COMMANDS.LAUNCH_START, {
		handle,
		policy,
		dhCertPaddr: dh.paddr,
		dhCertLen: dh.length,
		sessionPaddr: blob.paddr,
		sessionLen: blob.length,
	});
	if (ret !== 0) return { ret, error };
	return adopt(sev, out.handle, argument, isDeviceOpen, true);
}

/**
 * The second half of LAUNCH_START and RECEIVE_START: binds the ASID, tells the caller the handle and stores it with the
 * descriptor. If that cannot be told, the guest leaves the firmware again.
 */
export function adopt(
	sev: SevContext,
	handle: number,
	argument: Argument<unknown, { readonly handle: number }>,
	isDeviceOpen: () => boolean,
	decommissionOnFailure: boolean,
): SevResult {
	const before = { handle: sev.handle, hasDevice: sev.hasDevice, isDeviceOpen: sev.isDeviceOpen };
	const bound = bindAsid(sev, handle, { decommissionOnFailure });
	if (bound.ret !== 0) return bound;
	sev.isDeviceOpen = isDeviceOpen;
	if (argument.write({ handle })) return bound;
	unbindAsid(sev);
	Object.assign(sev, before);
	return failsLater(Errno.EFAULT);
}

/** KVM_SEV_LAUNCH_UPDATE_DATA: encrypts in place and measures. Mappings are physically contiguous, so it is one command. */
export function launchUpdateData(sev: SevContext, argument: Argument<UserRange>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const at = pinUser(sev, input);
	if (at < 0) return fails(-at);
	const { ret, error } = issueOnGuest(sev, COMMANDS.LAUNCH_UPDATE_DATA, {
		paddr: withCbit(sev, at),
		length: input.length,
	});
	return { ret, error };
}

/** `struct kvm_sev_launch_measure`. */
export interface LaunchMeasure {
	/** `length` 0: a length query. */
	readonly buffer: UserBuffer;
}

/** KVM_SEV_LAUNCH_MEASURE: the length is written back after a query, whatever the firmware said, and after success. */
export function launchMeasure(sev: SevContext, argument: Argument<LaunchMeasure, { readonly len: number }>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	return measure(sev, input.buffer, argument, (paddr, length) =>
		issueOnGuest(sev, COMMANDS.LAUNCH_MEASURE, { paddr, length }),
	);
}

/** What LAUNCH_MEASURE and GET_ATTESTATION_REPORT have in common: a blob that the firmware writes, and its length. */
export function measure(
	sev: SevContext,
	buffer: UserBuffer,
	argument: Argument<unknown, { readonly len: number }>,
	issue: (paddr: bigint, length: number) => SevResult & { readonly out?: { readonly length: number } },
): SevResult {
	const { isNull, length } = buffer;
	const isQuery = length === 0;
	if (!isQuery && !isNull && length > BLOB_LIMIT) return fails(Errno.EINVAL);
	const blob = sev.driver.scratch(0);
	const hasBlob = !isQuery && !isNull;
	// kzalloc: the firmware may write less than the caller asked for.
	if (hasBlob) blob.bytes.fill(0, 0, length);
	const { ret, error, out } = hasBlob ? issue(BigInt(blob.spa), length) : issue(0n, 0);
	if (!isQuery) {
		if (ret !== 0) return { ret, error };
		if (hasBlob && !buffer.write(blob.bytes.subarray(0, length))) return failsLater(Errno.EFAULT);
	}
	if (argument.write({ len: out?.length ?? length })) return { ret, error };
	return out === undefined ? fails(Errno.EFAULT) : { ret: -Errno.EFAULT, error, reached: true };
}

/** `struct kvm_sev_launch_secret`. */
export interface LaunchSecret {
	readonly header: UserBuffer;
	readonly guest: UserRange;
	readonly data: UserBuffer;
}

/** KVM_SEV_LAUNCH_SECRET: sev_launch_secret. What the firmware wants to be contiguous always is. */
export function launchSecret(sev: SevContext, argument: Argument<LaunchSecret>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const at = pinUser(sev, input.guest);
	if (at < 0) return fails(-at);
	const trans = readBlob(sev.driver.scratch(0), input.data);
	if (trans.errno !== 0) return fails(trans.errno);
	const hdr = readBlob(sev.driver.scratch(1), input.header);
	if (hdr.errno !== 0) return fails(hdr.errno);
	const { ret, error } = issueOnGuest(sev, COMMANDS.LAUNCH_SECRET, {
		hdrPaddr: hdr.paddr,
		hdrLen: hdr.length,
		guestPaddr: withCbit(sev, at),
		guestLen: input.guest.length,
		transPaddr: trans.paddr,
		transLen: trans.length,
	});
	return { ret, error };
}

/** What KVM_SEV_GUEST_STATUS answers. */
export interface GuestStatus {
	readonly handle: number;
	readonly policy: number;
	readonly state: number;
}

/** KVM_SEV_GUEST_STATUS: reads nothing, and writes only after success. */
export function guestStatus(sev: SevContext, argument: Argument<unknown, GuestStatus>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const { ret, error, out } = issueOnGuest(sev, COMMANDS.GUEST_STATUS, {});
	if (ret !== 0 || out === undefined) return { ret, error };
	const { handle, policy, state } = out;
	return argument.write({ handle, policy, state }) ? { ret, error } : failsLater(Errno.EFAULT);
}
