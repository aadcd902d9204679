import { type Hva, PAGE_SIZE, type Spa, spa } from '@cvm/layout';
import { COMMANDS, transportBuffer } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { BATCH_SLOTS, BATCH_STRIDE, fails, type SevResult } from '../ccp/sev-device.js';
import { pinErrno, type SevContext } from './context.js';

/** Where packet i of a batch stands: its header at `headerAt + i * stride`, its page at `payloadAt + i * stride`. */
export interface BatchGeometry {
	readonly headerAt: number;
	readonly payloadAt: number;
	readonly stride: number;
}

/** `done`: packets that succeeded; if `ret` is not 0, the next one is the one that failed. */
export type BatchResult = SevResult & { readonly done: number };

/** Whole pages through one of the two packet commands, as if by single ioctls. */
export type BatchCommand = (
	pages: readonly Hva[],
	count: number,
	packets: Uint8Array,
	geometry: BatchGeometry,
) => BatchResult;

const HEADER_LENGTH = 52;
const HDR = transportBuffer.offsetOf('hdrPaddr');
const HDR_LEN = transportBuffer.offsetOf('hdrLen');
const GUEST = transportBuffer.offsetOf('guestPaddr');
const GUEST_LEN = transportBuffer.offsetOf('guestLen');
const TRANS = transportBuffer.offsetOf('transPaddr');
const TRANS_LEN = transportBuffer.offsetOf('transLen');

/**
 * Prepares the command buffers of many packets and gives them to the firmware together; it reads and writes `packets`
 * itself, so that must be memory of `HostMemory.mmap` (else −EFAULT). PROJECT: Linux has no such ioctl.
 */
function createBatch(sev: SevContext, id: number, inactiveErrno: number): BatchCommand {
	const { driver } = sev;
	const { machine, batch } = driver;
	const statuses = new Uint16Array(BATCH_SLOTS);
	const view = new DataView(batch.bytes.buffer, batch.bytes.byteOffset, batch.bytes.length);
	const cbit = 1 << (machine.cpuid.cbitPosition - 32);
	/** Addresses of the command buffers; as long as the last batch was, which seldom changes. */
	let buffers: Spa[] = [];

	const submit = (count: number): BatchResult => {
		if (count === 0) return { ret: 0, error: 0, done: 0 };
		if (buffers.length !== count) {
			buffers = Array.from({ length: count }, (_, i) => spa(batch.spa + i * BATCH_STRIDE));
		}
		const { ret, error, ran } = driver.issueBatch(id, buffers, statuses);
		return { ret, error, done: ret === 0 ? ran : Math.max(0, ran - 1) };
	};
	const putAddress = (at: number, address: number, cbit: number): void => {
		view.setUint32(at, address % 2 ** 32, true);
		view.setUint32(at + 4, (Math.floor(address / 2 ** 32) | cbit) >>> 0, true);
	};

	return (pages, count, packets, { headerAt, payloadAt, stride }) => {
		const refuse = (errno: number): BatchResult => ({ ...fails(errno), done: 0 });
		if (!sev.active) return refuse(inactiveErrno);
		if (!fitsBatch(pages, count, packets, { headerAt, payloadAt, stride })) return refuse(Errno.EINVAL);
		if (count === 0) return { ret: 0, error: 0, done: 0 };
		const base = sev.memory.locate(packets);
		if (base < 0) return refuse(Errno.EFAULT);
		if (!sev.hasDevice || !sev.isDeviceOpen()) return refuse(Errno.EBADF);
		let done = 0;
		while (done < count) {
			const size = Math.min(BATCH_SLOTS, count - done);
			let errno = 0;
			let ready = 0;
			for (; ready < size; ready++) {
				const page = pages[done + ready] ?? 0;
				const guest = sev.memory.resolve(page, PAGE_SIZE);
				errno = page === 0 || page % PAGE_SIZE !== 0 ? Errno.EINVAL : guest < 0 ? pinErrno(sev) : 0;
				if (errno !== 0) break;
				const at = ready * BATCH_STRIDE;
				const packet = base + (done + ready) * stride;
				view.setUint32(at, sev.handle, true);
				putAddress(at + HDR, packet + headerAt, 0);
				view.setUint32(at + HDR_LEN, HEADER_LENGTH, true);
				putAddress(at + GUEST, guest, cbit);
				view.setUint32(at + GUEST_LEN, PAGE_SIZE, true);
				putAddress(at + TRANS, packet + payloadAt, 0);
				view.setUint32(at + TRANS_LEN, PAGE_SIZE, true);
			}
			const result = submit(ready);
			done += result.done;
			if (result.ret !== 0) return { ret: result.ret, error: result.error, done };
			if (errno !== 0) return { ...fails(errno), done };
		}
		return { ret: 0, error: 0, done };
	};
}

/** New batch commands of one VM: SEND_UPDATE_DATA without KVM_SEV_INIT is ENOTTY, RECEIVE_UPDATE_DATA is EINVAL. */
export const createSendBatch = (sev: SevContext): BatchCommand =>
	createBatch(sev, COMMANDS.SEND_UPDATE_DATA.id, Errno.ENOTTY);
export const createReceiveBatch = (sev: SevContext): BatchCommand =>
	createBatch(sev, COMMANDS.RECEIVE_UPDATE_DATA.id, Errno.EINVAL);

function fitsBatch(pages: readonly Hva[], count: number, packets: Uint8Array, g: BatchGeometry): boolean {
	if (![count, g.headerAt, g.payloadAt, g.stride].every((n) => Number.isSafeInteger(n) && n >= 0)) return false;
	if (count > pages.length) return false;
	if (count === 0) return true;
	const last = (count - 1) * g.stride;
	return last + g.headerAt + HEADER_LENGTH <= packets.length && last + g.payloadAt + PAGE_SIZE <= packets.length;
}
