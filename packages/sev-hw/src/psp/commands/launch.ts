import type { Infer } from '@cvm/layout';
import {
	type handleBuffer,
	type launchMeasureBuffer,
	type launchStartBuffer,
	MEASUREMENT_SIZE,
	type transportBuffer,
} from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { bindsVersionAndMeasure, measureBlob, measurement } from '../../channel/measurement.js';
import { openPacket, PACKET_HEADER_SIZE, PacketContext } from '../../channel/packet.js';
import { closeChannel, zeroChannel } from '../guests.js';
import type { CreatingHandler, GuestHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import { acceptChannel, makeGuest } from './new-guest.js';

/**
 * SEV API 0.24 §6.2 LAUNCH_START. Without an owner's certificate the channel keys are zero. Whether the policy's version
 * and reserved bits are checked then too is `FirmwareOptions.checkPolicyWithoutOwner`.
 */
export const launchStart: CreatingHandler<Infer<typeof launchStartBuffer>> = (psp, b) => {
	const { handle, policy, dhCertPaddr, dhCertLen, sessionPaddr, sessionLen } = b;
	const owned =
		dhCertPaddr === 0n
			? undefined
			: acceptChannel(psp, { certPaddr: dhCertPaddr, certLen: dhCertLen, sessionPaddr, sessionLen, policy });
	if (owned !== undefined && owned.value === undefined) return owned;
	const channel = owned?.value ?? zeroChannel(psp.provider);
	const digest = psp.provider.hash('sha256');
	const checkPolicy = owned !== undefined || psp.options.checkPolicyWithoutOwner;
	return makeGuest(psp, { shareWith: handle, policy, channel, digest, checkPolicy });
};

/** SEV API 0.24 LAUNCH_MEASURE. */
export const launchMeasure: GuestHandler<Infer<typeof launchMeasureBuffer>> = {
	run: (psp, guest, { paddr, length }) => {
		if (length < MEASUREMENT_SIZE) return { status: Status.INVALID_LENGTH, out: { length: MEASUREMENT_SIZE } };
		const at = psp.memory.resolveLong(paddr, MEASUREMENT_SIZE);
		if (at < 0) return refuse(Status.INVALID_ADDRESS);
		guest.launchDigest = guest.digest?.digest() ?? new Uint8Array(32);
		const mnonce = psp.random.bytes(16);
		const { version } = psp;
		guest.measure = measurement(psp.provider, {
			tik: guest.channel.tik,
			version,
			policy: guest.policy,
			digest: guest.launchDigest,
			mnonce,
		});
		guest.digest = undefined;
		psp.memory.dram.set(measureBlob.encode({ measure: guest.measure, mnonce }), at);
		return OK;
	},
};

/** SEV API 0.24 §6.6 LAUNCH_SECRET. Before API 0.17 packets are not bound to the measurement. */
export const launchSecret: GuestHandler<Infer<typeof transportBuffer>> = {
	beforeState: ({ options }, _guest, { guestPaddr, hdrLen, guestLen, transLen }) => {
		if (guestPaddr % 16n !== 0n) return refuse(Status.INVALID_ADDRESS);
		const fits = guestLen !== 0 && guestLen % 16 === 0 && guestLen <= options.packetLimit && transLen === guestLen;
		return hdrLen === PACKET_HEADER_SIZE && fits ? OK : refuse(Status.INVALID_LENGTH);
	},
	run: (psp, guest, { hdrPaddr, guestPaddr, guestLen, transPaddr, transLen }) => {
		if (guest.asid === 0) return refuse(Status.INACTIVE);
		const hdrAt = psp.memory.resolveLong(hdrPaddr, PACKET_HEADER_SIZE);
		const guestAt = psp.memory.resolveLong(guestPaddr, guestLen);
		const transAt = psp.memory.resolveLong(transPaddr, transLen);
		if (hdrAt < 0 || guestAt < 0 || transAt < 0) return refuse(Status.INVALID_ADDRESS);
		const { status, plaintext } = openPacket(psp.provider, guest.channel, {
			context: PacketContext.secret,
			header: psp.memory.read(hdrAt, PACKET_HEADER_SIZE),
			guestLength: guestLen,
			payload: psp.memory.read(transAt, transLen),
			...(bindsVersionAndMeasure(psp.version) && { measure: guest.measure }),
		});
		if (plaintext === undefined) return refuse(status);
		psp.engine.store(guest.asid, [guestAt], [guestLen], 1, plaintext);
		plaintext.fill(0);
		return OK;
	},
};

/** LAUNCH_FINISH, SEND_FINISH, SEND_CANCEL and RECEIVE_FINISH of SEV API 0.24: the channel is closed. */
export const endChannel: GuestHandler<Infer<typeof handleBuffer>> = {
	run: (psp, guest) => {
		closeChannel(psp.provider, guest);
		return OK;
	},
};
