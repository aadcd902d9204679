import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromHex, guidToBytes } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { readFirmwareBlocks } from './blocks.js';
import { builtInHelperLayout } from './helper-layout.js';
import { buildFirmwareImage } from './image.js';
import { placeOldResetBlock } from './reset.js';
import { buildFirmwareTable, placeFirmwareTable, TableGuid } from './table.js';

const publicData = process.env['CVM_PUBLIC_DATA'];
const suffix = (name: string) => new Uint8Array(readFileSync(join(publicData ?? '', 'ovmf', name)));

/** virtee/sev-snp-measure test fixtures: the last 4 KiB of two builds. Skipped unless CVM_PUBLIC_DATA names the folder. */
describe.runIf(publicData)('real images', () => {
	const common = [
		{ gpa: 0x800000, size: 0x9000, type: 1 },
		{ gpa: 0x80a000, size: 0x3000, type: 1 },
		{ gpa: 0x80d000, size: 0x1000, type: 2 },
		{ gpa: 0x80e000, size: 0x1000, type: 3 },
		{ gpa: 0x80f000, size: 0x1000, type: 4 },
	];

	it('AmdSev build: reset block, secret and hash areas, SEV metadata', () => {
		const blocks = readFirmwareBlocks(suffix('ovmf_AmdSev_suffix.bin'));
		expect(blocks.table.totalLength).toBe(0x88);
		expect(blocks.table.entries.map((e) => e.guid)).toEqual([
			TableGuid.resetBlock,
			TableGuid.secretBlock,
			TableGuid.hashBlock,
			TableGuid.sevMetadata,
			TableGuid.tdxMetadata,
		]);
		expect(blocks).toMatchObject({
			resetBlock: { address: 0x80b004, csBase: 0x800000, ip: 0xb004 },
			secretBlock: { base: 0x810000, size: 0xc00 },
			hashBlock: { base: 0x810c00, size: 0x400 },
			sevSections: [...common, { gpa: 0x810000, size: 0x1000, type: 0x10 }, { gpa: 0x811000, size: 0xf000, type: 1 }],
		});
		expect(blocks.tdxSections).toHaveLength(6);
		expect(blocks.problems).toEqual([]);
	});

	it('OvmfX64 build: areas of base 0 mean unsupported', () => {
		const blocks = readFirmwareBlocks(suffix('ovmf_OvmfX64_suffix.bin'));
		expect(blocks.table.totalLength).toBe(0x88);
		expect(blocks).toMatchObject({
			resetBlock: { address: 0x80b004 },
			secretBlock: { base: 0, size: 0 },
			hashBlock: { base: 0, size: 0 },
			sevSections: [...common, { gpa: 0x810000, size: 0x10000, type: 1 }],
			problems: [],
		});
	});

	it('an AmdSev build of a distribution', () => {
		const blocks = readFirmwareBlocks(suffix('amdsev-el9-last4k.bin'));
		expect(blocks.table.present).toBe(true);
		expect(blocks.resetBlock?.csBase).toBe(0x800000);
		expect(blocks.secretBlock?.size).toBe(0xc00);
		expect(blocks.problems).toEqual([]);
	});
});

const le32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
const ascii = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** An image with one metadata block whose descriptor begins at 0x100. */
function withMetadata(guid: string, descriptor: Uint8Array, before: Uint8Array = new Uint8Array(16)) {
	const image = new Uint8Array(4096);
	image.set(before, 0xf0);
	image.set(descriptor, 0x100);
	placeFirmwareTable(image, buildFirmwareTable([{ guid, data: le32(4096 - 0x100) }]));
	return image;
}
const descriptor = (signature: string, length: number, version: number, count: number, body = new Uint8Array(0)) =>
	Uint8Array.of(...ascii(signature), ...le32(length, version, count), ...body);

