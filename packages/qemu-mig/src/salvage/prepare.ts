import type { SaveImage } from '../codec/libvirt/header.js';
import {
	decodeSaveHeader,
	decodeSaveImage,
	isSaveImage,
	SAVE_HEADER_SIZE,
	saveFormatOf,
} from '../codec/libvirt/header.js';
import type { Dialect } from '../dialect.js';
import { ImageError } from '../image/error.js';
import type { Detection } from '../read/detect.js';
import { DialectProbe } from '../read/detect.js';
import type { SalvageSource } from './options.js';

/** Bytes read at once, and in all, to find out the dialect. */
const CHUNK = 2 ** 20;
const LOOK_AHEAD = 4 * CHUNK;

/**
 * libvirt's header, if the file has one, and its bytes.
 *
 * @throws ImageError `unsupported` if the stream behind it is packed; CodecError for a header that makes no sense
 */
export async function takeSaveHeader(
	source: SalvageSource,
): Promise<{ readonly header: number; readonly libvirt?: SaveImage }> {
	// Copies: `slice` of a Buffer would be a view.
	const head = new Uint8Array(await source.read(0, SAVE_HEADER_SIZE));
	if (!isSaveImage(head) || head.length < SAVE_HEADER_SIZE) return { header: 0 };
	const header = decodeSaveHeader(head);
	const format = saveFormatOf(header);
	if (format !== 'raw' && format !== 'sparse') {
		throw new ImageError('unsupported', `libvirt save file: expected a raw stream, got ${format}; unpack it first`);
	}
	const end = SAVE_HEADER_SIZE + header.dataLength;
	if (end > source.size) return { header: source.size };
	return { header: end, libvirt: decodeSaveImage(new Uint8Array(await source.read(0, end))) };
}

/** The dialect of a stream that may be damaged: as told, or as its first bytes suggest. */
export async function chooseDialect(
	source: SalvageSource,
	header: number,
	told: Dialect | 'auto' = 'auto',
): Promise<{ readonly dialect: Dialect; readonly detection: Detection | undefined }> {
	if (told !== 'auto') return { dialect: told, detection: undefined };
	const probe = new DialectProbe('migration');
	for (let at = header; at < Math.min(header + LOOK_AHEAD, source.size); at += CHUNK) {
		if (probe.push(await source.read(at, CHUNK))) break;
	}
	const detection = probe.result();
	return { dialect: detection.best ?? 'qemu-7.2', detection };
}
