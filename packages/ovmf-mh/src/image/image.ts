import { isAligned, PAGE_SIZE } from '@cvm/layout';
import { helperLayoutEntry } from './helper-layout.js';
import { type MigrationBlockForm, migrationBlock } from './migration-block.js';
import { buildFirmwareTable, placeFirmwareTable, TableGuid } from './table.js';

/** What a {@link buildFirmwareImage} may differ in. */
export interface FirmwareImageOptions {
	/** Bytes: a multiple of 4 KiB, from 64 KiB to 4 MiB. Default 128 KiB. */
	readonly size?: number;
	/** The entry of the migration helper: as posted it hides the secret and hash areas from a VMM. Default `corrected`. */
	readonly migrationHandler?: MigrationBlockForm | 'none';
	/** PROJECT: whether the table tells where the hardened helper has its memory. Default: if it has that entry. */
	readonly helperLayout?: boolean;
}

/** Where launch secrets go in our image: 3 KiB of the page that holds the hash table in its last 1 KiB. */
export const SECRET_AREA = { base: 0x80c000, size: 0xc00 } as const;
/** Where the hashes of a directly booted kernel go in our image. */
export const HASH_AREA = { base: 0x80cc00, size: 0x400 } as const;
/** Where our image says that SEV-ES application processors start. */
export const RESET_ADDRESS = 0x80b004;

const TEXT = [
	'MODEL FIRMWARE, NOT EXECUTABLE.',
	'This image stands for an OVMF build in a model of confidential virtual machines.',
	'It is mapped below 4 GiB and measured like one; the model runs the boot steps themselves.',
	'Executed for real, its reset vector halts.',
	'',
].join('\r\n');

const le32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);

/**
 * A small synthetic firmware image: real bytes with a real GUIDed table, the same for the same options.
 *
 * @throws RangeError if the size is not a multiple of 4 KiB from 64 KiB to 4 MiB
 */
export function buildFirmwareImage({
	size = 128 * 1024,
	migrationHandler = 'corrected',
	helperLayout = migrationHandler !== 'none',
}: FirmwareImageOptions = {}): Uint8Array {
	if (!isAligned(size, PAGE_SIZE) || size < 0x10000 || size > 0x400000) {
		throw new RangeError(`firmware image: expected a multiple of 4096 from 65536 to 4194304 bytes, got ${size}`);
	}
	const image = new Uint8Array(size).fill(0xff);
	image.set(Uint8Array.from(TEXT, (c) => c.charCodeAt(0)));
	const table = buildFirmwareTable([
		{ guid: TableGuid.resetBlock, data: le32(RESET_ADDRESS) },
		...(migrationHandler === 'none' ? [] : [migrationBlock(migrationHandler)]),
		{ guid: TableGuid.secretBlock, data: le32(SECRET_AREA.base, SECRET_AREA.size) },
		{ guid: TableGuid.hashBlock, data: le32(HASH_AREA.base, HASH_AREA.size) },
		...(helperLayout ? [helperLayoutEntry()] : []),
	]);
	placeFirmwareTable(image, table);
	// 32 bytes after the table: "VTF" as in OVMF, then the reset vector: cli; hlt; jump back to hlt.
	image.fill(0, size - 0x20);
	image.set([0x56, 0x54, 0x46, 0x00], size - 0x14);
	image.set([0xfa, 0xf4, 0xeb, 0xfd], size - 0x10);
	return image;
}
