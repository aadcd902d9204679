import { bytes, guidFromBytes, layout, u8, u16, u32, u64 } from '@cvm/layout';

/** Head of a firmware volume (UEFI PI 1.7 volume 3, §3.2.1). */
const volumeHeader = layout('EFI_FIRMWARE_VOLUME_HEADER', 56, {
	zeroVector: bytes(0, 16),
	fileSystem: bytes(16, 16),
	length: u64(32),
	signature: bytes(40, 4),
	attributes: u32(44),
	headerLength: u16(48),
	checksum: u16(50),
	extHeaderOffset: u16(52),
	reserved: u8(54),
	revision: u8(55),
});

const KINDS: ReadonlyMap<string, string> = new Map([
	['8c8ce578-8a3d-4f1c-9935-896185c32dd3', 'files (FFS2)'],
	['5473c07a-3dcb-4dca-bd6f-1e9689e7349a', 'files (FFS3)'],
	['fff12b8d-7696-4c8b-a985-2747075b4f50', 'variables'],
]);

/** A firmware volume. */
export interface FirmwareVolume {
	/** File offset of its header. */
	readonly offset: number;
	readonly length: number;
	readonly fileSystem: string;
	readonly kind: string;
	/** Whether the header's 16-bit sum is 0. */
	readonly checksumOk: boolean;
}

const STEP = 4096;
const SIGNATURE = [0x5f, 0x46, 0x56, 0x48]; // _FVH

/**
 * The firmware volumes of an image, one after the other from its beginning; between them it is searched on page boundaries.
 * A header whose volume does not fit the image is passed over. Contents are not looked into.
 */
export function readVolumes(image: Uint8Array): readonly FirmwareVolume[] {
	const volumes: FirmwareVolume[] = [];
	for (let at = 0; at + volumeHeader.size <= image.length; ) {
		const volume = SIGNATURE.every((byte, i) => image[at + 40 + i] === byte) ? volumeAt(image, at) : undefined;
		if (volume) volumes.push(volume);
		// The next volume begins where this one ends, wherever that is; a length is never below a page here.
		at += volume?.length ?? STEP;
	}
	return volumes;
}

function volumeAt(image: Uint8Array, offset: number): FirmwareVolume | undefined {
	const header = volumeHeader.decodePrefix(image.subarray(offset));
	const length = Number(header.length);
	if (length < STEP || length > image.length - offset) return undefined;
	if (header.headerLength < volumeHeader.size || header.headerLength > length) return undefined;
	let sum = 0;
	for (let i = 0; i < header.headerLength; i += 2) {
		sum = (sum + (image[offset + i] ?? 0) + (image[offset + i + 1] ?? 0) * 256) & 0xffff;
	}
	const fileSystem = guidFromBytes(header.fileSystem);
	const checksumOk = sum === 0 && header.headerLength % 2 === 0;
	return { offset, length, fileSystem, kind: KINDS.get(fileSystem) ?? 'unknown', checksumOk };
}
