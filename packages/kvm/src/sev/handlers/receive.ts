import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { fails, type SevResult } from '../../ccp/sev-device.js';
import { isSince } from '../../kernel.js';
import { crossesPage, issueOnGuest, pinErrno, type SevContext, withCbit } from '../context.js';
import { type Argument, readBlob, type UserBuffer, type UserRange } from './argument.js';
import { adopt } from './launch.js';

/** `struct kvm_sev_receive_start`. */
export interface ReceiveStart {
	/** As in `LaunchStart`. */
	readonly handle: number;
	readonly policy: number;
	readonly pdhCert: UserBuffer;
	readonly session: UserBuffer;
}

/** KVM_SEV_RECEIVE_START: sev_receive_start. */
export function receiveStart(
	sev: SevContext,
	argument: Argument<ReceiveStart, { readonly handle: number }>,
	isDeviceOpen: () => boolean,
): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { handle, policy, pdhCert, session } = input;
	if ([pdhCert, session].some((blob) => blob.isNull || blob.length === 0)) return fails(Errno.EINVAL);
	const pdh = readBlob(sev.driver.scratch(0), pdhCert);
	if (pdh.errno !== 0) return fails(pdh.errno);
	const blob = readBlob(sev.driver.scratch(1), session);
	if (blob.errno !== 0) return fails(blob.errno);
	if (!isDeviceOpen()) return fails(Errno.EBADF);
	const { ret, error, out } = sev.driver.issue(COMMANDS.RECEIVE_START, {
		handle,
		policy,
		pdhCertPaddr: pdh.paddr,
		pdhCertLen: pdh.length,
		sessionPaddr: blob.paddr,
		sessionLen: blob.length,
	});
	if (ret !== 0) return { ret, error };
	// v12 forgets the guest in the firmware; upstream does not.
	return adopt(sev, out.handle, argument, isDeviceOpen, isSince(sev.kernel, '5.13'));
}

/** `struct kvm_sev_receive_update_data`. */
export interface ReceiveUpdateData {
	readonly header: UserBuffer;
	readonly guest: UserRange;
	readonly data: UserBuffer;
}

/** KVM_SEV_RECEIVE_UPDATE_DATA. Without KVM_SEV_INIT this one alone is EINVAL, not ENOTTY (Linux 5.13 sev.c). */
export function receiveUpdateData(sev: SevContext, argument: Argument<ReceiveUpdateData>): SevResult {
	if (!sev.active) return fails(Errno.EINVAL);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { header, guest, data } = input;
	if ([header, data].some((blob) => blob.isNull || blob.length === 0)) return fails(Errno.EINVAL);
	if (guest.address === 0 || guest.length === 0 || crossesPage(guest.address, guest.length)) return fails(Errno.EINVAL);
	const hdr = readBlob(sev.driver.scratch(0), header);
	if (hdr.errno !== 0) return fails(hdr.errno);
	const trans = readBlob(sev.driver.scratch(1), data);
	if (trans.errno !== 0) return fails(trans.errno);
	const at = sev.memory.resolve(guest.address, guest.length);
	if (at < 0) return fails(pinErrno(sev));
	const { ret, error } = issueOnGuest(sev, COMMANDS.RECEIVE_UPDATE_DATA, {
		hdrPaddr: hdr.paddr,
		hdrLen: hdr.length,
		guestPaddr: withCbit(sev, at),
		guestLen: guest.length,
		transPaddr: trans.paddr,
		transLen: trans.length,
	});
	return { ret, error };
}
