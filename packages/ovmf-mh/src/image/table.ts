import { guidFromBytes, guidToBytes } from '@cvm/layout';

/** GUIDs of the table that ends 32 bytes before the end of an OVMF image (edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm). */
export const TableGuid = {
	footer: '96b582de-1fb2-45f7-baea-a366c55a082d',
	/** SEV-ES: where application processors start. */
	resetBlock: '00f771de-1a7e-4fcb-890e-68c77e2fb44e',
	/** SEV: where launch secrets are placed. */
	secretBlock: '4c2eb361-7d9b-4cc3-8081-127c90d3d294',
	/** SEV: where the hashes of kernel, initrd and command line are placed. */
	hashBlock: '7255371f-3a3b-4b04-927b-1da6efa8d454',
	sevMetadata: 'dc886566-984a-4798-a75e-5585a7bf67cc',
	tdxMetadata: 'e47a6535-984a-4798-865e-4685a7bf8ec2',
	igvmMetadata: '784fa70e-3176-4677-8a20-04b68699e374',
	/** Migration handler entry point, as its authors meant it (edk2-devel, August 2021). */
	migrationHandler: '5c7db037-ab87-4282-b33c-7894f01471ec',
	/** What its bytes decode to as they were posted: the first field is most significant byte first. */
	migrationHandlerAsPosted: '37b07d5c-ab87-4282-b33c-7894f01471ec',
	/** PROJECT: where our hardened migration helper has its memory. */
	helperLayout: '8ecb5485-ca1e-41aa-b12e-936d1b1209f4',
} as const;
export type TableGuid = (typeof TableGuid)[keyof typeof TableGuid];

/** What people call the entry with this GUID; `undefined` for one that is not known. */
export const tableEntryName = (guid: string): string | undefined => NAMES.get(guid);
const NAMES: ReadonlyMap<string, string> = new Map([
	[TableGuid.footer, 'table footer'],
	[TableGuid.resetBlock, 'SEV-ES reset block'],
	[TableGuid.secretBlock, 'SEV secret block'],
	[TableGuid.hashBlock, 'SEV hash table block'],
	[TableGuid.sevMetadata, 'SEV metadata offset'],
	[TableGuid.tdxMetadata, 'TDX metadata offset'],
	[TableGuid.igvmMetadata, 'IGVM metadata offset'],
	[TableGuid.migrationHandler, 'migration handler entry'],
	[TableGuid.migrationHandlerAsPosted, 'migration handler entry, GUID as posted'],
	[TableGuid.helperLayout, 'hardened helper layout'],
]);

/** Distance of the footer GUID from the end of an image. */
export const FOOTER_FROM_END = 0x30;
/** Bytes of an entry besides its data: the length and the GUID. */
const ENTRY_OVERHEAD = 18;
const GUID_SIZE = 16;
const TABLE_END_FROM_END = 0x20;

/** One entry of the table, as found. */
export interface TableEntry {
	readonly guid: string;
	/** File offset of the data. */
	readonly offset: number;
	/** The length field: data and {@link ENTRY_OVERHEAD}. */
	readonly length: number;
	readonly data: Uint8Array;
}

/** Something that a reader of the image gives up at. */
export interface TableProblem {
	/** File offset of the bytes at fault. */
	readonly offset: number;
	readonly message: string;
}

/** The table of an image. Entries are in walk order: the last in memory comes first. */
export interface FirmwareTable {
	/** Whether the footer GUID is where it must be. */
	readonly present: boolean;
	/** The total length field, or 0. */
	readonly totalLength: number;
	readonly entries: readonly TableEntry[];
	/** Where the walk stopped early; entries below that are unreachable to QEMU. */
	readonly problem?: TableProblem;
}

const u16At = (data: Uint8Array, at: number) => (data[at] ?? 0) | ((data[at + 1] ?? 0) << 8);
const guidAt = (data: Uint8Array, at: number) => guidFromBytes(data.subarray(at, at + GUID_SIZE));
const hex = (n: number) => `0x${n.toString(16)}`;

function emptyTable(problem?: TableProblem): FirmwareTable {
	return { present: false, totalLength: 0, entries: [], ...(problem ? { problem } : {}) };
}

/**
 * Walks the table exactly as QEMU does (qemu 7.2 hw/i386/pc_sysfw_ovmf.c): images smaller than 4 KiB and images without
 * the footer have no table, which is no error; a length that does not fit stops the walk.
 */
