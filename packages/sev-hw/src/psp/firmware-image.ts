import type { CryptoProvider, RsaPublicKey } from '@cvm/crypto';
import { bytes, ignored, layout, u8, u32 } from '@cvm/layout';
import type { FirmwareVersion } from '../abi/policy.js';
import { Status } from '../abi/status.js';
import type { SevGeneration } from '../generations.js';

/**
 * The front of a firmware image of this model: header ‖ body ‖ signature. `length` counts all three. The signature is
 * RSASSA-PSS with SHA-256 over header and body, 256 bytes little-endian as in AMD's certificates. What the body holds is
 * nobody's business: this firmware is not made of bytes.
 *
 * DEVIATION(SEV API 0.24 DOWNLOAD_FIRMWARE): the image format of real parts is not public, so this one is our own; real images
 * are refused with BAD_SIGNATURE.
 */
export const firmwareImageHeader = layout('cvm_firmware_image', 32, {
	magic: bytes(0x00, 8),
	format: u32(0x08),
	apiMajor: u8(0x0c),
	apiMinor: u8(0x0d),
	build: u8(0x0e),
	length: u32(0x10),
	reserved: ignored(0x14, 12),
});

/** `CVMSEVFW`. */
export const FIRMWARE_IMAGE_MAGIC = Uint8Array.from('CVMSEVFW', (c) => c.charCodeAt(0));
/** The only format so far. */
export const FIRMWARE_IMAGE_FORMAT = 1;
/** Bytes of the signature at the end. */
export const FIRMWARE_SIGNATURE_SIZE = 256;
/** DOWNLOAD_FIRMWARE wants images at a multiple of this many bytes. */
export const FIRMWARE_IMAGE_ALIGNMENT = 32;

const SMALLEST = firmwareImageHeader.size + FIRMWARE_SIGNATURE_SIZE;

/** Largest image in bytes: 64 KiB on Naples and Rome (C-bit 47), 128 KiB from Milan on (AMDESE/sev-tool `sevapi.h`). */
const firmwareImageLimit = ({ cbitPosition }: SevGeneration): number => (cbitPosition < 51 ? 0x10000 : 0x20000);

/** Whether an image of so many bytes can be one at all. */
export const isFirmwareImageLength = (length: number, generation: SevGeneration): boolean =>
	length >= SMALLEST && length <= firmwareImageLimit(generation);

/**
 * The version of an image that the holder of `key` signed; else the status that says why not: BAD_SIGNATURE, also for
 * bytes that are no image, INVALID_LENGTH if the image says another length than `image` has.
 */
export function openFirmwareImage(
	provider: CryptoProvider,
	image: Uint8Array,
	key: RsaPublicKey,
): FirmwareVersion | Status {
	const { magic, format, apiMajor, apiMinor, build, length } = firmwareImageHeader.decodePrefix(image);
	const isImage = format === FIRMWARE_IMAGE_FORMAT && magic.every((b, i) => b === FIRMWARE_IMAGE_MAGIC[i]);
	if (!isImage) return Status.BAD_SIGNATURE;
	if (length !== image.length) return Status.INVALID_LENGTH;
	const end = length - FIRMWARE_SIGNATURE_SIZE;
	const isSigned = provider.rsaPss.verify(key, image.subarray(0, end), image.slice(end).reverse(), 'sha256');
	return isSigned ? { major: apiMajor, minor: apiMinor, build } : Status.BAD_SIGNATURE;
}
