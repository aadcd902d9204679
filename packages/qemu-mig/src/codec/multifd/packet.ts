import { bytes, ignored, layout, PAGE_SIZE, u8, u32be, u64be } from '@cvm/layout';
import { bytesToName, nameInto } from '../../latin1.js';
import { CodecError } from '../error.js';

/** First word of the initial packet and of every other. QEMU 7.2 migration/multifd.c `MULTIFD_MAGIC`. */
export const MULTIFD_MAGIC = 0x11223344;
const MULTIFD_VERSION = 1;

/** Pages of a packet at most: 512 KiB, whatever the page size. QEMU 7.2 migration/multifd.h `MULTIFD_PACKET_SIZE`. */
export const MULTIFD_PAGE_COUNT = (512 * 1024) / PAGE_SIZE;

/** Flags of a packet. QEMU 7.2 to 10.0 migration/multifd.h. */
export const MultifdFlag = {
	/** The receiver waits for this packet on every channel. */
	sync: 0x01,
	zlib: 0x02,
	zstd: 0x04,
	qpl: 0x08,
	uadk: 0x10,
	qatzip: 0x20,
	/** Since 10.0: device state instead of pages. */
	deviceState: 0x40,
} as const;

/** Flags that say how pages are compressed. None: not at all. */
export const MULTIFD_COMPRESSION_MASK = 0x3e;

/** The packet that opens each channel. QEMU 7.2 migration/multifd.c `MultiFDInit_t`. */
const INIT = layout('MultiFDInit_t', 64, {
	magic: u32be(0),
	version: u32be(4),
	uuid: bytes(8, 16),
	channel: u8(24),
	unused: ignored(25, 39),
});
/** Bytes of the packet that opens each channel. */
export const MULTIFD_INIT_SIZE = INIT.size;

/** The fixed part of a packet. Before 9.0 `zeroPages` is reserved and zero. QEMU 9.0 migration/multifd.h `MultiFDPacket_t`. */
const HEADER = layout('MultiFDPacket_t', 320, {
	magic: u32be(0),
	version: u32be(4),
	flags: u32be(8),
	pagesAlloc: u32be(12),
	normalPages: u32be(16),
	nextPacketSize: u32be(20),
	packetNum: u64be(24),
	zeroPages: u32be(32),
	unused: ignored(36, 28),
	block: bytes(64, 256),
});

/** A packet of device state. QEMU 10.0 migration/multifd.h `MultiFDPacketDeviceState_t`. */
const DEVICE_STATE = layout('MultiFDPacketDeviceState_t', 276, {
	magic: u32be(0),
	version: u32be(4),
	flags: u32be(8),
	idstr: bytes(12, 256),
	instanceId: u32be(268),
	nextPacketSize: u32be(272),
});
/** Bytes of a device-state packet before its data. */
export const MULTIFD_DEVICE_STATE_SIZE = DEVICE_STATE.size;

/** Bytes of a packet before its payload, the same for a whole migration: 1344 with 128 pages. */
export const multifdPacketSize = (pageCount: number): number => HEADER.size + 8 * pageCount;

/** Who sends on a channel. */
export interface MultifdInit {
	/** UUID of the source's VM, 16 bytes; zeros if it has none. */
	readonly uuid: Uint8Array;
	/** From 0. */
	readonly channel: number;
}

/** A packet of pages, of which some may be zero. Both lists may be empty. */
export interface MultifdPacket {
	/** {@link MultifdFlag}s. */
	readonly flags: number;
	/** Room for pages in every packet of the sender. */
	readonly pagesAlloc: number;
	/** Bytes of payload if there are normal pages; otherwise whatever the sender left there. */
	readonly nextPacketSize: number;
	/** Counts packets over all channels. */
	readonly packetNum: bigint;
	/** Block of the pages; without pages whatever the sender left there. */
	readonly block: string;
	/** Offsets in the block of the pages in the payload, in order. */
	readonly normal: readonly number[];
	/** Offsets of pages that are zero; since 9.0. */
	readonly zero: readonly number[];
}

/** A piece of a device's state. Since 10.0. */
export interface MultifdDeviceState {
	readonly flags: number;
	readonly idstr: string;
	readonly instanceId: number;
	/** Bytes that follow. */
	readonly size: number;
}

/** Checks the two words that open every packet. `what` and `link` are as QEMU words the two cases. */
function checkOpening(magic: number, version: number, at: number, link: string): void {
	if (magic !== MULTIFD_MAGIC) {
		const text = `received packet magic ${magic.toString(16)} ${link} ${MULTIFD_MAGIC.toString(16)}`;
		throw new CodecError('magic', at, `multifd: ${text}`, [`multifd: ${text}`]);
	}
	if (version !== MULTIFD_VERSION) {
		const wording = link === 'expected' ? 'expected' : 'and expected version';
		const text = `received packet version ${version} ${wording} ${MULTIFD_VERSION}`;
		throw new CodecError('version', at, `multifd: ${text}`, [`multifd: ${text}`]);
	}
}

