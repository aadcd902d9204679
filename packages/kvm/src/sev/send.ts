import type { Hva } from '@cvm/layout';
import type { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { fails, type SevResult } from '../ccp/sev-device.js';
import { issueOnGuest, type SevContext } from './context.js';
import { answerBuffer, bytesBuffer, given, range } from './handlers/argument.js';
import * as handlers from './handlers/send.js';

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
	const { policy = 0, sessionLen = SESSION_LENGTH } = request;
	const session = answerBuffer(sessionLen);
	const argument = given<handlers.SendStart, handlers.SendStarted>({
		policy,
		pdhCert: bytesBuffer(request.pdhCert),
		platCerts: bytesBuffer(request.platCerts),
		amdCerts: bytesBuffer(request.amdCerts),
		session,
	});
	const result = handlers.sendStart(sev, argument);
	return { ...result, policy, sessionLen, ...argument.answer, session: session.answer };
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
	const { guestUaddr, guestLen, headerLen = HEADER_LENGTH } = request;
	// A guest length of 0 makes a payload length of 0 only by our default; the query is asked for explicitly.
	const transLen = request.transLen ?? (guestLen || HEADER_LENGTH);
	const header = answerBuffer(headerLen);
	const data = answerBuffer(transLen);
	const guest = range(guestUaddr, guestLen);
	const argument = given<handlers.SendUpdateData, handlers.PacketLengths>({ header, guest, data });
	const result = handlers.sendUpdateData(sev, argument);
	const lengths = { headerLen, transLen: request.transLen ?? guestLen, ...argument.answer };
	return { ...result, ...lengths, header: header.answer, data: data.answer };
}

type HandleCommand = typeof COMMANDS.SEND_FINISH | typeof COMMANDS.SEND_CANCEL | typeof COMMANDS.RECEIVE_FINISH;

/** KVM_SEV_SEND_FINISH, SEND_CANCEL, RECEIVE_FINISH, LAUNCH_FINISH: the firmware alone decides whether they are legal. */
export function onHandle(sev: SevContext, command: HandleCommand | typeof COMMANDS.LAUNCH_FINISH): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const { ret, error } = issueOnGuest(sev, command, {});
	return { ret, error };
}
