import type { Hva } from '@cvm/layout';
import type { SevResult } from '../ccp/sev-device.js';
import type { SevContext } from './context.js';
import { bytesBuffer, given, range } from './handlers/argument.js';
import * as handlers from './handlers/receive.js';
import { alwaysOpen } from './launch.js';

/** KVM_SEV_RECEIVE_START: the source's PDH certificate and the session it made. All mandatory. */
export interface ReceiveStartRequest {
	/** 0 by default: a key of its own; else the handle of a guest of this host to share the key with. */
	readonly handle?: number;
	readonly policy: number;
	readonly pdhCert: Uint8Array;
	readonly session: Uint8Array;
}

/** Makes the firmware's guest from a session and binds it to the VM's ASID. */
export const receiveStart = (
	sev: SevContext,
	{ handle = 0, policy, pdhCert, session }: ReceiveStartRequest,
): SevResult =>
	handlers.receiveStart(
		sev,
		given({ handle, policy, pdhCert: bytesBuffer(pdhCert), session: bytesBuffer(session) }),
		alwaysOpen,
	);

/** KVM_SEV_RECEIVE_UPDATE_DATA: one packet for at most one page. */
export interface ReceiveUpdateRequest {
	readonly header: Uint8Array;
	readonly guestUaddr: Hva;
	readonly guestLen: number;
	readonly data: Uint8Array;
}

/** Decrypts a packet into guest memory. */
export const receiveUpdateData = (sev: SevContext, request: ReceiveUpdateRequest): SevResult => {
	const { header, guestUaddr, guestLen, data } = request;
	return handlers.receiveUpdateData(
		sev,
		given({ header: bytesBuffer(header), guest: range(guestUaddr, guestLen), data: bytesBuffer(data) }),
	);
};