/** @param at offset in the channel, for errors. @throws CodecError `magic` or `version` */
export function decodeMultifdInit(data: Uint8Array, at = 0): MultifdInit {
	if (data.length < INIT.size) throw new CodecError('truncated', at, `multifd: expected 64 bytes, got ${data.length}`);
	const { magic, version, uuid, channel } = INIT.decodePrefix(data);
	checkOpening(magic, version, at, 'expected');
	return { uuid, channel };
}

/** The 64 bytes that open a channel. */
export function encodeMultifdInit(init: MultifdInit): Uint8Array {
	if (init.uuid.length !== 16 || !(init.channel >= 0 && init.channel <= 255)) {
		throw new CodecError('argument', 0, 'multifd: expected a UUID of 16 bytes and a channel from 0 to 255');
	}
	return INIT.encode({ magic: MULTIFD_MAGIC, version: MULTIFD_VERSION, ...init });
}

/** A name in 256 bytes: up to a NUL, of which the last byte is one to QEMU. */
function nameOf(field: Uint8Array): string {
	const end = field.subarray(0, 255).indexOf(0);
	return bytesToName(field.subarray(0, end < 0 ? 255 : end));
}

/** A count that exceeds its bound, in the words of QEMU 7.2 (of 9.0 for zero pages, which 7.2 does not know). */
function excess(at: number, text: string): CodecError {
	return new CodecError('too-large', at, `multifd: received packet ${text}`, [`multifd: received packet ${text}`]);
}

/** @param at offset in the channel, for errors. @throws CodecError `truncated`, `magic`, `version`, `too-large`, `offset` */
export function decodeMultifdPacket(data: Uint8Array, pageCount = MULTIFD_PAGE_COUNT, at = 0): MultifdPacket {
	const size = multifdPacketSize(pageCount);
	if (data.length < size) throw new CodecError('truncated', at, `multifd: expected ${size} bytes, got ${data.length}`);
	const { magic, version, normalPages, zeroPages, block, ...header } = HEADER.decodePrefix(data);
	checkOpening(magic, version, at, 'and expected magic');
	const { pagesAlloc } = header;
	if (pagesAlloc > pageCount) throw excess(at + 12, `with size ${pagesAlloc} and expected a size of ${pageCount}`);
	if (normalPages > pagesAlloc) {
		throw excess(at + 16, `with ${normalPages} pages and expected maximum pages are ${pagesAlloc}`);
	}
	const room = pagesAlloc - normalPages;
	if (zeroPages > room) {
		throw excess(at + 32, `with ${zeroPages} zero pages and expected maximum zero pages are ${room}`);
	}
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	const offsets = Array.from({ length: normalPages + zeroPages }, (_, i) => {
		const from = HEADER.size + 8 * i;
		const high = view.getUint32(from);
		if (high > 0x1fffff) {
			const text = view.getBigUint64(from).toString(16);
			throw new CodecError('offset', at + from, `multifd: expected an offset of at most 53 bits, got 0x${text}`);
		}
		return high * 2 ** 32 + view.getUint32(from + 4);
	});
	return {
		...header,
		block: nameOf(block),
		normal: offsets.slice(0, normalPages),
		zero: offsets.slice(normalPages),
	};
}

/** The bytes of a packet before its payload. Unused offsets are zero, where QEMU leaves those of earlier packets. */
export function encodeMultifdPacket(packet: MultifdPacket, pageCount = MULTIFD_PAGE_COUNT): Uint8Array {
	const { normal, zero, block, ...header } = packet;
	const out = new Uint8Array(multifdPacketSize(pageCount));
	if (normal.length + zero.length > pageCount || block.length > 255) {
		throw new CodecError('argument', 0, `multifd: expected ${pageCount} pages and a name of 255 bytes at most`);
	}
	const name = new Uint8Array(256);
	nameInto(name, 0, block);
	HEADER.encodeInto(out, {
		...header,
		magic: MULTIFD_MAGIC,
		version: MULTIFD_VERSION,
		normalPages: normal.length,
		zeroPages: zero.length,
		block: name,
	});
	const view = new DataView(out.buffer);
	[...normal, ...zero].forEach((offset, i) => {
		view.setBigUint64(HEADER.size + 8 * i, BigInt(offset));
	});
	return out;
}

/** @param at offset in the channel, for errors. @throws CodecError `truncated`, `magic` or `version` */
export function decodeMultifdDeviceState(data: Uint8Array, at = 0): MultifdDeviceState {
	const { size } = DEVICE_STATE;
	if (data.length < size) throw new CodecError('truncated', at, `multifd: expected ${size} bytes, got ${data.length}`);
	const { magic, version, flags, idstr, instanceId, nextPacketSize } = DEVICE_STATE.decodePrefix(data);
	checkOpening(magic, version, at, 'and expected magic');
	return { flags, idstr: nameOf(idstr), instanceId, size: nextPacketSize };
}
