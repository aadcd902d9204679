/**
 * OVMF firmware images: the GUIDed table that tells a VMM where secrets, hashes and reset addresses are, and a small
 * synthetic image with such a table.
 *
 * ```ts
 * const { secretBlock } = readFirmwareBlocks(buildFirmwareImage());
 * // { base: 0x80c000, size: 0xc00 }
 * ```
 *
 * @packageDocumentation
 */
export type {
	FirmwareBlocks,
	IgvmSection,
	MemoryRange,
	SevSection,
	TdxSection,
} from './image/blocks.js';
export { readFirmwareBlocks } from './image/blocks.js';
export type { HelperLayout } from './image/helper-layout.js';
export { builtInHelperLayout, helperLayoutEntry, rangesOfLayout } from './image/helper-layout.js';
export type { FirmwareImageOptions } from './image/image.js';
export { buildFirmwareImage, HASH_AREA, SECRET_AREA } from './image/image.js';
export type { DirectBoot, HashTablePlace } from './image/kernel-hashes.js';
export {
	buildHashTable,
	directBootHashes,
	HASH_TABLE_SIZE,
	HashGuid,
	hashPage,
	hashTablePlace,
} from './image/kernel-hashes.js';
export type {
	Discovered,
	DiscoveredHelper,
	MigrationBlockForm,
	MigrationBlockFound,
} from './image/migration-block.js';
export {
	discoverHelper,
	findMigrationBlock,
	migrationBlock,
	publishedMigrationTable,
} from './image/migration-block.js';
export type { ResetBlock, ResetVector, ResetVectorKind } from './image/reset.js';
export { placeOldResetBlock, readResetVector } from './image/reset.js';
export type { SecretLocation } from './image/secret-area.js';
export { SECRET_AREAS, SECRET_LOCATION_GUID, SECRET_RESERVATIONS, secretLocation } from './image/secret-area.js';
export type { GuestSecret, GuestSecrets } from './image/secret-table.js';
export { findGuestSecret, GUEST_SECRETS_GUID, readGuestSecrets } from './image/secret-table.js';
export type { FirmwareTable, NewTableEntry, TableEntry, TableProblem } from './image/table.js';
export {
	buildFirmwareTable,
	placeFirmwareTable,
	readFirmwareTable,
	TableGuid,
	tableEntryName,
} from './image/table.js';
export type { BlobVerdict, VerifierOptions } from './image/verify-blob.js';
export { verifyBlob } from './image/verify-blob.js';
export type { FirmwareVolume } from './image/volumes.js';
export { readVolumes } from './image/volumes.js';
export { encodeMigrationSecret, MIGRATION_SECRET_GUID, migrationSecret } from './session/secret.js';
