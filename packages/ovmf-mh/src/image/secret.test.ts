import { guidToBytes } from '@cvm/layout';
import { secretTable } from '@cvm/sev-hw/owner';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { SECRET_AREA } from './image.js';
import { SECRET_AREAS, SECRET_LOCATION_GUID, SECRET_RESERVATIONS, secretLocation } from './secret-area.js';
import { findGuestSecret, GUEST_SECRETS_GUID, readGuestSecrets } from './secret-table.js';

const A = '736869e5-84f0-4973-92ec-06879ce3da0b';
const B = '00f771de-1a7e-4fcb-890e-68c77e2fb44e';
const bytes = (...values: number[]) => Uint8Array.from(values);
/** A whole area with what the owner sent at its start. */
const areaOf = (table: Uint8Array) => {
	const area = new Uint8Array(0xc00);
	area.set(table);
	return area;
};
const good = areaOf(
	secretTable([
		{ guid: A, data: bytes(1, 2, 3) },
		{ guid: B, data: bytes() },
		{ guid: A, data: bytes(4) },
	]),
);
const changed = (at: number, value: number) => {
	const area = good.slice();
	new DataView(area.buffer).setUint32(at, value, true);
	return area;
};

describe('secrets of the guest’s owner', () => {
	it('are found where the owner put them, the first of two with one GUID', () => {
		expect(readGuestSecrets(good)).toEqual({
			entries: [
				{ guid: A, offset: 40, length: 3 },
				{ guid: B, offset: 63, length: 0 },
				{ guid: A, offset: 83, length: 1 },
			],
		});
		expect(findGuestSecret(good, A)).toEqual(bytes(1, 2, 3));
		expect(findGuestSecret(good, B)).toEqual(bytes());
		expect(findGuestSecret(good, GUEST_SECRETS_GUID)).toBeUndefined();
	});

	it('are copied, so that the copy can be wiped', () => {
		const area = good.slice();
		findGuestSecret(area, A)?.fill(0);
		expect(area).toEqual(good);
	});

	it.each([
		['no room for a header', good.subarray(0, 19), 0],
		['zeros, as nobody sent one', new Uint8Array(0xc00), 0],
		['a table longer than the area', changed(16, 0xc01), 16],
		['a table of 19 bytes', changed(16, 19), 16],
		['an entry of length 0', changed(36, 0), 36],
		['an entry of 19 bytes', changed(36, 19), 36],
		['an entry longer than the table', changed(36, 65), 36],
		['an entry of 4 GiB', changed(36, 0xffffffff), 36],
		['a table that ends within a header', changed(16, 83 - 1), 63 + 16],
	])('are none at all with %s', (_, area, offset) => {
		const { entries, problem } = readGuestSecrets(area);
		expect(entries).toEqual([]);
		expect(problem?.offset).toBe(offset);
		expect(problem?.message).toMatch(/^secret table, offset \d+: expected /);
		expect(findGuestSecret(area, A)).toBeUndefined();
	});

	it('are at most 64, in at most 64 KiB', () => {
		const many = (count: number) => areaOf(secretTable(new Array(count).fill({ guid: A, data: bytes() })));
		expect(readGuestSecrets(many(64)).entries).toHaveLength(64);
		expect(readGuestSecrets(many(65)).problem?.message).toContain('expected at most 64 entries');
		const large = new Uint8Array(0x20000);
		large.set(secretTable([{ guid: A, data: new Uint8Array(0x10000) }]));
		expect(readGuestSecrets(large).problem?.offset).toBe(16);
	});

	const entry = fc.record({ guid: fc.uuid(), data: fc.uint8Array({ maxLength: 40 }) });
	test.prop([fc.array(entry, { maxLength: 8 })], { numRuns: 50 })('read back as they were written', (entries) => {
		const area = areaOf(secretTable(entries));
		const found = readGuestSecrets(area).entries.map(({ guid, offset, length }) => ({
			guid,
			data: area.slice(offset, offset + length),
		}));
		expect(found).toEqual(entries);
	});

	test.prop([fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 0, max: 0x200 })], { numRuns: 200 })(
		'stay inside the area whatever is in it',
		(noise, length) => {
			const area = Uint8Array.of(...guidToBytes(GUEST_SECRETS_GUID), length & 0xff, length >> 8, 0, 0, ...noise);
			for (const { offset, length: size } of readGuestSecrets(area).entries) {
				expect(offset + size).toBeLessThanOrEqual(area.length);
			}
		},
	);
});

describe('the secret area', () => {
	it('stands in one page with the hash table in each build, and is ours in August 2021', () => {
		for (const { base, size } of SECRET_AREAS) expect((base + size) % 4096).toBe(0xc00);
		expect(SECRET_AREAS[0]).toMatchObject(SECRET_AREA);
		expect(SECRET_RESERVATIONS).toHaveLength(4);
	});

	it('is told to the OS in a configuration table of two u64', () => {
		const table = secretLocation.encode({ base: 0x80c000n, size: 0xc00n });
		expect(table).toEqual(bytes(0, 0xc0, 0x80, 0, 0, 0, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0));
		expect(SECRET_LOCATION_GUID).toBe('adf956ad-e98c-484c-ae11-b51c7d336447');
	});
});
