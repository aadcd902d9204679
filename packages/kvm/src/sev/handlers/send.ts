import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { BLOB_LIMIT, fails, failsLater, KMALLOC_LIMIT, type SevResult } from '../../ccp/sev-device.js';
import { crossesPage, issueOnGuest, pinErrno, type SevContext, withCbit } from '../context.js';
import { type Argument, packetOut, readBlob, type UserBuffer, type UserRange } from './argument.js';

/** `struct kvm_sev_send_start`. */
export interface SendStart {
	readonly policy: number;
	readonly pdhCert: UserBuffer;
	readonly platCerts: UserBuffer;
	readonly amdCerts: UserBuffer;
	/** `length` 0: a length query. */
	readonly session: UserBuffer;
}

/** What KVM_SEV_SEND_START writes back. */
export interface SendStarted {
	readonly policy: number;
	readonly sessionLen: number;
}

/** KVM_SEV_SEND_START: sev_send_start. */
export function sendStart(sev: SevContext, argument: Argument<SendStart, SendStarted>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { policy, pdhCert, session } = input;
	if (session.length === 0) {
		const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_START, {});
		return writeBack(argument, { policy, sessionLen: out?.sessionLen ?? 0 }, { ret, error }, out !== undefined);
	}
	const isFirst = sev.kernel.series === 'v1';
	if (pdhCert.isNull || pdhCert.length === 0 || session.isNull || (session.length > BLOB_LIMIT && !isFirst)) {
		return fails(Errno.EINVAL);
	}
	// Posting v1 has no limit of its own, and allocates what a program asks for; the firmware never writes more than fits here.
	if (session.length > KMALLOC_LIMIT) return fails(Errno.ENOMEM);
	const sessionLen = Math.min(session.length, BLOB_LIMIT);
	const { driver } = sev;
	const pdh = readBlob(driver.scratch(0), pdhCert);
	if (pdh.errno !== 0) return fails(pdh.errno);
	const plat = readBlob(driver.scratch(1), input.platCerts);
	if (plat.errno !== 0) return fails(plat.errno);
	const amd = readBlob(driver.scratch(2), input.amdCerts);
	if (amd.errno !== 0) return fails(amd.errno);
	const blob = driver.scratch(3);
	// kzalloc: the firmware may write less than the caller asked for.
	blob.bytes.fill(0, 0, sessionLen);
	const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_START, {
		pdhCertPaddr: pdh.paddr,
		pdhCertLen: pdh.length,
		platCertsPaddr: plat.paddr,
		platCertsLen: plat.length,
		amdCertsPaddr: amd.paddr,
		amdCertsLen: amd.length,
		sessionPaddr: BigInt(blob.spa),
		sessionLen,
	});
	if (ret === 0 && !session.write(blob.bytes.subarray(0, sessionLen))) return failsLater(Errno.EFAULT);
	const answer = { policy: out?.policy ?? 0, sessionLen: out?.sessionLen ?? session.length };
	return writeBack(argument, answer, { ret, error }, out !== undefined);
}

/** Lengths, and whatever else the command changed; a fault hides what the firmware said, but not its status. */
function writeBack<Out>(argument: Argument<unknown, Out>, out: Out, result: SevResult, reached: boolean): SevResult {
	if (argument.write(out)) return result;
	return reached ? { ret: -Errno.EFAULT, error: result.error, reached } : fails(Errno.EFAULT);
}

/** `struct kvm_sev_send_update_data`. */
export interface SendUpdateData {
	/** `length` 0, here or of `data`: a length query. */
	readonly header: UserBuffer;
	readonly guest: UserRange;
	readonly data: UserBuffer;
}

/** What a length query writes back. */
export interface PacketLengths {
	readonly headerLen: number;
	readonly transLen: number;
}

/**
 * KVM_SEV_SEND_UPDATE_DATA: sev_send_update_data, for at most one page. Lengths are written back after a query only.
 *
 * DEVIATION(patch v12 02/13): the first version adds offset and length in 32 bits, so that a length near 2^32 gets through
 * to the firmware; here it is −EINVAL, as in what was merged.
 */
export function sendUpdateData(sev: SevContext, argument: Argument<SendUpdateData, PacketLengths>): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { header, guest, data } = input;
	if (data.length === 0 || header.length === 0) {
		const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_DATA, {});
		const lengths = { headerLen: out?.hdrLen ?? 0, transLen: out?.transLen ?? 0 };
		return writeBack(argument, lengths, { ret, error }, out !== undefined);
	}
	if (data.isNull || guest.address === 0 || guest.length === 0 || header.isNull) return fails(Errno.EINVAL);
	if (crossesPage(guest.address, guest.length)) return fails(Errno.EINVAL);
	const at = sev.memory.resolve(guest.address, guest.length);
	if (at < 0) return fails(pinErrno(sev));
	const packet = packetOut(sev.driver, header, data);
	if (packet === undefined) return fails(Errno.ENOMEM);
	const { ret, error } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_DATA, {
		...packet.fields,
		guestPaddr: withCbit(sev, at),
		guestLen: guest.length,
	});
	if (ret !== 0) return { ret, error };
	return packet.copy() ? { ret, error } : failsLater(Errno.EFAULT);
}
