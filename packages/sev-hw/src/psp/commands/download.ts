import type { Infer } from '@cvm/layout';
import type { downloadFirmwareBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { FIRMWARE_IMAGE_ALIGNMENT, isFirmwareImageLength, openFirmwareImage } from '../firmware-image.js';
import type { PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';

/**
 * SEV API 0.24 DOWNLOAD_FIRMWARE, with images of our own (`../firmware-image.ts`): the platform has the image's version from
 * now on, until the machine is powered off. Certificates that were made before keep theirs.
 *
 * UNCERTAIN(SEV API 0.24 DOWNLOAD_FIRMWARE): whether an older version is refused is not public; this model takes every signed
 * image.
 */
export const downloadFirmware: PlatformHandler<Infer<typeof downloadFirmwareBuffer>> = (psp, { fwPaddr, fwLen }) => {
	if (fwPaddr % BigInt(FIRMWARE_IMAGE_ALIGNMENT) !== 0n) return refuse(Status.INVALID_ADDRESS);
	if (!isFirmwareImageLength(fwLen, psp.generation)) return refuse(Status.INVALID_LENGTH);
	const at = psp.memory.resolveLong(fwPaddr, fwLen);
	if (at < 0) return refuse(Status.INVALID_ADDRESS);
	const version = openFirmwareImage(psp.provider, psp.memory.read(at, fwLen), psp.firmwareKey);
	if (typeof version === 'number') return refuse(version);
	psp.version = version;
	return OK;
};
