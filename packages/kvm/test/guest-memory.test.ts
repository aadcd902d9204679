import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { C, le64, mapped, P, pte, run, W } from './paging-rig.js';

describe('loads and stores', () => {
	const at = fc.integer({ min: 0x20000, max: 0x26000 });

	test.prop([at, fc.uint8Array({ maxLength: 9000 })], { numRuns: 20 })(
		'of any length at any address read back what was written, across pages that are not neighbours',
		(va, data) => {
			const back = new Uint8Array(data.length);
			const rig = mapped({
				block: (cpu) => {
					cpu.store(va, data);
					cpu.load(va, back);
					return cpu.jump('end');
				},
			});
			// Swapped, shared, and private pages in a row.
			rig.poke(pte(0x21), le64(0x22000n | P | W | C));
			rig.poke(pte(0x22), le64(0x21000n | P | W | C));
			rig.poke(pte(0x23), le64(0x23000n | P | W));
			run(rig);
			expect(back).toEqual(data);
		},
	);

	it('have the sizes and the byte order of x86', () => {
		const seen: (number | bigint)[] = [];
		const rig = mapped({
			block: (cpu) => {
				cpu.store(0x20ffc, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 0));
				seen.push(
					cpu.loadU8(0x20ffc),
					cpu.loadU16(0x20fff),
					cpu.loadU32(0x20ffd),
					cpu.loadU64(0x20ffc),
					cpu.loadNum(0x20ffc + 4),
				);
				cpu.storeU16(0x20000, 0x12345);
				cpu.storeU8(0x20002, 0x1ff);
				cpu.storeNum(0x20008, 2 ** 40);
				seen.push(cpu.loadU32(0x20000), cpu.loadU64(0x20008), cpu.addU8(0x20002, 2), cpu.loadU8(0x20002));
				seen.push(cpu.exchangeU32(0x20000, 9), cpu.loadU32(0x20000));
				return cpu.jump('end');
			},
		});
		rig.poke(0x20000, new Uint8Array(0x2000));
		run(rig);
		expect(seen).toEqual([1, 0x0504, 0x05040302, 0x0007060504030201n, 0x070605, 0xff2345, 2n ** 40n, 1, 1, 0x12345, 9]);
	});

	it('refuse numbers that do not fit, as a mistake in the program', () => {
		const rig = mapped({
			block: (cpu) => {
				expect(() => cpu.storeNum(0x20000, -1)).toThrow(RangeError);
				expect(() => cpu.setNum('rax', 1.5)).toThrow(RangeError);
				cpu.setReg('rax', -1n);
				expect(() => cpu.num('rax')).toThrow(RangeError);
				cpu.storeU64(0x20000, 2n ** 53n);
				expect(() => cpu.loadNum(0x20000)).toThrow(RangeError);
				return cpu.jump('end');
			},
		});
		run(rig);
		expect(rig.register('rax')).toBe(2n ** 64n - 1n);
	});

	it('set the dirty bit of every page that a store touched, and of no other', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.load(0x40000, new Uint8Array(4096));
				cpu.storeU32(0x20ffe, 1);
				cpu.fill(0x30000, 0x3001, 0);
				cpu.exchangeU32(0x50000, 1);
				return cpu.jump('end');
			},
		});
		rig.logDirty();
		run(rig);
		const pages = [...rig.dirty].flatMap((word, i) =>
			[...Array(32).keys()].filter((b) => (word >>> b) & 1).map((b) => 32 * i + b),
		);
		expect(pages).toEqual([0x20, 0x21, 0x30, 0x31, 0x32, 0x33, 0x50]);
	});

	it('set no dirty bit while the log is off', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.storeU8(0x20000, 1);
				return cpu.jump('end');
			},
		});
		run(rig);
		expect(rig.dirty.every((w) => w === 0)).toBe(true);
	});
});
