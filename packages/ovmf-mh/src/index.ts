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
	ResetBlock,
	SevSection,
	TdxSection,
} from './blocks.js';
export { readFirmwareBlocks } from './blocks.js';
export type { FirmwareImageOptions } from './image.js';
export { buildFirmwareImage, HASH_AREA, SECRET_AREA } from './image.js';
export type { FirmwareTable, NewTableEntry, TableEntry, TableProblem } from './table.js';
export { buildFirmwareTable, placeFirmwareTable, readFirmwareTable, TableGuid } from './table.js';
