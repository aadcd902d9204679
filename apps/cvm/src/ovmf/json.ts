import { toHex } from '@cvm/layout';
import { type MemoryRange, type TableEntry, tableEntryName } from '@cvm/ovmf-mh';
import { hex } from '../stream/text.js';
import type { BootFacts, ImageFacts } from './facts.js';
import { igvmSectionName, sevSectionName, tdxSectionName } from './names.js';

/** What `--json` prints. Offsets are in the file, addresses in the guest; numbers that need 64 bits are text in hexadecimal. */
export function factsJson(file: string, facts: ImageFacts): object {
	const { size, vector, blocks, migration, helper, volumes, launch, boot, warnings } = facts;
	const { table } = blocks;
	return {
		file,
		size,
		...(vector && {
			'reset-vector': { offset: vector.offset, bytes: toHex(vector.bytes), kind: vector.kind, meaning: vector.meaning },
		}),
		'variable-store': facts.isVariableStore,
		table: {
			present: table.present,
			...(table.present && { 'footer-offset': size - 0x30, 'total-length': table.totalLength }),
			entries: table.entries.map(entryJson),
		},
		...(blocks.resetBlock && {
			'reset-block': {
				address: blocks.resetBlock.address,
				'cs-base': blocks.resetBlock.csBase,
				ip: blocks.resetBlock.ip,
			},
		}),
		'secret-area': areaJson(blocks.secretBlock),
		'hash-area': areaJson(blocks.hashBlock),
		'migration-handler': {
			form: migration.form,
			...(migration.offset !== undefined && { offset: migration.offset, address: migration.address }),
			hides: migration.hidden.map(entryJson),
		},
		'migration-helper': {
			entry: helper.entry,
			'entry-from': helper.entryFrom,
			'layout-from': helper.layoutFrom,
			layout: helper.layout,
		},
		...(blocks.sevSections && {
			'sev-metadata': blocks.sevSections.map((s) => ({ ...s, name: sevSectionName(s.type) })),
		}),
		...(blocks.tdxSections && {
			'tdx-metadata': blocks.tdxSections.map((s) => ({
				'raw-offset': s.rawOffset,
				'raw-size': s.rawSize,
				gpa: hex(s.gpa),
				'memory-size': hex(s.memorySize),
				type: s.type,
				attributes: s.attributes,
				name: tdxSectionName(s.type),
			})),
		}),
		...(blocks.igvmSections && {
			'igvm-metadata': blocks.igvmSections.map((s) => ({ ...s, name: igvmSectionName(s.id) })),
		}),
		volumes: volumes.map((v) => ({
			offset: v.offset,
			length: v.length,
			'file-system': v.fileSystem,
			kind: v.kind,
			'checksum-ok': v.checksumOk,
		})),
		launch: { bytes: size, 'launch-digest': toHex(launch.digest) },
		...(boot && { 'kernel-hashes': bootJson(boot, size) }),
		warnings,
		problems: blocks.problems,
	};
}

const entryJson = ({ offset, length, guid, data }: TableEntry) => ({
	offset,
	length,
	guid,
	name: tableEntryName(guid) ?? null,
	data: toHex(data),
});

const areaJson = (area: MemoryRange | undefined) => ({
	supported: area !== undefined && area.base !== 0,
	...(area && { base: area.base, size: area.size }),
});

const bootJson = ({ hashes, table, place, digest, page }: BootFacts, size: number) => ({
	cmdline: toHex(hashes.cmdline),
	initrd: toHex(hashes.initrd),
	kernel: toHex(hashes.kernel),
	table: toHex(table),
	...(place.ok ? { gpa: place.area.base } : { refused: place.reason }),
	...(digest && { bytes: size + table.length, 'launch-digest': toHex(digest) }),
	...(page && { 'snp-page': { gpa: page.gpa, sha256: toHex(page.sha256) } }),
});
