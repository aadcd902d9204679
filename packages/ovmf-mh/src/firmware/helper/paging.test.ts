import { describe, expect, it } from 'vitest';
import { HelperGeometry } from '../../geometry.js';
import { helperCr3, helperTables } from './paging.js';

const { pageTables } = HelperGeometry;
const entry = (tables: Uint8Array, table: number, index: number): bigint =>
	new DataView(tables.buffer).getBigUint64(4096 * table + 8 * index, true);

describe('page tables of the hardened helper', () => {
	it('K15: have the C-bit where the processor has it', () => {
		for (const cBit of [47, 51]) {
			const mask = 1n << BigInt(cBit);
			const tables = helperTables(cBit);
			expect(tables).toHaveLength(3 * 4096);
			expect(entry(tables, 0, 0)).toBe(BigInt(pageTables + 0x1000) | mask | 0x23n);
			expect(entry(tables, 0, 511)).toBe(BigInt(pageTables + 0x2000) | mask | 0x23n);
			expect([0, 1, 3, 511].map((i) => entry(tables, 1, i))).toEqual(
				[0xe3n, 0x400000e3n, 0xc00000e3n, 0x7fc00000e3n].map((leaf) => leaf | mask),
			);
			expect(entry(tables, 2, 0)).toBe(0xe3n);
		}
	});

	it('map nothing else', () => {
		const tables = new BigUint64Array(helperTables(51).buffer);
		expect(tables.filter((value) => value !== 0n)).toHaveLength(2 + 512 + 1);
	});

	it('K16: have a root of 64 bits, with the C-bit', () => {
		expect(helperCr3(51)).toBe((1n << 51n) | BigInt(pageTables));
	});

	it('have no C-bit outside SEV', () => {
		expect(entry(helperTables(0), 1, 1)).toBe(0x400000e3n);
		expect(helperCr3(0)).toBe(BigInt(pageTables));
	});
});
