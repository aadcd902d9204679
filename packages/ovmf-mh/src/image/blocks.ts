import { bytes, guidFromBytes, layout, u32, u64 } from '@cvm/layout';
import { decodeHelperLayout, faultOfLayout, type HelperLayout, helperLayout } from './helper-layout.js';
import { oldResetBlock, type ResetBlock, resetBlockOf } from './reset.js';
import { type FirmwareTable, readFirmwareTable, TableGuid, type TableProblem } from './table.js';

/** A range of guest memory. A base of 0 means that the image does not support what the range is for. */
export interface MemoryRange {
	readonly base: number;
	readonly size: number;
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
	/** Where a mirror vCPU starts that is to be the migration helper. */
	readonly migrationHandler?: number;
	/** PROJECT: of images with our hardened helper. */
	readonly helper?: HelperLayout;
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

/**
 * Reads the table and every block in it that is known. Of two entries with one GUID the first visited counts, as in QEMU.
 *
 * DEVIATION(QEMU 7.2 target/i386/sev.c): QEMU does not look at the length of the data that it finds; here other lengths are malformed.
 */
export function readFirmwareBlocks(image: Uint8Array): FirmwareBlocks {
	const table = readFirmwareTable(image);
	const problems: TableProblem[] = table.problem ? [table.problem] : [];

	const block = <T>(guid: string, size: number, read: (data: Uint8Array, at: number) => T) => {
		const entry = table.entries.find((e) => e.guid === guid);
		if (!entry) return undefined;
		try {
			if (entry.data.length !== size) {
				throw new Malformed(entry.offset, `data of ${guid}`, `${size} bytes`, entry.data.length);
			}
			return read(entry.data, entry.offset);
		} catch (error) {
			if (!(error instanceof Malformed)) throw error;
			problems.push({ offset: error.offset, message: error.message });
			return undefined;
		}
	};
	const rangeOf = (guid: string) => block(guid, 8, (data) => range.decode(data));
	const wordOf = (guid: string) => block(guid, 4, (data) => word.decode(data).value);
	const metadata = <T>(guid: string, signature: string, section: SectionLayout<T>, check?: (at: number) => void) =>
		block(guid, 4, (data, offset) => {
			const distance = word.decode(data).value;
			const at = image.length - distance;
			if (at < 0 || distance < header.size) {
				const expected = `a place inside the image, ${header.size} to ${image.length} bytes before its end`;
				throw new Malformed(offset, `distance of ${signature}`, expected, distance);
			}
			const sections = sectionsOf(image, at, signature, section);
			check?.(at);
			return sections;
		});
	const checkTdvf = (at: number) => {
		const guid = at >= 16 ? guidFromBytes(image.subarray(at - 16, at)) : 'nothing';
		if (guid !== TDVF_GUID) throw new Malformed(Math.max(0, at - 16), 'GUID before TDVF', TDVF_GUID, guid);
	};

	const address = wordOf(TableGuid.resetBlock);
	const found = {
		resetBlock: address === undefined ? oldResetBlock(image) : resetBlockOf(address),
		secretBlock: rangeOf(TableGuid.secretBlock),
		hashBlock: rangeOf(TableGuid.hashBlock),
		migrationHandler: wordOf(TableGuid.migrationHandler),
		helper: block(TableGuid.helperLayout, helperLayout.size, (data, at) => {
			const fault = faultOfLayout(data);
			if (fault) throw new Malformed(at + fault.at, `helper layout, ${fault.field}`, fault.expected, fault.got);
			return decodeHelperLayout(data);
		}),
		sevSections: metadata(TableGuid.sevMetadata, 'ASEV', sevSection),
		tdxSections: metadata(TableGuid.tdxMetadata, 'TDVF', tdxSection, checkTdvf),
		igvmSections: metadata(TableGuid.igvmMetadata, 'IGVM', igvmSection),
	};
	const present = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
	return { table, problems, ...present };
}