export function readFirmwareTable(image: Uint8Array): FirmwareTable {
	if (image.length < 4096) return emptyTable();
	const footer = image.length - FOOTER_FROM_END;
	if (guidAt(image, footer) !== TableGuid.footer) return emptyTable();
	const lengthAt = footer - 2;
	const totalLength = u16At(image, lengthAt);
	const remaining = totalLength - ENTRY_OVERHEAD;
	if (remaining < 0 || remaining > lengthAt) {
		const message = `table length at ${hex(lengthAt)}: expected ${ENTRY_OVERHEAD} to ${lengthAt + ENTRY_OVERHEAD}, got ${totalLength}`;
		return { ...emptyTable({ offset: lengthAt, message }), present: true, totalLength };
	}
	return { present: true, totalLength, ...walk(image, lengthAt, remaining) };
}

/** Entries below `cursor`, of which there are `remaining` bytes: at most as many as there are bytes below it. */
function walk(image: Uint8Array, from: number, length: number): Pick<FirmwareTable, 'entries' | 'problem'> {
	const entries: TableEntry[] = [];
	let cursor = from;
	let remaining = length;
	while (remaining >= ENTRY_OVERHEAD) {
		const entryLength = u16At(image, cursor - ENTRY_OVERHEAD);
		if (entryLength < ENTRY_OVERHEAD || entryLength > remaining) {
			const offset = cursor - ENTRY_OVERHEAD;
			const message = `entry length at ${hex(offset)}: expected ${ENTRY_OVERHEAD} to ${remaining}, got ${entryLength}`;
			return { entries, problem: { offset, message } };
		}
		const offset = cursor - entryLength;
		const data = image.slice(offset, offset + entryLength - ENTRY_OVERHEAD);
		entries.push({ guid: guidAt(image, cursor - GUID_SIZE), offset, length: entryLength, data });
		cursor -= entryLength;
		remaining -= entryLength;
	}
	return { entries };
}

/**
 * What the walk would have found below the entry that stopped it, had that entry been `length` bytes long. For people who
 * want to know what a broken entry hides; no VMM reads on.
 */
export function entriesBehindProblem(image: Uint8Array, table: FirmwareTable, length: number): readonly TableEntry[] {
	const used = table.entries.reduce((sum, entry) => sum + entry.length, ENTRY_OVERHEAD);
	const cursor = image.length - TABLE_END_FROM_END - used - length;
	const remaining = table.totalLength - used - length;
	// A table that is refused as a whole has no place to go on from.
	if (table.problem?.offset !== cursor + length - ENTRY_OVERHEAD || remaining > cursor) return [];
	return walk(image, cursor, remaining).entries;
}

/** An entry to be built. */
export interface NewTableEntry {
	readonly guid: string;
	readonly data: Uint8Array;
	/** What stands in the place of the length and the GUID: for a table that is wrong on purpose. */
	readonly raw?: { readonly length: number; readonly guid: Uint8Array };
}

/**
 * The bytes of a table with its footer, for the place that ends 32 bytes before the end of an image. The entry given first is
 * the first that readers visit, so it stands last in memory.
 *
 * @throws RangeError if the table does not fit its 16-bit length
 */
export function buildFirmwareTable(entries: readonly NewTableEntry[]): Uint8Array {
	const lengths = entries.map((e) => e.data.length + ENTRY_OVERHEAD);
	const total = lengths.reduce((a, b) => a + b, ENTRY_OVERHEAD);
	if (total > 0xffff) throw new RangeError(`firmware table: expected at most 65535 bytes, got ${total}`);
	const out = new Uint8Array(total);
	let end = total;
	const put = (data: Uint8Array, length: number, guid: Uint8Array) => {
		out.set(guid, end - GUID_SIZE);
		out[end - ENTRY_OVERHEAD] = length & 0xff;
		out[end - ENTRY_OVERHEAD + 1] = length >> 8;
		out.set(data, end - ENTRY_OVERHEAD - data.length);
		end -= ENTRY_OVERHEAD + data.length;
	};
	put(new Uint8Array(0), total, guidToBytes(TableGuid.footer));
	entries.forEach(({ data, guid, raw }, i) => {
		put(data, raw?.length ?? lengths[i] ?? 0, raw?.guid ?? guidToBytes(guid));
	});
	return out;
}

/**
 * Writes a table where readers look for it.
 *
 * @throws RangeError if the image is too small for it
 */
export function placeFirmwareTable(image: Uint8Array, table: Uint8Array): void {
	const at = image.length - TABLE_END_FROM_END - table.length;
	if (at < 0) throw new RangeError(`firmware image: expected at least ${table.length + 32} bytes, got ${image.length}`);
	image.set(table, at);
}
