/** Readers of images that nobody vouches for: they answer, soon, and never name a place outside the file. */
import { guidToBytes } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { readFirmwareBlocks } from './blocks.js';
import { buildFirmwareImage } from './image.js';
import { discoverHelper, findMigrationBlock } from './migration-block.js';
import { readResetVector } from './reset.js';
import { buildFirmwareTable, placeFirmwareTable, TableGuid } from './table.js';
import { readVolumes } from './volumes.js';

function expectSane(image: Uint8Array): void {
	const { table, problems } = readFirmwareBlocks(image);
	const inside = (offset: number, length = 1) => {
		expect(offset).toBeGreaterThanOrEqual(0);
		expect(offset + length).toBeLessThanOrEqual(image.length);
	};
	for (const { offset, length } of table.entries) inside(offset, length);
	for (const { offset, message } of problems) {
		inside(offset);
		expect(message).toMatch(/^[^\n]* at 0x[0-9a-f]+: expected [^\n]+, got [^\n]+$/);
	}
	const block = findMigrationBlock(image);
	if (block.offset !== undefined) inside(block.offset, 22);
	for (const { offset, length } of block.hidden) inside(offset, length);
	for (const { offset, length } of readVolumes(image)) inside(offset, length);
	expect(discoverHelper(image).entry).toBeGreaterThanOrEqual(0);
	readResetVector(image);
}

const guids = fc.constantFrom(...Object.values(TableGuid));
const size = 4096;

describe('any image', () => {
	test.prop([fc.uint8Array({ maxLength: 200 })], { numRuns: 100 })('of random bytes is answered', expectSane);

	test.prop([fc.array(fc.record({ guid: guids, data: fc.uint8Array({ maxLength: 80 }) }), { maxLength: 8 })], {
		numRuns: 200,
	})('with a table of known entries and random data is answered', (entries) => {
		const image = new Uint8Array(size).fill(0x5a);
		placeFirmwareTable(image, buildFirmwareTable(entries));
		expectSane(image);
	});

	const distance = fc.oneof(fc.integer({ min: 0, max: 0xffffffff }), fc.integer({ min: 0, max: size + 32 }));
	const head = fc.tuple(fc.constantFrom('ASEV', 'TDVF', 'IGVM'), fc.nat(200), fc.constantFrom(0, 1, 2), fc.nat(20));
	test.prop([distance, head, fc.oneof(fc.constant(0xffffffff), fc.nat(20))], { numRuns: 300 })(
		'with metadata anywhere is answered',
		(at, [signature, length, version, count], more) => {
			const image = new Uint8Array(size);
			const data = new Uint8Array(Uint32Array.of(at).buffer);
			const known = [TableGuid.sevMetadata, TableGuid.tdxMetadata, TableGuid.igvmMetadata] as const;
			placeFirmwareTable(image, buildFirmwareTable(known.map((guid) => ({ guid, data }))));
			const start = size - at;
			const words = Uint32Array.of(length, version, more === 0xffffffff ? more : count);
			if (start >= 0 && start + 16 <= size) {
				image.set(new TextEncoder().encode(signature), start);
				image.set(new Uint8Array(words.buffer), start + 4);
			}
			expectSane(image);
		},
	);

	const flips = fc.array(fc.tuple(fc.nat(0x1ff), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 });
	test.prop([flips, fc.constantFrom('asPosted', 'corrected', 'none')], { numRuns: 200 })(
		'of ours with changed bytes in its last 512 is answered',
		(changes, migrationHandler) => {
			const image = buildFirmwareImage({ size: 0x10000, migrationHandler });
			for (const [at, value] of changes) image[image.length - 1 - at] = value;
			expectSane(image);
			expectSane(image.subarray(image.length - 4096));
		},
	);

	test.prop([fc.array(fc.tuple(fc.nat(15), fc.bigInt({ min: 0n, max: 0xffffffffffffffffn })), { maxLength: 8 })], {
		numRuns: 100,
	})('with heads of firmware volumes of any length is answered', (heads) => {
		const image = new Uint8Array(0x10000);
		for (const [page, length] of heads) {
			image.set(new TextEncoder().encode('_FVH'), page * 4096 + 40);
			new DataView(image.buffer).setBigUint64(page * 4096 + 32, length % 0x20000n, true);
			image[page * 4096 + 48] = 0x48;
		}
		expectSane(image);
	});
});

describe('firmware volumes', () => {
	const withVolume = (image: Uint8Array, at: number, length: number, guid: string) => {
		const view = new DataView(image.buffer);
		image.set(guidToBytes(guid), at + 16);
		view.setBigUint64(at + 32, BigInt(length), true);
		image.set(new TextEncoder().encode('_FVH'), at + 40);
		view.setUint16(at + 48, 0x48, true);
		let sum = 0;
		for (let i = 0; i < 0x48; i += 2) sum += view.getUint16(at + i, true);
		view.setUint16(at + 50, -sum, true);
	};
	const VARIABLES = 'fff12b8d-7696-4c8b-a985-2747075b4f50';
	const FILES = '8c8ce578-8a3d-4f1c-9935-896185c32dd3';

	it('are listed one after the other, with gaps searched by pages', () => {
		const image = new Uint8Array(0x10000);
		withVolume(image, 0, 0x2800, VARIABLES);
		withVolume(image, 0x2800, 0x1000, FILES);
		withVolume(image, 0x6800, 0x2000, FILES);
		expect(readVolumes(image)).toEqual([
			{ offset: 0, length: 0x2800, fileSystem: VARIABLES, kind: 'variables', checksumOk: true },
			{ offset: 0x2800, length: 0x1000, fileSystem: FILES, kind: 'files (FFS2)', checksumOk: true },
			{ offset: 0x6800, length: 0x2000, fileSystem: FILES, kind: 'files (FFS2)', checksumOk: true },
		]);
		image[0] = 1;
		expect(readVolumes(image)[0]?.checksumOk).toBe(false);
	});

	it('that do not fit are passed over', () => {
		const image = new Uint8Array(0x2000);
		withVolume(image, 0, 0x3000, FILES);
		withVolume(image, 0x1000, 0x1000, FILES);
		expect(readVolumes(image)).toMatchObject([{ offset: 0x1000 }]);
	});
});

describe('the reset vector', () => {
	it.each([
		['0f20c0a8017405e928ffffffe909ff90', 'x64'],
		['9090e95bff9090909090909090909090', 'ia32'],
		['fff4ebfd000000000000000000000000', 'unknown'],
		['ffffffffffffffffffffffffffffffff', 'erased'],
	])('%s is %s', (digits, kind) => {
		const vector = readResetVector(Uint8Array.from(digits.match(/../g) ?? [], (d) => Number.parseInt(d, 16)));
		expect(vector).toMatchObject({ offset: 0, kind });
	});

	it('of our image says that it is a model; too short a file has none', () => {
		expect(readResetVector(buildFirmwareImage())).toMatchObject({ offset: 0x1fff0, kind: 'model' });
		expect(readResetVector(new Uint8Array(15))).toBeUndefined();
	});
});
