import { bytes, guidFromBytes, layout, u16, u32, u64 } from '@cvm/layout';
import { type FirmwareTable, FOOTER_FROM_END, readFirmwareTable, TableGuid, type TableProblem } from './table.js';

/** A range of guest memory. A base of 0 means that the image does not support what the range is for. */
export interface MemoryRange {
	readonly base: number;
	readonly size: number;
}

/** Where SEV-ES application processors start. */
export interface ResetBlock {
	readonly address: number;
	/** CS base of a processor reset there. */
	readonly csBase: number;
	readonly ip: number;
}

/** A page range with a meaning before launch. Types: 1 pre-validate, 2 secrets, 3 CPUID, 4 SVSM calling area, 0x10 kernel hashes. */
export interface SevSection {
	readonly gpa: number;
	readonly size: number;
	readonly type: number;
}

/** A range that a TDX virtual machine monitor adds. */
export interface TdxSection {
	readonly rawOffset: number;
	readonly rawSize: number;
	readonly gpa: bigint;
	readonly memorySize: bigint;
	readonly type: number;
	readonly attributes: number;
}

/** An IGVM parameter: 0x100 parameter area, 0x101 memory map, 0x102 VP count, 0x200 HOB area. */
export interface IgvmSection {
	readonly gpa: number;
	readonly size: number;
	readonly id: number;
}

/** What an image says about itself. Blocks that are absent are left out; those that are malformed are left out and reported. */
export interface FirmwareBlocks {
	readonly table: FirmwareTable;
	readonly resetBlock?: ResetBlock;
	readonly secretBlock?: MemoryRange;
	readonly hashBlock?: MemoryRange;
	readonly migrationHandler?: number;
	readonly sevSections?: readonly SevSection[];
	readonly tdxSections?: readonly TdxSection[];
	readonly igvmSections?: readonly IgvmSection[];
	readonly problems: readonly TableProblem[];
}

const range = layout('SevBlock', 8, { base: u32(0), size: u32(4) });
const word = layout('Address', 4, { value: u32(0) });
const header = layout('MetadataHeader', 16, {
	signature: bytes(0, 4),
	length: u32(4),
	version: u32(8),
	count: u32(12),
});
const sevSection = layout('SevMetadataSection', 12, { gpa: u32(0), size: u32(4), type: u32(8) });
const tdxSection = layout('TdxMetadataSection', 32, {
	rawOffset: u32(0),
	rawSize: u32(4),
	gpa: u64(8),
	memorySize: u64(16),
	type: u32(24),
	attributes: u32(28),
});
const igvmSection = layout('IgvmMetadataSection', 12, { gpa: u32(0), size: u32(4), id: u32(8) });
const oldReset = layout('OldResetBlock', 22, { address: u32(0), length: u16(4), guid: bytes(6, 16) });

/** Stands in the 16 bytes before a TDVF descriptor. */
const TDVF_GUID = 'e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae';
const hex = (n: number) => `0x${n.toString(16)}`;

/** Thrown inside this file only; becomes an entry of `problems`. */
class Malformed extends Error {
	override readonly name = 'Malformed';
	readonly offset: number;

	constructor(offset: number, what: string, expected: string, got: string | number) {
		super(`${what} at ${hex(offset)}: expected ${expected}, got ${got}`);
		this.offset = offset;
	}
}

interface SectionLayout<T> {
	readonly size: number;
	decodePrefix(data: Uint8Array): T;
}

function sectionsOf<T>(image: Uint8Array, at: number, signature: string, section: SectionLayout<T>): readonly T[] {
	if (at < 0 || at + header.size > image.length)
		throw new Malformed(at, signature, 'a place inside the image', hex(at));
	const head = header.decodePrefix(image.subarray(at));
	const found = String.fromCharCode(...head.signature);
	if (found !== signature) throw new Malformed(at, `${signature} signature`, signature, JSON.stringify(found));
	if (head.version !== 1) throw new Malformed(at + 8, `${signature} version`, '1', head.version);
	const length = header.size + head.count * section.size;
	if (head.length !== length || at + length > image.length) {
		throw new Malformed(
			at + 4,
			`${signature} length`,
			`${length} for ${head.count} sections, inside the image`,
			head.length,
		);
	}
	return Array.from({ length: head.count }, (_, i) =>
		section.decodePrefix(image.subarray(at + header.size + i * section.size)),
	);
}

const resetBlockOf = (address: number): ResetBlock => ({
	address,
	csBase: (address & 0xffff0000) >>> 0,
	ip: address & 0xffff,
});

/** Images older than the table carry the reset block alone, in the footer's place (qemu 7.2 target/i386/sev.c). */
function oldResetBlock(image: Uint8Array): ResetBlock | undefined {
	if (image.length < 4096) return undefined;
	const at = image.length - FOOTER_FROM_END - 6;
	const block = oldReset.decodePrefix(image.subarray(at));
	if (guidFromBytes(block.guid) !== TableGuid.resetBlock || block.length !== oldReset.size) return undefined;
	return resetBlockOf(block.address);
}

/** Reads the table and every block in it that is known. Of two entries with one GUID the first visited counts, as in QEMU. */
export function readFirmwareBlocks(image: Uint8Array): FirmwareBlocks {
	const table = readFirmwareTable(image);
	const problems: TableProblem[] = table.problem ? [table.problem] : [];

	const block = <T>(guid: string, size: number, read: (data: Uint8Array) => T): T | undefined => {
		const entry = table.entries.find((e) => e.guid === guid);
		if (!entry) return undefined;
		try {
			if (entry.data.length !== size) {
				throw new Malformed(entry.offset, `data of ${guid}`, `${size} bytes`, entry.data.length);
			}
			return read(entry.data);
		} catch (error) {
			if (!(error instanceof Malformed)) throw error;
			problems.push({ offset: error.offset, message: error.message });
			return undefined;
		}
	};
	const rangeOf = (guid: string) => block(guid, 8, (data) => range.decode(data));
	const wordOf = (guid: string) => block(guid, 4, (data) => word.decode(data).value);
	const metadata = <T>(guid: string, signature: string, section: SectionLayout<T>, check?: (at: number) => void) =>
		block(guid, 4, (data) => {
			const at = image.length - word.decode(data).value;
			const sections = sectionsOf(image, at, signature, section);
			check?.(at);
			return sections;
		});
	const checkTdvf = (at: number) => {
		const guid = at >= 16 ? guidFromBytes(image.subarray(at - 16, at)) : 'nothing';
		if (guid !== TDVF_GUID) throw new Malformed(at - 16, 'GUID before TDVF', TDVF_GUID, guid);
	};

	const address = wordOf(TableGuid.resetBlock);
	const found = {
		resetBlock: address === undefined ? oldResetBlock(image) : resetBlockOf(address),
		secretBlock: rangeOf(TableGuid.secretBlock),
		hashBlock: rangeOf(TableGuid.hashBlock),
		migrationHandler: wordOf(TableGuid.migrationHandler),
		sevSections: metadata(TableGuid.sevMetadata, 'ASEV', sevSection),
		tdxSections: metadata(TableGuid.tdxMetadata, 'TDVF', tdxSection, checkTdvf),
		igvmSections: metadata(TableGuid.igvmMetadata, 'IGVM', igvmSection),
	};
	const present = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
	return { table, problems, ...present };
}
