import type { CryptoProvider } from '@cvm/crypto';
import type { FirmwareVersion } from '../abi/policy.js';
import { toLittleEndian } from '../certificates/byte-order.js';
import {
	FIRMWARE_IMAGE_FORMAT,
	FIRMWARE_IMAGE_MAGIC,
	FIRMWARE_SIGNATURE_SIZE,
	firmwareImageHeader,
} from '../psp/firmware-image.js';
import { FAKE_ASK_KEY } from './published-keys.js';

/**
 * A firmware image that DOWNLOAD_FIRMWARE takes, signed by the fake signing key: 32 bytes of header, `body`, 256 of
 * signature. The salt is the hash of the signed bytes, so the same image is always the same bytes. At most 64 KiB on
 * Naples and Rome, 128 KiB later; the firmware refuses longer ones.
 *
 * @param version what the platform says it is from then on
 * @param body anything: the firmware of this model does not look at it
 * @throws LayoutError if a version number is not a byte
 */
export function buildFirmwareImage(
	provider: CryptoProvider,
	version: FirmwareVersion,
	body: Uint8Array = new Uint8Array(0),
): Uint8Array {
	const end = firmwareImageHeader.size + body.length;
	const image = new Uint8Array(end + FIRMWARE_SIGNATURE_SIZE);
	firmwareImageHeader.encodeInto(image, {
		magic: FIRMWARE_IMAGE_MAGIC,
		format: FIRMWARE_IMAGE_FORMAT,
		apiMajor: version.major,
		apiMinor: version.minor,
		build: version.build,
		length: image.length,
	});
	image.set(body, firmwareImageHeader.size);
	const signed = image.subarray(0, end);
	const signature = provider.rsaPss.sign(FAKE_ASK_KEY, signed, 'sha256', provider.digest('sha256', signed));
	image.set(toLittleEndian(signature, FIRMWARE_SIGNATURE_SIZE), end);
	return image;
}