describe('blocks of an image', () => {
	it('include IGVM parameters', () => {
		const image = withMetadata(TableGuid.igvmMetadata, descriptor('IGVM', 28, 1, 1, le32(0x820000, 0x1000, 0x101)));
		expect(readFirmwareBlocks(image).igvmSections).toEqual([{ gpa: 0x820000, size: 0x1000, id: 0x101 }]);
	});

	it('include TDX sections behind their GUID', () => {
		const body = Uint8Array.of(...le32(0x10, 0x20), ...le32(0, 1), ...le32(0x1000, 0), ...le32(2, 1));
		const guid = guidToBytes('e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae');
		const good = withMetadata(TableGuid.tdxMetadata, descriptor('TDVF', 48, 1, 1, body), guid);
		expect(readFirmwareBlocks(good).tdxSections).toEqual([
			{ rawOffset: 0x10, rawSize: 0x20, gpa: 0x100000000n, memorySize: 0x1000n, type: 2, attributes: 1 },
		]);
		const bad = withMetadata(TableGuid.tdxMetadata, descriptor('TDVF', 48, 1, 1, body));
		expect(readFirmwareBlocks(bad).problems).toMatchObject([{ offset: 0xf0 }]);
	});

	it.each([
		['another signature', descriptor('ASEX', 16, 1, 0), 0x100],
		['another version', descriptor('ASEV', 16, 2, 0), 0x108],
		['a length that contradicts its count', descriptor('ASEV', 40, 1, 3), 0x104],
		['more sections than the image holds', descriptor('ASEV', 16 + 12 * 1000, 1, 1000), 0x104],
	])('report a descriptor with %s at its file offset', (_, bytes, offset) => {
		const blocks = readFirmwareBlocks(withMetadata(TableGuid.sevMetadata, bytes));
		expect(blocks.sevSections).toBeUndefined();
		expect(blocks.problems).toMatchObject([{ offset }]);
	});

	it('include metadata that begins with the image, and refuse such that would begin before it', () => {
		const image = new Uint8Array(4096);
		image.set(descriptor('ASEV', 28, 1, 1, le32(0x800000, 0x9000, 1)));
		const tableOf = (distance: number) =>
			placeFirmwareTable(image, buildFirmwareTable([{ guid: TableGuid.sevMetadata, data: le32(distance) }]));
		tableOf(4096);
		expect(readFirmwareBlocks(image).sevSections).toEqual([{ gpa: 0x800000, size: 0x9000, type: 1 }]);
		tableOf(4097);
		expect(readFirmwareBlocks(image).problems).toHaveLength(1);
	});

	it('include a TDVF descriptor at the beginning only with its GUID, for which there is no room', () => {
		const image = new Uint8Array(4096);
		image.set(descriptor('TDVF', 16, 1, 0));
		const entry = { guid: TableGuid.tdxMetadata, data: le32(4096) };
		placeFirmwareTable(image, buildFirmwareTable([entry]));
		expect(readFirmwareBlocks(image)).toMatchObject({ problems: [{ offset: 0, message: /got nothing/ }] });
	});

	it.each([0, 8, 5000, 0xffffffff])('report metadata said to begin %i bytes before the end', (distance) => {
		const image = new Uint8Array(4096);
		const entry = { guid: TableGuid.sevMetadata, data: le32(distance) };
		placeFirmwareTable(image, buildFirmwareTable([entry]));
		expect(readFirmwareBlocks(image).problems[0]?.message).toContain('expected a place inside the image');
	});

	it('report data of another length than the block has', () => {
		const image = new Uint8Array(4096);
		placeFirmwareTable(image, buildFirmwareTable([{ guid: TableGuid.secretBlock, data: new Uint8Array(7) }]));
		const blocks = readFirmwareBlocks(image);
		expect(blocks.secretBlock).toBeUndefined();
		expect(blocks.problems).toMatchObject([
			{ offset: blocks.table.entries[0]?.offset, message: /expected 8 bytes, got 7/ },
		]);
	});

	it('take the first visited of two entries with one GUID', () => {
		const image = new Uint8Array(4096);
		const entry = (value: number) => ({ guid: TableGuid.resetBlock, data: le32(value) });
		placeFirmwareTable(image, buildFirmwareTable([entry(0x80b004), entry(1)]));
		expect(readFirmwareBlocks(image).resetBlock?.address).toBe(0x80b004);
	});

	it('of firmware older than the table are its reset block alone', () => {
		const image = new Uint8Array(4096);
		image.set(fromHex('04b08000 1600 de71f7007e1acb4f890e68c77e2fb44e'), 4096 - 0x30 - 6);
		expect(readFirmwareBlocks(image)).toMatchObject({
			table: { present: false },
			resetBlock: { address: 0x80b004 },
			problems: [],
		});
		const written = new Uint8Array(4096);
		placeOldResetBlock(written, 0x80b004);
		expect(written).toEqual(image);
		expect(() => placeOldResetBlock(new Uint8Array(4095), 0)).toThrow('firmware image: expected at least 4096 bytes');
		image[4096 - 0x32] = 0x17;
		expect(readFirmwareBlocks(image).resetBlock).toBeUndefined();
	});

	it('of an image without any are none', () => {
		expect(readFirmwareBlocks(new Uint8Array(100))).toEqual({
			table: { present: false, totalLength: 0, entries: [] },
			problems: [],
		});
	});
});

describe('our synthetic image', () => {
	it('tells a VMM where secrets and hashes go, and that it is a model', () => {
		const image = buildFirmwareImage();
		expect(image).toHaveLength(128 * 1024);
		expect(readFirmwareBlocks(image)).toMatchObject({
			table: { totalLength: 0x72 + 18 + 96 },
			resetBlock: { address: 0x80b004 },
			secretBlock: { base: 0x80c000, size: 0xc00 },
			hashBlock: { base: 0x80cc00, size: 0x400 },
			migrationHandler: 0x823000,
			helper: builtInHelperLayout(),
			problems: [],
		});
		expect(String.fromCharCode(...image.subarray(0, 31))).toBe('MODEL FIRMWARE, NOT EXECUTABLE.');
		expect(image.subarray(-16, -12)).toEqual(Uint8Array.of(0xfa, 0xf4, 0xeb, 0xfd));
	});

	it('can do without the migration helper', () => {
		const blocks = readFirmwareBlocks(buildFirmwareImage({ migrationHandler: 'none' }));
		expect(blocks.table.totalLength).toBe(0x5c);
		expect(blocks.migrationHandler).toBeUndefined();
		expect(blocks.helper).toBeUndefined();
	});

	it('is the same every time', () => {
		expect(buildFirmwareImage({ size: 65536 })).toEqual(buildFirmwareImage({ size: 65536 }));
	});

	it.each([0, 4096, 65537, 0x401000])('cannot have %i bytes', (size) => {
		expect(() => buildFirmwareImage({ size })).toThrow('firmware image: expected a multiple of 4096');
	});
});
