import { guidToBytes } from '@cvm/layout';
import { PublishedGeometry } from '../geometry.js';
import { readFirmwareBlocks } from './blocks.js';
import { builtInHelperLayout, type HelperLayout } from './helper-layout.js';
import {
	buildFirmwareTable,
	entriesBehindProblem,
	type FirmwareTable,
	type NewTableEntry,
	readFirmwareTable,
	type TableEntry,
	TableGuid,
	type TableProblem,
} from './table.js';

/** The migration handler's table entry as its authors posted it, and as they meant it. */
export type MigrationBlockForm = 'asPosted' | 'corrected';

const LENGTH = 22;
/** The length was assembled as start − end: −22 as a u16. */
const POSTED_LENGTH = 0x10000 - LENGTH;

const le32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);

/**
 * The entry that tells where a migration handler starts (edk2 branch sev-mirror2-patches, August 2021,
 * `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`). As posted its length is −22 and the first field of its GUID is most significant
 * byte first: the walk of a VMM stops at it, so that neither it nor any entry below is ever found.
 */
export function migrationBlock(form: MigrationBlockForm, address: number = PublishedGeometry.entry): NewTableEntry {
	const guid = TableGuid.migrationHandler;
	const entry = { guid, data: le32(address) };
	if (form === 'corrected') return entry;
	return { ...entry, raw: { length: POSTED_LENGTH, guid: guidToBytes(TableGuid.migrationHandlerAsPosted) } };
}

/** The whole table of that series, 114 bytes: its AmdSev build's addresses. */
export const publishedMigrationTable = (form: MigrationBlockForm): Uint8Array =>
	buildFirmwareTable([
		{ guid: TableGuid.resetBlock, data: le32(0x80b000) },
		migrationBlock(form),
		{ guid: TableGuid.secretBlock, data: le32(0x80c000, 0xc00) },
		{ guid: TableGuid.hashBlock, data: le32(0x80cc00, 0x400) },
	]);

/** What {@link findMigrationBlock} finds. */
export interface MigrationBlockFound {
	/** `lengthAsPosted`, `guidAsPosted`: one mistake of the two was corrected. */
	readonly form: MigrationBlockForm | 'lengthAsPosted' | 'guidAsPosted' | 'absent';
	/** File offset of the entry's data. */
	readonly offset?: number;
	readonly address?: number;
	/** Entries that a VMM does not find because the walk stops here. */
	readonly hidden: readonly TableEntry[];
}

/** Finds the migration handler's entry in whichever form, for people; a VMM finds the corrected form alone. */
export function findMigrationBlock(
	image: Uint8Array,
	table: FirmwareTable = readFirmwareTable(image),
): MigrationBlockFound {
	const wordAt = (offset: number) =>
		new DataView(image.buffer, image.byteOffset, image.byteLength).getUint32(offset, true);
	for (const [guid, form] of [
		[TableGuid.migrationHandler, 'corrected'],
		[TableGuid.migrationHandlerAsPosted, 'guidAsPosted'],
	] as const) {
		const entry = table.entries.find((e) => e.guid === guid && e.length === LENGTH);
		if (entry) return { form, offset: entry.offset, address: wordAt(entry.offset), hidden: [] };
	}
	const at = table.problem?.offset ?? -1;
	const offset = at - 4;
	if (offset < 0 || at + 18 > image.length || (image[at] ?? 0) + (image[at + 1] ?? 0) * 256 !== POSTED_LENGTH) {
		return { form: 'absent', hidden: [] };
	}
	const is = (guid: string) => guidToBytes(guid).every((byte, i) => image[at + 2 + i] === byte);
	const isPosted = is(TableGuid.migrationHandlerAsPosted);
	if (!isPosted && !is(TableGuid.migrationHandler)) return { form: 'absent', hidden: [] };
	return {
		form: isPosted ? 'asPosted' : 'lengthAsPosted',
		offset,
		address: wordAt(offset),
		hidden: entriesBehindProblem(image, table, LENGTH),
	};
}

/** Where a VMM has a value from: the image's table, or the numbers that it was built with. */
export type Discovered = 'table' | 'built-in';

/** What a VMM needs to know to run migration helpers. */
export interface DiscoveredHelper {
	/** Where a mirror vCPU starts. */
	readonly entry: number;
	readonly entryFrom: Discovered;
	readonly layout: HelperLayout;
	readonly layoutFrom: Discovered;
	/** Something in the image that could not be taken: what follows from the built-in numbers may be wrong for it. */
	readonly problem?: TableProblem;
}

/**
 * Where a VMM finds the migration helper of an image. Without the entries (every image but ours, and as posted) the numbers are
 * those that the published VMM has hard-coded. QEMU v2 patch 8/12 looks nothing up.
 */
export function discoverHelper(image: Uint8Array | undefined): DiscoveredHelper {
	const blocks = image && readFirmwareBlocks(image);
	const [problem] = blocks?.problems ?? [];
	return {
		entry: blocks?.migrationHandler ?? PublishedGeometry.entry,
		entryFrom: blocks?.migrationHandler === undefined ? 'built-in' : 'table',
		layout: blocks?.helper ?? builtInHelperLayout(),
		layoutFrom: blocks?.helper ? 'table' : 'built-in',
		...(problem && { problem }),
	};
}
