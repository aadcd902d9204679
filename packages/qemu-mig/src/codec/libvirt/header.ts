import { CodecError } from '../error.js';

/** Bytes before the XML. libvirt src/qemu/qemu_saveimage.h `virQEMUSaveHeader`. */
export const SAVE_HEADER_SIZE = 92;
const MAGIC = 'LibvirtQemudSave';
/** Until the file is complete. */
const PARTIAL_MAGIC = 'LibvirtQemudPart';
const VERSION = 2;
/** Room libvirt leaves after XML and cookie for edits. libvirt src/qemu/qemu_saveimage.c `virQEMUSaveDataWrite`. */
const PADDING = 64 * 1024;
/** Bytes of `unused`. */
const UNUSED = 56;

/** What the stream behind the header is packed with. libvirt src/qemu/qemu_saveimage_format.h `virQEMUSaveFormat`. */
export const SAVE_FORMATS = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse'] as const;
/** A name of {@link SAVE_FORMATS}; `sparse` is a mapped-ram file. */
export type SaveFormat = (typeof SAVE_FORMATS)[number];

/** The fixed part of a libvirt save file. */
export interface SaveHeader {
	/** Whether the writer finished: the magic says so. */
	readonly complete: boolean;
	/** Byte order of the host that wrote it. */
	readonly littleEndian: boolean;
	/** 1 or 2. In 1 the stream is always raw. */
	readonly version: number;
	/** Bytes of XML, cookie and padding. */
	readonly dataLength: number;
	/** Whether the guest was running; libvirt writes 1 or 0. */
	readonly wasRunning: number;
	/** Index into {@link SAVE_FORMATS}. */
	readonly format: number;
	/** Where in the data the cookie begins; 0 without one. */
	readonly cookieOffset: number;
	/** 56 bytes that libvirt keeps for later. */
	readonly unused: Uint8Array;
}

/** A libvirt save file up to the migration stream. */
export interface SaveImage {
	readonly header: SaveHeader;
	/** The `dataLength` bytes behind the header. */
	readonly data: Uint8Array;
}

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));
const opensWith = (data: Uint8Array, text: string): boolean => ascii(text).every((byte, i) => data[i] === byte);

/** Whether a file begins as a libvirt save file, complete or not. 16 bytes are enough. */
export const isSaveImage = (data: Uint8Array): boolean => opensWith(data, MAGIC) || opensWith(data, PARTIAL_MAGIC);

/**
 * Reads the first {@link SAVE_HEADER_SIZE} bytes. Header words are in the byte order of the host that wrote them; it is
 * little-endian unless the version makes no sense then, as libvirt decides for its own host.
 *
 * @throws CodecError `truncated`, `magic`, `version`, `unsupported` (format), `malformed`, `too-large`
 * @param limit of `dataLength`, default 16 MiB
 */
export function decodeSaveHeader(data: Uint8Array, limit = 16 * 1024 * 1024): SaveHeader {
	if (data.length < SAVE_HEADER_SIZE) throw fault('truncated', data.length, `expected 92 bytes, got ${data.length}`);
	const complete = opensWith(data, MAGIC);
	if (!complete && !opensWith(data, PARTIAL_MAGIC)) throw fault('magic', 0, `expected ${MAGIC}, got another beginning`);
	const view = new DataView(data.buffer, data.byteOffset, SAVE_HEADER_SIZE);
	const littleEndian = view.getUint32(16, true) <= VERSION;
	const [version, dataLength, wasRunning, format, cookieOffset] = [16, 20, 24, 28, 32].map((at) =>
		view.getUint32(at, littleEndian),
	) as [number, number, number, number, number];
	if (version > VERSION) {
		throw fault('version', 16, `expected version ${VERSION} at most in one byte order, got ${version}`);
	}
	if (format >= SAVE_FORMATS.length) {
		throw fault('unsupported', 28, `expected a format from 0 to ${SAVE_FORMATS.length - 1}, got ${format}`);
	}
	if (dataLength === 0) throw fault('malformed', 20, 'expected XML, got 0 bytes');
	if (dataLength > limit) throw fault('too-large', 20, `expected ${limit} bytes of XML at most, got ${dataLength}`);
	if (cookieOffset > dataLength) {
		throw fault('malformed', 32, `expected the cookie within ${dataLength} bytes, got ${cookieOffset}`);
	}
	const unused = data.slice(SAVE_HEADER_SIZE - UNUSED, SAVE_HEADER_SIZE);
	return { complete, littleEndian, version, dataLength, wasRunning, format, cookieOffset, unused };
}

