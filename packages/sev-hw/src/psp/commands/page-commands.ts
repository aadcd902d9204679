import { constantTimeEqual, ctrBatch } from '@cvm/crypto';
import { transportBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import {
	PACKET_HEADER_SIZE,
	PacketContext,
	PacketFlags,
	type PacketMacInput,
	packetHeader,
	packetMac,
} from '../../channel/packet.js';
import type { Bulk } from '../bulk.js';
import type { Guest } from '../guests.js';
import type { Platform } from '../platform.js';
import {
	type LaunchUpdateRequest,
	launchUpdateReader,
	type RequestReader,
	type TransportRequest,
	transportReader,
} from './transport-request.js';

/** The plan has to wait until what is gathered is done. */
export const WAIT = -1;

/**
 * A command that moves guest memory, in two steps, so that the work of many can be done at once. Stages as in
 * `GuestHandler`; `run` there is `plan` and `perform` here.
 */
export interface PageHandler<R extends { readonly handle: number }> {
	readonly reader: () => RequestReader<R>;
	/** May answer in the command buffer. */
	readonly beforeHandle?: (psp: Platform, request: R, buffer: Uint8Array) => Status;
	/** Makes every check that is left and adds the work to `bulk`, or says {@link WAIT}. Writes to no memory. */
	readonly plan: (psp: Platform, guest: Guest, request: R, bulk: Bulk) => Status | typeof WAIT;
	/** Does what was planned, in order, with the answers in the command buffers. It cannot fail. */
	readonly perform: (psp: Platform, guest: Guest, bulk: Bulk) => void;
}

/** SEV API 0.24 §6.3 LAUNCH_UPDATE_DATA: measures plaintext and encrypts it where it stands. */
export const launchUpdateData: PageHandler<LaunchUpdateRequest> = {
	reader: launchUpdateReader,
	plan: (psp, guest, { low, high, length }, bulk) => {
		if (guest.asid === 0) return Status.INACTIVE;
		if (low % 16 !== 0) return Status.INVALID_ADDRESS;
		if (length === 0 || length % 16 !== 0) return Status.INVALID_LENGTH;
		const at = psp.memory.resolve(low, high, length);
		if (at < 0) return Status.INVALID_ADDRESS;
		if (!bulk.hasRoom(length) || bulk.isPendingOutput(at, length)) return WAIT;
		bulk.guestSpas[bulk.count] = at;
		bulk.lengths[bulk.count] = length;
		bulk.addOutput(at, length);
		bulk.count++;
		return Status.SUCCESS;
	},
	perform: (psp, guest, bulk) => {
		const { guestSpas, lengths, data, count } = bulk;
		const { dram } = psp.memory;
		if (count === 1) {
			// One command may be longer than the scratch memory.
			const start = guestSpas[0] ?? 0;
			const length = lengths[0] ?? 0;
			for (let done = 0; done < length; done += data.length) {
				const piece = data.subarray(0, Math.min(data.length, length - done));
				piece.set(dram.subarray(start + done, start + done + piece.length));
				guest.digest?.update(piece);
				psp.engine.store(guest.asid, [start + done], [piece.length], 1, piece);
			}
			return;
		}
		let used = 0;
		for (let i = 0; i < count; i++) {
			const at = guestSpas[i] ?? 0;
			const length = lengths[i] ?? 0;
			data.set(dram.subarray(at, at + length), used);
			used += length;
		}
		guest.digest?.update(data.subarray(0, used));
		psp.engine.store(guest.asid, guestSpas, lengths, count, data);
	},
};

/** Reused by every packet: no object is made per page. */
const mac: { -readonly [K in keyof PacketMacInput]: PacketMacInput[K] } = {
	context: PacketContext.data,
	flags: 0,
	iv: new Uint8Array(0),
	guestLength: 0,
	transLength: 0,
	ciphertext: new Uint8Array(0),
};
const header = new Uint8Array(PACKET_HEADER_SIZE);
const headerView = new DataView(header.buffer);
const FLAGS_AT = packetHeader.offsetOf('flags');
const IV_AT = packetHeader.offsetOf('iv');
const MAC_AT = packetHeader.offsetOf('mac');
const HDR_LEN_AT = transportBuffer.offsetOf('hdrLen');
const GUEST_LEN_AT = transportBuffer.offsetOf('guestLen');
const TRANS_LEN_AT = transportBuffer.offsetOf('transLen');

function macOf(psp: Platform, guest: Guest, flags: number, iv: Uint8Array, ciphertext: Uint8Array): Uint8Array {
	mac.flags = flags;
	mac.iv = iv;
	mac.guestLength = ciphertext.length;
	mac.transLength = ciphertext.length;
	mac.ciphertext = ciphertext;
	return packetMac(psp.provider, guest.channel.tik, mac);
}

/** SEV API 0.24 SEND_UPDATE_DATA: guest memory as a packet under the channel's keys. */
export const sendUpdateData: PageHandler<TransportRequest> = {
	reader: transportReader,
	beforeHandle: ({ options }, { hdrLen }, buffer) => {
		if (hdrLen >= PACKET_HEADER_SIZE) return Status.SUCCESS;
		answerHeaderLength(buffer);
		if (options.fillTransLenOnQuery) buffer.copyWithin(TRANS_LEN_AT, GUEST_LEN_AT, GUEST_LEN_AT + 4);
		return Status.INVALID_LENGTH;
	},
	plan: (psp, guest, r, bulk) => {
		if (guest.asid === 0) return Status.INACTIVE;
		const { guestLen } = r;
		const fits = guestLen !== 0 && guestLen % 16 === 0 && guestLen <= psp.options.packetLimit && r.transLen >= guestLen;
		if (!fits) return Status.INVALID_LENGTH;
		if (r.guestLow % 16 !== 0) return Status.INVALID_ADDRESS;
		const hdrAt = psp.memory.resolve(r.hdrLow, r.hdrHigh, PACKET_HEADER_SIZE);
		const guestAt = psp.memory.resolve(r.guestLow, r.guestHigh, guestLen);
		const transAt = psp.memory.resolve(r.transLow, r.transHigh, guestLen);
		if (hdrAt < 0 || guestAt < 0 || transAt < 0) return Status.INVALID_ADDRESS;
		if (!bulk.hasRoom(guestLen) || bulk.isPendingOutput(guestAt, guestLen)) return WAIT;
		const i = bulk.count++;
		bulk.guestSpas[i] = guestAt;
		bulk.lengths[i] = guestLen;
		bulk.headerSpas[i] = hdrAt;
		bulk.transSpas[i] = transAt;
		bulk.addOutput(transAt, guestLen);
		bulk.addOutput(hdrAt, PACKET_HEADER_SIZE);
		bulk.addOutput(bulk.bufferSpas[i] ?? 0, transportBuffer.size);
		return Status.SUCCESS;
	},
	perform: (psp, guest, bulk) => {
		const { count, data, ivs } = bulk;
		const length = bulk.lengths[0] ?? 0;
		psp.engine.load(guest.asid, bulk.guestSpas, bulk.lengths, count, data);
		// One draw per packet, as if the commands had come one by one.
		for (let i = 0; i < count; i++) psp.random.fill(ivs.subarray(16 * i, 16 * i + 16));
		ctrBatch(guest.channel.cipher, ivs, length, data, length, 0, data, length, 0, count);
		headerView.setUint32(FLAGS_AT, 0, true);
		for (let i = 0; i < count; i++) {
			const iv = ivs.subarray(16 * i, 16 * i + 16);
			const ciphertext = data.subarray(i * length, (i + 1) * length);
			header.set(iv, IV_AT);
			header.set(macOf(psp, guest, 0, iv, ciphertext), MAC_AT);
			psp.memory.dram.set(ciphertext, bulk.transSpas[i] ?? 0);
			psp.memory.dram.set(header, bulk.headerSpas[i] ?? 0);
			const buffer = bulk.buffer(i);
			answerHeaderLength(buffer);
			psp.memory.dram.set(buffer, bulk.bufferSpas[i] ?? 0);
		}
	},
};

/** Tells the caller how long a header is: on success, and as the length query's answer. */
function answerHeaderLength(buffer: Uint8Array): void {
	buffer.fill(0, HDR_LEN_AT, HDR_LEN_AT + 4);
	buffer[HDR_LEN_AT] = PACKET_HEADER_SIZE;
}

/** SEV API 0.24 RECEIVE_UPDATE_DATA: a packet into guest memory, if its MAC holds. */
export const receiveUpdateData: PageHandler<TransportRequest> = {
	reader: transportReader,
	plan: (psp, guest, r, bulk) => {
		if (guest.asid === 0) return Status.INACTIVE;
		const { guestLen, transLen } = r;
		const fits = guestLen !== 0 && guestLen % 16 === 0 && transLen === guestLen && transLen <= psp.options.packetLimit;
		if (!fits || r.hdrLen < PACKET_HEADER_SIZE) return Status.INVALID_LENGTH;
		if (r.guestLow % 16 !== 0) return Status.INVALID_ADDRESS;
		const hdrAt = psp.memory.resolve(r.hdrLow, r.hdrHigh, PACKET_HEADER_SIZE);
		const guestAt = psp.memory.resolve(r.guestLow, r.guestHigh, guestLen);
		const transAt = psp.memory.resolve(r.transLow, r.transHigh, transLen);
		if (hdrAt < 0 || guestAt < 0 || transAt < 0) return Status.INVALID_ADDRESS;
		const mustWait = bulk.isPendingOutput(hdrAt, PACKET_HEADER_SIZE) || bulk.isPendingOutput(transAt, transLen);
		if (!bulk.hasRoom(guestLen) || mustWait) return WAIT;

		// Copied first, checked then: the host may be writing to this memory right now.
		const { dram } = psp.memory;
		const i = bulk.count;
		header.set(dram.subarray(hdrAt, hdrAt + PACKET_HEADER_SIZE));
		const ciphertext = bulk.data.subarray(i * guestLen, (i + 1) * guestLen);
		ciphertext.set(dram.subarray(transAt, transAt + guestLen));
		const flags = headerView.getUint32(FLAGS_AT, true);
		if ((flags & PacketFlags.compressed) !== 0) return Status.UNSUPPORTED;
		const iv = bulk.ivs.subarray(16 * i, 16 * i + 16);
		iv.set(header.subarray(IV_AT, IV_AT + 16));
		const genuine = constantTimeEqual(macOf(psp, guest, flags, iv, ciphertext), header.subarray(MAC_AT));
		if (!genuine) return Status.BAD_MEASUREMENT;
		bulk.guestSpas[i] = guestAt;
		bulk.lengths[i] = guestLen;
		bulk.addOutput(guestAt, guestLen);
		bulk.count++;
		return Status.SUCCESS;
	},
	perform: (psp, guest, bulk) => {
		const { count, data, ivs } = bulk;
		const length = bulk.lengths[0] ?? 0;
		ctrBatch(guest.channel.cipher, ivs, length, data, length, 0, data, length, 0, count);
		psp.engine.store(guest.asid, bulk.guestSpas, bulk.lengths, count, data);
	},
};
