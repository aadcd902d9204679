import { fromHex, guidToBytes } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { buildFirmwareTable, placeFirmwareTable, readFirmwareTable, TableGuid } from './table.js';

const imageOf = (table: Uint8Array, size = 4096) => {
	const image = new Uint8Array(size).fill(0xff);
	placeFirmwareTable(image, table);
	return image;
};

/** edk2-devel, August 2021, "confidential migration handler": the table of its AmdSev build, as meant. */
const COMMON = {
	low: '00cc8000 00040000 1a00 1f3755723b3a044b927b1da6efa8d454 00c08000 000c0000 1a00 61b32e4c9b7dc34c8081127c90d3d294',
	high: '00b08000 1600 de71f7007e1acb4f890e68c77e2fb44e 7200 de82b596b21ff745baeaa366c55a082d',
};
const AS_MEANT = fromHex(`${COMMON.low} 00308200 1600 37b07d5c87ab8242b33c7894f01471ec ${COMMON.high}`);

describe('the GUIDed table', () => {
	it('has the lengths of the known builds', () => {
		const block = (guid: string, bytes: number) => ({ guid, data: new Uint8Array(bytes) });
		const basic = [block(TableGuid.resetBlock, 4), block(TableGuid.secretBlock, 8), block(TableGuid.hashBlock, 8)];
		const metadata = [block(TableGuid.sevMetadata, 4), block(TableGuid.tdxMetadata, 4)];
		expect(buildFirmwareTable(basic)).toHaveLength(0x5c);
		expect(buildFirmwareTable([...basic, ...metadata])).toHaveLength(0x88);
		expect(buildFirmwareTable([...basic, ...metadata, block(TableGuid.igvmMetadata, 4)])).toHaveLength(0x9e);
	});

	it('of the migration-handler series is what we build for the same entries, once its mistakes are corrected', () => {
		const built = buildFirmwareTable([
			{ guid: TableGuid.resetBlock, data: fromHex('00b08000') },
			{ guid: TableGuid.migrationHandler, data: fromHex('00308200') },
			{ guid: TableGuid.secretBlock, data: fromHex('00c08000 000c0000') },
			{ guid: TableGuid.hashBlock, data: fromHex('00cc8000 00040000') },
		]);
		expect(built).toEqual(AS_MEANT);
		expect(readFirmwareTable(imageOf(AS_MEANT)).entries.map((e) => e.guid)).toEqual([
			TableGuid.resetBlock,
			TableGuid.migrationHandler,
			TableGuid.secretBlock,
			TableGuid.hashBlock,
		]);
	});

	it('gives the file offset of each entry', () => {
		const image = imageOf(AS_MEANT);
		for (const { offset, length, data, guid } of readFirmwareTable(image).entries) {
			expect(image.subarray(offset, offset + data.length)).toEqual(data);
			expect(image.subarray(offset + length - 16, offset + length)).toEqual(guidToBytes(guid));
		}
	});

	it('is absent, without complaint, when the footer is not in its place or the image is below 4 KiB', () => {
		const absent = { present: false, totalLength: 0, entries: [] };
		expect(readFirmwareTable(new Uint8Array(4096).fill(0xff))).toEqual(absent);
		expect(readFirmwareTable(imageOf(AS_MEANT).subarray(1))).toEqual(absent);
		expect(readFirmwareTable(imageOf(AS_MEANT, 4095))).toEqual(absent);
		expect(readFirmwareTable(new Uint8Array(0))).toEqual(absent);
	});

	it.each([
		[0, 'expected 18 to'],
		[17, 'expected 18 to'],
		[0xffff, 'got 65535'],
	])('with a total length of %i is refused as a whole', (total, why) => {
		const image = imageOf(AS_MEANT);
		new DataView(image.buffer).setUint16(0xfce, total, true);
		const table = readFirmwareTable(image);
		expect(table).toMatchObject({ present: true, entries: [], problem: { offset: 0xfce } });
		expect(table.problem?.message).toContain(why);
	});

	it('ends silently when fewer bytes are left than an entry needs', () => {
		const image = imageOf(AS_MEANT);
		new DataView(image.buffer).setUint16(0xfce, 18 + 22 + 17, true);
		const table = readFirmwareTable(image);
		expect(table.entries).toHaveLength(1);
		expect(table.problem).toBeUndefined();
	});

	it.each([0, 17])('stops at an entry of %i bytes', (length) => {
		const image = imageOf(AS_MEANT);
		new DataView(image.buffer).setUint16(0xfce - 18, length, true);
		expect(readFirmwareTable(image)).toMatchObject({ entries: [], problem: { offset: 0xfce - 18 } });
	});

	it('cannot be built beyond its 16-bit length, or placed in an image too small', () => {
		expect(() => buildFirmwareTable([{ guid: TableGuid.resetBlock, data: new Uint8Array(0xffff) }])).toThrow(
			'firmware table: expected at most 65535 bytes',
		);
		expect(() => placeFirmwareTable(new Uint8Array(0x40), AS_MEANT)).toThrow('firmware image: expected at least');
	});

	const guid = fc.uuid();
	const entries = fc.array(fc.record({ guid, data: fc.uint8Array({ maxLength: 40 }) }), { maxLength: 12 });
	test.prop([entries])('reads back what was built', (given) => {
		const table = readFirmwareTable(imageOf(buildFirmwareTable(given)));
		expect(table.problem).toBeUndefined();
		expect(table.entries.map(({ guid: g, data }) => ({ guid: g, data }))).toEqual(given);
	});

	test.prop([fc.uint8Array({ minLength: 200, maxLength: 200 }), fc.integer({ min: 0, max: 0xffff })])(
		'of random bytes never leads a reader outside the image or into a loop',
		(noise, total) => {
			const image = new Uint8Array(4096);
			image.set(noise, 0xfce - noise.length);
			new DataView(image.buffer).setUint16(0xfce, total, true);
			image.set(guidToBytes(TableGuid.footer), 0xfd0);
			const table = readFirmwareTable(image);
			const used = table.entries.reduce((sum, e) => sum + e.length, 18);
			expect(used).toBeLessThanOrEqual(Math.max(18, total));
			for (const e of table.entries) expect(e.offset).toBeGreaterThanOrEqual(0);
		},
	);
});
