import type { Infer } from '@cvm/layout';
import { type launchUpdateBuffer, type transportBuffer, VMSA_SIZE } from '../../abi/buffers.js';
import { Policy } from '../../abi/policy.js';
import { Status } from '../../abi/status.js';
import { openPacket, PACKET_HEADER_SIZE, sealPacket } from '../../channel/packet.js';
import { vmsaChecksum } from '../../vmsa/checksum.js';
import { vmsa } from '../../vmsa/layout.js';
import type { Guest } from '../guests.js';
import type { GuestHandler, Platform } from '../platform.js';
import { OK, refuse } from '../reply.js';

type Transport = Infer<typeof transportBuffer>;

/** What all three commands want of the guest. */
function checkGuest({ policy, asid }: Guest): Status {
	if ((policy & Policy.ES) === 0) return Status.UNSUPPORTED;
	return asid === 0 ? Status.INACTIVE : Status.SUCCESS;
}

/** Makes a plaintext save area the guest's own: gives it the slot, and notes the checksum. */
function takeIn({ vmsaSlots }: Platform, { handle }: Guest, page: Uint8Array, slot: number): void {
	vmsa.patch(page, { firmwareZero: 0n, slotPaddr: BigInt(slot) });
	vmsaSlots.register(slot, handle, vmsaChecksum(page));
}

/** Whether a plaintext page is a save area that the firmware put into this guest, and nobody but the processor has changed. */
function isIntact({ vmsaSlots }: Platform, { handle }: Guest, page: Uint8Array): boolean {
	if (page.length < VMSA_SIZE) return false;
	const { slotPaddr } = vmsa.decodePrefix(page);
	return slotPaddr !== 0n && vmsaSlots.checksumOf(handle, slotPaddr) === vmsaChecksum(page);
}

/** SEV API 0.24 §6.3 LAUNCH_UPDATE_VMSA: measures a save area as it was given and encrypts it where it stands. */
export const launchUpdateVmsa: GuestHandler<Infer<typeof launchUpdateBuffer>> = {
	beforePlatform: (_psp, { length }) => (length === VMSA_SIZE ? OK : refuse(Status.INVALID_LENGTH)),
	run: (psp, guest, { paddr, length }) => {
		const status = checkGuest(guest);
		if (status !== Status.SUCCESS) return refuse(status);
		if (paddr % 16n !== 0n) return refuse(Status.INVALID_ADDRESS);
		const at = psp.memory.resolveLong(paddr, length);
		if (at < 0) return refuse(Status.INVALID_ADDRESS);
		const slot = psp.vmsaSlots.freeSlot();
		if (slot === undefined) return refuse(Status.RESOURCE_LIMIT);
		const page = psp.memory.read(at, length);
		guest.digest?.update(page);
		takeIn(psp, guest, page, slot);
		psp.engine.store(guest.asid, [at], [length], 1, page);
		page.fill(0);
		return OK;
	},
};

/**
 * SEV API 0.24 SEND_UPDATE_VMSA: a save area as a packet under the channel's keys, if it is intact. The packet carries the
 * source's slot address, which the target overwrites.
 */
export const sendUpdateVmsa: GuestHandler<Transport> = {
	beforeHandle: ({ options }, { hdrLen, guestLen }) => {
		if (hdrLen >= PACKET_HEADER_SIZE) return OK;
		const filled = options.fillTransLenOnQuery ? { transLen: guestLen } : {};
		return { status: Status.INVALID_LENGTH, out: { hdrLen: PACKET_HEADER_SIZE, ...filled } };
	},
	run: (psp, guest, { hdrPaddr, guestPaddr, guestLen, transPaddr, transLen }) => {
		const status = checkGuest(guest);
		if (status !== Status.SUCCESS) return refuse(status);
		const fits = guestLen !== 0 && guestLen % 16 === 0 && guestLen <= psp.options.packetLimit && transLen >= guestLen;
		if (!fits) return refuse(Status.INVALID_LENGTH);
		if (guestPaddr % 16n !== 0n) return refuse(Status.INVALID_ADDRESS);
		const hdrAt = psp.memory.resolveLong(hdrPaddr, PACKET_HEADER_SIZE);
		const guestAt = psp.memory.resolveLong(guestPaddr, guestLen);
		const transAt = psp.memory.resolveLong(transPaddr, guestLen);
		if (hdrAt < 0 || guestAt < 0 || transAt < 0) return refuse(Status.INVALID_ADDRESS);
		const plaintext = new Uint8Array(guestLen);
		psp.engine.load(guest.asid, [guestAt], [guestLen], 1, plaintext);
		if (!isIntact(psp, guest, plaintext)) return refuse(Status.INVALID_PARAM);
		const { header, payload } = sealPacket(psp.provider, guest.channel, {
			context: psp.options.vmsaPacketContext,
			iv: psp.random.bytes(16),
			plaintext,
		});
		plaintext.fill(0);
		psp.memory.dram.set(payload, transAt);
		psp.memory.dram.set(header, hdrAt);
		return { status: Status.SUCCESS, out: { hdrLen: PACKET_HEADER_SIZE } };
	},
};

/** SEV API 0.24 RECEIVE_UPDATE_VMSA: a packet into guest memory as a save area, if its MAC holds. */
export const receiveUpdateVmsa: GuestHandler<Transport> = {
	run: (psp, guest, { hdrPaddr, hdrLen, guestPaddr, guestLen, transPaddr, transLen }) => {
		const allowed = checkGuest(guest);
		if (allowed !== Status.SUCCESS) return refuse(allowed);
		const fits = guestLen !== 0 && guestLen % 16 === 0 && transLen === guestLen && transLen <= psp.options.packetLimit;
		if (!fits || hdrLen < PACKET_HEADER_SIZE) return refuse(Status.INVALID_LENGTH);
		if (guestPaddr % 16n !== 0n) return refuse(Status.INVALID_ADDRESS);
		const hdrAt = psp.memory.resolveLong(hdrPaddr, PACKET_HEADER_SIZE);
		const guestAt = psp.memory.resolveLong(guestPaddr, guestLen);
		const transAt = psp.memory.resolveLong(transPaddr, transLen);
		if (hdrAt < 0 || guestAt < 0 || transAt < 0) return refuse(Status.INVALID_ADDRESS);
		const { status, plaintext } = openPacket(psp.provider, guest.channel, {
			context: psp.options.vmsaPacketContext,
			header: psp.memory.read(hdrAt, PACKET_HEADER_SIZE),
			guestLength: guestLen,
			payload: psp.memory.read(transAt, transLen),
		});
		if (plaintext === undefined) return refuse(status);
		if (transLen < VMSA_SIZE) return refuse(Status.INVALID_LENGTH);
		const slot = psp.vmsaSlots.freeSlot();
		if (slot === undefined) return refuse(Status.RESOURCE_LIMIT);
		takeIn(psp, guest, plaintext, slot);
		psp.engine.store(guest.asid, [guestAt], [guestLen], 1, plaintext);
		plaintext.fill(0);
		return OK;
	},
};
