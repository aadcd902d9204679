import type { Hva } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { fails, type SevResult } from '../ccp/sev-device.js';
import { isSince } from '../kernel.js';
import { bindAsid, copyBlob, issueOnGuest, pinErrno, type SevContext, withCbit } from './context.js';
import { crossesPage } from './send.js';

/** KVM_SEV_RECEIVE_START: the source's PDH certificate and the session it made. All mandatory. */
export interface ReceiveStartRequest {
	readonly policy: number;
	readonly pdhCert: Uint8Array;
	readonly session: Uint8Array;
}

/** Makes the firmware's guest from a session and binds it to the VM's ASID. */
export function receiveStart(sev: SevContext, { policy, pdhCert, session }: ReceiveStartRequest): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const pdh = copyBlob(sev.driver.scratch(0), pdhCert);
	const blob = copyBlob(sev.driver.scratch(1), session);
	const errno = pdh.errno || blob.errno;
	if (errno !== 0) return fails(errno);
	const { ret, error, out } = sev.driver.issue(COMMANDS.RECEIVE_START, {
		policy,
		pdhCertPaddr: pdh.paddr,
		pdhCertLen: pdh.length,
		sessionPaddr: blob.paddr,
		sessionLen: blob.length,
	});
	if (ret !== 0) return { ret, error };
	// v12 forgets the guest in the firmware; upstream does not.
	return bindAsid(sev, out.handle, { decommissionOnFailure: isSince(sev.kernel, '5.13') });
}

/** KVM_SEV_RECEIVE_UPDATE_DATA: one packet for at most one page. */
export interface ReceiveUpdateRequest {
	readonly header: Uint8Array;
	readonly guestUaddr: Hva;
	readonly guestLen: number;
	readonly data: Uint8Array;
}

/** Decrypts a packet into guest memory. Without KVM_SEV_INIT this one alone says EINVAL, not ENOTTY (Linux 5.13 sev.c). */
export function receiveUpdateData(sev: SevContext, request: ReceiveUpdateRequest): SevResult {
	const { header, guestUaddr, guestLen, data } = request;
	if (!sev.active) return fails(Errno.EINVAL);
	if (header.length === 0 || data.length === 0 || guestUaddr === 0 || guestLen === 0) return fails(Errno.EINVAL);
	if (crossesPage(guestUaddr, guestLen)) return fails(Errno.EINVAL);
	const hdr = copyBlob(sev.driver.scratch(0), header);
	const trans = copyBlob(sev.driver.scratch(1), data);
	const errno = hdr.errno || trans.errno;
	if (errno !== 0) return fails(errno);
	const at = sev.memory.resolve(guestUaddr, guestLen);
	if (at < 0) return fails(pinErrno(sev));
	const { ret, error } = issueOnGuest(sev, COMMANDS.RECEIVE_UPDATE_DATA, {
		hdrPaddr: hdr.paddr,
		hdrLen: hdr.length,
		guestPaddr: withCbit(sev, at),
		guestLen,
		transPaddr: trans.paddr,
		transLen: trans.length,
	});
	return { ret, error };
}
