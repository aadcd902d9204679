import { toHex } from '@cvm/layout';
import { type FirmwareBlocks, type MemoryRange, tableEntryName } from '@cvm/ovmf-mh';
import { hex, plural, printable, size as sizeText, table as tableText } from '../stream/text.js';
import type { BootFacts, ImageFacts } from './facts.js';
import { igvmSectionName, sevSectionName, tdxSectionName } from './names.js';

/** What `cvm ovmf inspect` prints for people. */
export function factsLines(file: string, facts: ImageFacts): string[] {
	const { size, vector, launch, boot, warnings, blocks } = facts;
	const place = facts.isVariableStore ? '' : `, mapped from ${hex(2 ** 32 - size)} to 0xffffffff`;
	return [
		`${printable(file)}: ${size} bytes (${sizeText(size)})${place}`,
		...(vector ? [`reset vector: ${toHex(vector.bytes)} at ${hex(vector.offset)}`, `  ${vector.meaning}`] : []),
		...tableLines(facts),
		...blockLines(facts),
		...sections('SEV metadata', ['gpa', 'size', 'type', ''], sevRows(blocks)),
		...sections('TDX metadata', ['gpa', 'size', 'file', 'bytes', 'type', ''], tdxRows(blocks)),
		...sections('IGVM metadata', ['gpa', 'size', 'id', ''], igvmRows(blocks)),
		...sections(
			'firmware volumes',
			['offset', 'length', ''],
			facts.volumes.map((v) => [hex(v.offset), hex(v.length), v.kind]),
		),
		...(facts.isVariableStore
			? []
			: [
					'launch:',
					`  LAUNCH_UPDATE_DATA over the whole file, ${size} bytes`,
					`  launch digest, with nothing else: ${toHex(launch.digest)}`,
				]),
		...(boot ? bootLines(boot) : []),
		...warnings.map((warning) => `warning: ${warning}`),
	];
}

const indented = (lines: readonly string[]) => lines.map((line) => `  ${line}`);

function sections(title: string, head: readonly string[], rows: readonly (readonly string[])[] | undefined): string[] {
	if (!rows || rows.length === 0) return rows && title !== 'firmware volumes' ? [`${title}: no sections`] : [];
	return [`${title}:`, ...indented(tableText([head, ...rows], [head.length - 1]))];
}

function tableLines({ size, blocks: { table } }: ImageFacts): string[] {
	if (!table.present) return ['table: none'];
	const rows = table.entries.map(({ offset, length, guid, data }) => [
		hex(offset),
		`${length}`,
		guid,
		tableEntryName(guid) ?? 'unknown',
		data.length > 8 ? `${data.length} bytes` : toHex(data),
	]);
	return [
		`table: footer at ${hex(size - 0x30)}, ${plural(table.totalLength, 'byte')}, ${plural(rows.length, 'entry', 'entries')}`,
		...(rows.length === 0
			? []
			: indented(tableText([['offset', 'length', 'GUID', 'name', 'data'], ...rows], [2, 3, 4]))),
		...(table.problem ? [`  stops: ${table.problem.message}`] : []),
	];
}

function areaText(area: MemoryRange | undefined): string {
	if (!area) return 'unsupported (no entry)';
	if (area.base === 0) return 'unsupported (base 0)';
	return `${hex(area.base)}, ${area.size} bytes`;
}

function blockLines({ blocks, migration, helper, isVariableStore }: ImageFacts): string[] {
	if (isVariableStore) return [];
	const { resetBlock, secretBlock, hashBlock } = blocks;
	const reset =
		resetBlock && `${hex(resetBlock.address)} (CS base ${hex(resetBlock.csBase)}, IP ${hex(resetBlock.ip)})`;
	const forms = {
		absent: 'no entry',
		corrected: `${hex(migration.address ?? 0)}`,
		asPosted: `${hex(migration.address ?? 0)}, entry malformed as posted`,
		lengthAsPosted: `${hex(migration.address ?? 0)}, length malformed as posted`,
		guidAsPosted: `${hex(migration.address ?? 0)}, GUID malformed as posted`,
	};
	const { layout, layoutFrom } = helper;
	return [
		`SEV-ES processors start at: ${reset ?? 'unsupported (no entry)'}`,
		`launch secrets: ${areaText(secretBlock)}`,
		`kernel hashes: ${areaText(hashBlock)}`,
		`migration handler: ${forms[migration.form]}`,
		...(layoutFrom === 'table'
			? [
					`hardened helper: mailbox ${hex(layout.mailbox)}, private ${hex(layout.private)} to ${hex(layout.privateEnd)}, ` +
						`windows ${hex(layout.windows)} to ${hex(layout.windowsEnd)} for ${plural(layout.maxHelpers, 'helper')}`,
				]
			: []),
	];
}

const sevRows = ({ sevSections }: FirmwareBlocks) =>
	sevSections?.map((s) => [hex(s.gpa), hex(s.size), hex(s.type), sevSectionName(s.type)]);
const tdxRows = ({ tdxSections }: FirmwareBlocks) =>
	tdxSections?.map((s) => [
		hex(s.gpa),
		hex(s.memorySize),
		hex(s.rawOffset),
		hex(s.rawSize),
		hex(s.type),
		`${tdxSectionName(s.type)}${s.attributes === 0 ? '' : `, attributes ${hex(s.attributes)}`}`,
	]);
const igvmRows = ({ igvmSections }: FirmwareBlocks) =>
	igvmSections?.map((s) => [hex(s.gpa), hex(s.size), hex(s.id), igvmSectionName(s.id)]);

function bootLines({ hashes, table, place, digest, page }: BootFacts): string[] {
	const rows = Array.from({ length: table.length / 16 }, (_, i) => [
		hex(i * 16),
		toHex(table.subarray(i * 16, i * 16 + 16)),
	]);
	return [
		'kernel hashes (SHA-256):',
		`  command line and NUL: ${toHex(hashes.cmdline)}`,
		`  initial RAM disk: ${toHex(hashes.initrd)}`,
		`  kernel: ${toHex(hashes.kernel)}`,
		place.ok ? `  table for ${hex(place.area.base)}:` : `  table, which QEMU does not write: ${place.reason}`,
		...indented(indented(tableText(rows))),
		...(digest ? [`  launch digest, of file and table: ${toHex(digest)}`] : []),
		...(page ? [`  page at ${hex(page.gpa)} for SEV-SNP, SHA-256: ${toHex(page.sha256)}`] : []),
	];
}