/** Reads header, XML and cookie from the beginning of a file. @throws CodecError as {@link decodeSaveHeader} */
export function decodeSaveImage(file: Uint8Array, limit?: number): SaveImage {
	const header = decodeSaveHeader(file, limit);
	const end = SAVE_HEADER_SIZE + header.dataLength;
	if (file.length < end) {
		throw fault(
			'truncated',
			file.length,
			`expected ${header.dataLength} bytes of XML, got ${file.length - SAVE_HEADER_SIZE}`,
		);
	}
	return { header, data: file.slice(SAVE_HEADER_SIZE, end) };
}

/** The file up to the migration stream: the inverse of {@link decodeSaveImage}. @throws CodecError `argument` */
export function encodeSaveImage({ header, data }: SaveImage): Uint8Array {
	if (data.length !== header.dataLength || header.unused.length !== UNUSED) {
		throw fault('argument', 20, `expected ${header.dataLength} bytes of data and ${UNUSED} unused`);
	}
	const out = new Uint8Array(SAVE_HEADER_SIZE + data.length);
	const view = new DataView(out.buffer);
	out.set(ascii(header.complete ? MAGIC : PARTIAL_MAGIC));
	const words = [header.version, header.dataLength, header.wasRunning, header.format, header.cookieOffset];
	words.forEach((word, i) => {
		view.setUint32(16 + 4 * i, word, header.littleEndian);
	});
	out.set(header.unused, SAVE_HEADER_SIZE - UNUSED);
	out.set(data, SAVE_HEADER_SIZE);
	return out;
}

/** What {@link createSaveImage} needs. */
export interface SaveImageContent {
	/** The domain, UTF-8, as `virsh dumpxml` prints it. */
	readonly xml: Uint8Array;
	/** libvirt's own XML about CPU and features, UTF-8; hosts do without. */
	readonly cookie?: Uint8Array | undefined;
	readonly running?: boolean;
	readonly format?: SaveFormat;
}

/** A save file as libvirt makes it: little-endian, complete, with 64 KiB of room for edits. */
export function createSaveImage({ xml, cookie, running = false, format = 'raw' }: SaveImageContent): SaveImage {
	if (xml.includes(0) || cookie?.includes(0)) throw fault('argument', 0, 'expected XML without NUL');
	const cookieOffset = cookie === undefined ? 0 : xml.length + 1;
	const data = new Uint8Array(xml.length + 1 + (cookie === undefined ? 0 : cookie.length + 1) + PADDING);
	data.set(xml);
	if (cookie !== undefined) data.set(cookie, cookieOffset);
	return {
		header: {
			complete: true,
			littleEndian: true,
			version: VERSION,
			dataLength: data.length,
			wasRunning: running ? 1 : 0,
			format: SAVE_FORMATS.indexOf(format),
			cookieOffset,
			unused: new Uint8Array(UNUSED),
		},
		data,
	};
}

/** Up to the NUL that ends a text. */
function untilNul(data: Uint8Array): Uint8Array {
	const end = data.indexOf(0);
	return end < 0 ? data : data.subarray(0, end);
}

/** The domain XML of a save file, UTF-8. */
export const saveImageXml = ({ header, data }: SaveImage): Uint8Array =>
	untilNul(header.cookieOffset === 0 ? data : data.subarray(0, header.cookieOffset));

/** The cookie of a save file, if it has one, UTF-8. */
export const saveImageCookie = ({ header, data }: SaveImage): Uint8Array | undefined =>
	header.cookieOffset === 0 ? undefined : untilNul(data.subarray(header.cookieOffset));

/** What the stream of a save file is packed with. */
export const saveFormatOf = (header: SaveHeader): SaveFormat =>
	header.version === VERSION ? (SAVE_FORMATS[header.format] ?? 'raw') : 'raw';

function fault(
	code: 'truncated' | 'magic' | 'version' | 'unsupported' | 'malformed' | 'too-large' | 'argument',
	offset: number,
	message: string,
): CodecError {
	return new CodecError(code, offset, `libvirt save header: ${message}`);
}
