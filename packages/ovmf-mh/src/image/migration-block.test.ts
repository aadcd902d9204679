import { fromHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { helperRanges } from '../geometry.js';
import { readFirmwareBlocks } from './blocks.js';
import {
	builtInHelperLayout,
	faultOfLayout,
	helperLayout,
	helperLayoutEntry,
	rangesOfLayout,
} from './helper-layout.js';
import { buildFirmwareImage } from './image.js';
import { discoverHelper, findMigrationBlock, migrationBlock, publishedMigrationTable } from './migration-block.js';
import { buildFirmwareTable, placeFirmwareTable, readFirmwareTable, TableGuid } from './table.js';

/** edk2 branch sev-mirror2-patches: the table of its AmdSev build, 114 bytes. */
const LOW =
	'00cc8000 00040000 1a00 1f3755723b3a044b927b1da6efa8d454 00c08000 000c0000 1a00 61b32e4c9b7dc34c8081127c90d3d294';
const HIGH = '00b08000 1600 de71f7007e1acb4f890e68c77e2fb44e 7200 de82b596b21ff745baeaa366c55a082d';
const AS_POSTED = fromHex(`${LOW} 00308200 eaff 5c7db03787ab8242b33c7894f01471ec ${HIGH}`);
const CORRECTED = fromHex(`${LOW} 00308200 1600 37b07d5c87ab8242b33c7894f01471ec ${HIGH}`);

const imageOf = (table: Uint8Array) => {
	const image = new Uint8Array(4096).fill(0xff);
	placeFirmwareTable(image, table);
	return image;
};
const walk = (image: Uint8Array) => readFirmwareTable(image).entries.map((e) => e.guid);

describe('the migration handler’s table entry', () => {
	it('K18: as posted it stops the walk behind the reset block, and hides the secret and hash areas', () => {
		expect(publishedMigrationTable('asPosted')).toEqual(AS_POSTED);
		expect(AS_POSTED).toHaveLength(114);
		const image = imageOf(publishedMigrationTable('asPosted'));
		expect(walk(image)).toEqual([TableGuid.resetBlock]);
		// Length at 0x32 + 22 + 18 from the end.
		const offset = 4096 - 0x32 - 22 - 18;
		expect(readFirmwareTable(image).problem).toEqual({
			offset,
			message: 'entry length at 0xfa6: expected 18 to 74, got 65514',
		});
		const blocks = readFirmwareBlocks(image);
		expect(blocks).toMatchObject({ resetBlock: { address: 0x80b000 }, problems: [{ offset }] });
		expect([blocks.secretBlock, blocks.hashBlock, blocks.migrationHandler]).toEqual([undefined, undefined, undefined]);
		expect(findMigrationBlock(image)).toMatchObject({
			form: 'asPosted',
			offset: offset - 4,
			address: 0x823000,
			hidden: [{ guid: TableGuid.secretBlock }, { guid: TableGuid.hashBlock }],
		});
	});

	it('K18: corrected it is found, and so is what stands below it', () => {
		expect(publishedMigrationTable('corrected')).toEqual(CORRECTED);
		const image = imageOf(publishedMigrationTable('corrected'));
		expect(walk(image)).toEqual([
			TableGuid.resetBlock,
			TableGuid.migrationHandler,
			TableGuid.secretBlock,
			TableGuid.hashBlock,
		]);
		expect(readFirmwareBlocks(image)).toMatchObject({
			resetBlock: { address: 0x80b000 },
			migrationHandler: 0x823000,
			secretBlock: { base: 0x80c000, size: 0xc00 },
			hashBlock: { base: 0x80cc00, size: 0x400 },
			problems: [],
		});
		expect(findMigrationBlock(image)).toMatchObject({ form: 'corrected', address: 0x823000, hidden: [] });
	});

	it('with one mistake of the two corrected', () => {
		const entry = migrationBlock('asPosted');
		const raw = entry.raw ?? { length: 0, guid: new Uint8Array(16) };
		const reset = { guid: TableGuid.resetBlock, data: fromHex('00b08000') };
		const length = imageOf(buildFirmwareTable([reset, { ...entry, raw: { ...raw, length: 22 } }, reset]));
		expect(readFirmwareTable(length).problem).toBeUndefined();
		expect(readFirmwareBlocks(length).migrationHandler).toBeUndefined();
		expect(findMigrationBlock(length)).toMatchObject({ form: 'guidAsPosted', address: 0x823000, hidden: [] });
		const guid = migrationBlock('corrected');
		const good = buildFirmwareTable([reset, guid, reset]).subarray(-18 - 22 - 16, -18 - 22);
		const half = imageOf(buildFirmwareTable([reset, { ...guid, raw: { ...raw, guid: good } }, reset]));
		expect(findMigrationBlock(half)).toMatchObject({
			form: 'lengthAsPosted',
			hidden: [{ guid: TableGuid.resetBlock }],
		});
	});

	it('is absent from other images, also from those with other mistakes', () => {
		const absent = { form: 'absent', hidden: [] };
		expect(findMigrationBlock(new Uint8Array(0))).toEqual(absent);
		expect(findMigrationBlock(buildFirmwareImage({ migrationHandler: 'none' }))).toEqual(absent);
		const image = imageOf(AS_POSTED);
		image[0xfa6] = 0; // 0xff00 instead of 0xffea
		expect(readFirmwareTable(image).problem?.offset).toBe(0xfa6);
		expect(findMigrationBlock(image)).toEqual(absent);
		image[0xfce] = 1; // now the table as a whole is refused
		expect(findMigrationBlock(image)).toEqual(absent);
	});
});

describe('what a VMM discovers', () => {
	it('K18: as posted its own numbers, as QEMU v2 has them', () => {
		const found = discoverHelper(buildFirmwareImage({ migrationHandler: 'asPosted' }));
		expect(found).toMatchObject({ entry: 0x823000, entryFrom: 'built-in', layoutFrom: 'built-in' });
		expect(found.problem?.message).toMatch(/^entry length at 0x1ffa6: expected 18 to \d+, got 65514$/);
		expect(discoverHelper(undefined)).toEqual({
			entry: 0x823000,
			entryFrom: 'built-in',
			layout: builtInHelperLayout(),
			layoutFrom: 'built-in',
		});
	});

	it('K18: corrected those of the image', () => {
		const moved = { ...builtInHelperLayout(), windows: 0x1000000, windowsEnd: 0x1000000 + 8 * 0x41000 };
		const image = imageOf(buildFirmwareTable([migrationBlock('corrected', 0x824000), helperLayoutEntry(moved)]));
		expect(discoverHelper(image)).toEqual({
			entry: 0x824000,
			entryFrom: 'table',
			layout: moved,
			layoutFrom: 'table',
		});
	});

	it('is the layout that we are built with, entry and ranges', () => {
		expect(discoverHelper(buildFirmwareImage()).layout).toEqual(builtInHelperLayout());
		expect(rangesOfLayout(builtInHelperLayout())).toEqual(helperRanges());
	});
});

describe('a helper layout', () => {
	it.each([
		['version', 2, /version: expected 1, got 2/],
		['maxHelpers', 0, /maxHelpers: expected 1 to 64, got 0/],
		['batchPages', 65, /batchPages: expected 1 to 64, got 65/],
		['mailbox', 0x820800, /mailbox: expected a multiple of 4096, not 0, got 0x820800/],
		['entryBytes', 0, /entryBytes: expected a multiple/],
		['windowStride', 0x40000, /windowStride: expected at least 0x41000/],
		['privateEnd', 0x8a0000, /privateEnd: expected more than/],
		['windowsEnd', 0x910000, /windowsEnd: expected at least 0xb08000/],
		['entryBytes', 0xfffff000, /entry: expected a range below 4 GiB, got 0x823000 to 0x100822000/],
		['others', 0, /others: expected a range of whole pages, got 0x0 to 0xb000/],
		['others', 0x8a1000, /others: expected a range apart from private/],
		['entry', 0x820000, /entry: expected a range apart from mailbox/],
		['privateEnd', 0x901000, /windows: expected a range apart from private/],
	] as const)('with %s %i is refused at its offset in the file, and not gone by', (field, value, message) => {
		const image = buildFirmwareImage();
		const { offset = 0 } = readFirmwareTable(image).entries.find((e) => e.guid === TableGuid.helperLayout) ?? {};
		new DataView(image.buffer).setUint32(offset + helperLayout.offsetOf(field), value, true);
		const { layoutFrom, layout, problem } = discoverHelper(image);
		expect({ layoutFrom, layout }).toEqual({ layoutFrom: 'built-in', layout: builtInHelperLayout() });
		expect(problem?.message.replace(/ at 0x[0-9a-f]+/, '')).toMatch(message);
		const fault = faultOfLayout(image.slice(offset, offset + 96));
		expect(problem?.offset).toBe(offset + (fault?.at ?? -1));
	});

	it('can not be written if its readers refuse it', () => {
		expect(() => helperLayoutEntry({ ...builtInHelperLayout(), maxHelpers: 9 })).toThrow(
			'helper layout, windowsEnd: expected at least',
		);
	});
});
