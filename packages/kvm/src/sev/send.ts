import { type Hva, PAGE_SIZE } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { BLOB_LIMIT, fails, type SevResult } from '../ccp/sev-device.js';
import { copyBlob, issueOnGuest, pinErrno, type SevContext, withCbit } from './context.js';

/** KVM_SEV_SEND_START: the target's certificates; all three are mandatory unless it is a length query. */
export interface SendStartRequest {
	readonly pdhCert?: Uint8Array;
	/** PEK ‖ OCA ‖ CEK. */
	readonly platCerts?: Uint8Array;
	/** ASK ‖ ARK. */
	readonly amdCerts?: Uint8Array;
	/** Bytes of the session buffer, 128 by default; 0 asks for the length: −EIO with INVALID_LENGTH. */
	readonly sessionLen?: number;
	/** What stands in the in-out field `policy` before the call. 0 by default. */
	readonly policy?: number;
}

/** What KVM_SEV_SEND_START leaves in its argument. `session` is empty unless `ret` is 0. */
export type SendStartResult = SevResult & {
	readonly policy: number;
	readonly session: Uint8Array;
	readonly sessionLen: number;
};

const SESSION_LENGTH = 128;

export function sendStart(sev: SevContext, request: SendStartRequest): SendStartResult {
	const { policy = 0, sessionLen = SESSION_LENGTH, pdhCert, platCerts, amdCerts } = request;
	const unchanged = { policy, session: new Uint8Array(0), sessionLen };
	if (!sev.active) return { ...fails(Errno.ENOTTY), ...unchanged };
	if (sessionLen === 0) {
		const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_START, {});
		return { ret, error, ...unchanged, sessionLen: out?.sessionLen ?? 0 };
	}
	if (pdhCert === undefined || pdhCert.length === 0 || sessionLen > BLOB_LIMIT) {
		return { ...fails(Errno.EINVAL), ...unchanged };
	}
	const { driver } = sev;
	const pdh = copyBlob(driver.scratch(0), pdhCert);
	const plat = copyBlob(driver.scratch(1), platCerts);
	const amd = copyBlob(driver.scratch(2), amdCerts);
	const errno = pdh.errno || plat.errno || amd.errno;
	if (errno !== 0) return { ...fails(errno), ...unchanged };
	const session = driver.scratch(3);
	const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_START, {
		pdhCertPaddr: pdh.paddr,
		pdhCertLen: pdh.length,
		platCertsPaddr: plat.paddr,
		platCertsLen: plat.length,
		amdCertsPaddr: amd.paddr,
		amdCertsLen: amd.length,
		sessionPaddr: BigInt(session.spa),
		sessionLen,
	});
	if (out === undefined) return { ret, error, ...unchanged };
	const blob = new Uint8Array(session.bytes.slice(0, ret === 0 ? sessionLen : 0));
	return { ret, error, policy: out.policy, session: blob, sessionLen: out.sessionLen };
}

/** KVM_SEV_SEND_UPDATE_DATA for at most one page. */
export interface SendUpdateRequest {
	readonly guestUaddr: Hva;
	readonly guestLen: number;
	/** 52 by default; 0 here or in `transLen` asks for the lengths: −EIO with INVALID_LENGTH. */
	readonly headerLen?: number;
	/** `guestLen` by default. */
	readonly transLen?: number;
}

/** Packet header and payload, empty unless `ret` is 0. The lengths are the firmware's after a query, else the caller's. */
export type SendUpdateResult = SevResult & {
	readonly header: Uint8Array;
	readonly data: Uint8Array;
	readonly headerLen: number;
	readonly transLen: number;
};

const HEADER_LENGTH = 52;

export function sendUpdateData(sev: SevContext, request: SendUpdateRequest): SendUpdateResult {
	const { guestUaddr, guestLen, headerLen = HEADER_LENGTH, transLen = guestLen } = request;
	const nothing = { header: new Uint8Array(0), data: new Uint8Array(0), headerLen, transLen };
	if (!sev.active) return { ...fails(Errno.ENOTTY), ...nothing };
	// A guest length of 0 makes a payload length of 0 only by our default; the query is asked for explicitly.
	if (headerLen === 0 || request.transLen === 0) {
		const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_DATA, {});
		return { ret, error, ...nothing, headerLen: out?.hdrLen ?? 0, transLen: out?.transLen ?? 0 };
	}
	if (guestUaddr === 0 || guestLen === 0) return { ...fails(Errno.EINVAL), ...nothing };
	if (crossesPage(guestUaddr, guestLen)) return { ...fails(Errno.EINVAL), ...nothing };
	const at = sev.memory.resolve(guestUaddr, guestLen);
	if (at < 0) return { ...fails(pinErrno(sev)), ...nothing };
	if (headerLen > BLOB_LIMIT || transLen > BLOB_LIMIT) return { ...fails(Errno.ENOMEM), ...nothing };
	const header = sev.driver.scratch(0);
	const trans = sev.driver.scratch(1);
	// kzalloc: the firmware writes less than the caller may have asked for.
	header.bytes.fill(0, 0, headerLen);
	trans.bytes.fill(0, 0, transLen);
	const { ret, error } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_DATA, {
		hdrPaddr: BigInt(header.spa),
		hdrLen: headerLen,
		guestPaddr: withCbit(sev, at),
		guestLen,
		transPaddr: BigInt(trans.spa),
		transLen,
	});
	if (ret !== 0) return { ret, error, ...nothing };
	const copy = (bytes: Uint8Array, length: number) => new Uint8Array(bytes.slice(0, length));
	return { ret, error, header: copy(header.bytes, headerLen), data: copy(trans.bytes, transLen), headerLen, transLen };
}

/** Whether a range leaves its 4 KiB page. */
export const crossesPage = (address: number, length: number): boolean => (address % PAGE_SIZE) + length > PAGE_SIZE;

type HandleCommand = typeof COMMANDS.SEND_FINISH | typeof COMMANDS.SEND_CANCEL | typeof COMMANDS.RECEIVE_FINISH;

/** KVM_SEV_SEND_FINISH, SEND_CANCEL, RECEIVE_FINISH, LAUNCH_FINISH: the firmware alone decides whether they are legal. */
export function onHandle(sev: SevContext, command: HandleCommand | typeof COMMANDS.LAUNCH_FINISH): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const { ret, error } = issueOnGuest(sev, command, {});
	return { ret, error };
}
