import { launchUpdateBuffer, transportBuffer } from '../../abi/buffers.js';

/*
 * The command buffers of the three page commands without bigint and without an object per page: a request is overwritten
 * by the next `decode`. Offsets come from the layouts. Addresses stay in two halves until the address rules join them.
 */

/** SEND_UPDATE_DATA and RECEIVE_UPDATE_DATA. */
export interface TransportRequest {
	handle: number;
	hdrLow: number;
	hdrHigh: number;
	hdrLen: number;
	guestLow: number;
	guestHigh: number;
	guestLen: number;
	transLow: number;
	transHigh: number;
	transLen: number;
}

/** LAUNCH_UPDATE_DATA. */
export interface LaunchUpdateRequest {
	handle: number;
	low: number;
	high: number;
	length: number;
}

/** Reads a command buffer into a request that the next call overwrites. */
export type RequestReader<R> = (buffer: DataView) => R;

const offset = transportBuffer.offsetOf;
const HANDLE = offset('handle');
const HDR = offset('hdrPaddr');
const HDR_LEN = offset('hdrLen');
const GUEST = offset('guestPaddr');
const GUEST_LEN = offset('guestLen');
const TRANS = offset('transPaddr');
const TRANS_LEN = offset('transLen');

export function transportReader(): RequestReader<TransportRequest> {
	const request: TransportRequest = {
		handle: 0,
		hdrLow: 0,
		hdrHigh: 0,
		hdrLen: 0,
		guestLow: 0,
		guestHigh: 0,
		guestLen: 0,
		transLow: 0,
		transHigh: 0,
		transLen: 0,
	};
	return (buffer) => {
		request.handle = buffer.getUint32(HANDLE, true);
		request.hdrLow = buffer.getUint32(HDR, true);
		request.hdrHigh = buffer.getUint32(HDR + 4, true);
		request.hdrLen = buffer.getUint32(HDR_LEN, true);
		request.guestLow = buffer.getUint32(GUEST, true);
		request.guestHigh = buffer.getUint32(GUEST + 4, true);
		request.guestLen = buffer.getUint32(GUEST_LEN, true);
		request.transLow = buffer.getUint32(TRANS, true);
		request.transHigh = buffer.getUint32(TRANS + 4, true);
		request.transLen = buffer.getUint32(TRANS_LEN, true);
		return request;
	};
}

const LAUNCH_HANDLE = launchUpdateBuffer.offsetOf('handle');
const LAUNCH_PADDR = launchUpdateBuffer.offsetOf('paddr');
const LAUNCH_LENGTH = launchUpdateBuffer.offsetOf('length');

export function launchUpdateReader(): RequestReader<LaunchUpdateRequest> {
	const request: LaunchUpdateRequest = { handle: 0, low: 0, high: 0, length: 0 };
	return (buffer) => {
		request.handle = buffer.getUint32(LAUNCH_HANDLE, true);
		request.low = buffer.getUint32(LAUNCH_PADDR, true);
		request.high = buffer.getUint32(LAUNCH_PADDR + 4, true);
		request.length = buffer.getUint32(LAUNCH_LENGTH, true);
		return request;
	};
}
