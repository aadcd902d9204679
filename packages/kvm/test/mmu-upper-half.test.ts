import { describe, expect, it } from 'vitest';
import type { Block } from '../src/vcpu/index.js';
import type { Rig } from './guest-rig.js';
import { C, faultOf, le64, mapped, P, run, TABLES, W } from './paging-rig.js';

const MIB = 1 << 20;
const LARGE = 0x80n;

describe('the upper half', () => {
	const ALIAS = -(2 ** 39);
	/** PML4[511] → PDPT[0]: 1 GiB of guest memory from 0 on, without C-bit, as the migration handler of 2021 maps it. */
	const withAlias = (block: Block, second?: Block): Rig => {
		const rig = mapped(second === undefined ? { block } : { block, second });
		rig.poke(TABLES + 8 * 511, le64(0x14000n | P | W | C));
		rig.poke(0x14000, le64(P | W | LARGE));
		return rig;
	};

	it('is reached by negative addresses', () => {
		const rig = withAlias((cpu) => {
			cpu.storeU32(ALIAS + 0x20123, 0x11223344);
			cpu.setNum('r8', cpu.loadU32(ALIAS + 0x20123));
			cpu.storeU64(0x30000, cpu.loadU64(ALIAS + 0x20120));
			return cpu.jump('end');
		});
		expect(run(rig)).toBe(0x11223344);
		expect([...rig.ram.subarray(0x20123, 0x20127)]).toEqual([0x44, 0x33, 0x22, 0x11]);
		expect(rig.plain(0x30000, 8)).toEqual(rig.ram.slice(0x20120, 0x20128));
	});

	it('has translations of its own: neither of two pages in one slot of the TLB is taken for the other', () => {
		const rig = withAlias(
			(cpu) => {
				// The same number modulo any power of two up to 2^39, and modulo 2^48.
				cpu.storeU8(0x20000, 1);
				cpu.storeU8(ALIAS + 0x20000, 2);
				cpu.storeU8(0x21000, 3);
				cpu.setNum('r8', cpu.loadU8(0x20000));
				return cpu.jump('second');
			},
			(cpu) => {
				cpu.loadU8(2 ** 48 + ALIAS + 0x20000);
				return cpu.jump('end');
			},
		);
		expect(faultOf(rig)).toBe('translation: VA 0xff8000020000: expected a canonical address, got another');
		expect([rig.register('r8'), rig.plain(0x20000, 1)[0], rig.ram[0x20000]]).not.toEqual([1n, 1, 2]);
		expect(rig.ram[0x20000]).toBe(2);
		expect(rig.plain(0x21000, 1)[0]).toBe(3);
	});

	it('is one run of bytes for loads, stores and fills over page boundaries', () => {
		const data = Uint8Array.from({ length: 10_000 }, (_, i) => 7 * i);
		const rig = withAlias((cpu) => {
			cpu.store(ALIAS + 0x2ff7, data);
			cpu.fill(ALIAS + 0x100ffb, 4103, 0x5a);
			const back = new Uint8Array(data.length);
			cpu.load(ALIAS + 0x2ff7, back);
			cpu.setNum('r8', back.every((byte, i) => byte === data[i]) ? 1 : 0);
			return cpu.jump('end');
		});
		rig.logDirty();
		expect(run(rig)).toBe(1);
		expect(rig.ram.slice(0x2ff7, 0x2ff7 + data.length)).toEqual(data);
		expect(rig.ram.subarray(0x100ffb, 0x102002).every((byte) => byte === 0x5a)).toBe(true);
		expect(rig.ram[0x100ffa] === 0x5a && rig.ram[0x102002] === 0x5a).toBe(false);
		expect([rig.dirty[0], rig.dirty[8]]).toEqual([0b111100, 0b111]);
	});

	it('reaches its first and its last byte', () => {
		const rig = withAlias((cpu) => {
			cpu.storeU8(-(2 ** 47), 11);
			cpu.storeU8(-1, 12);
			return cpu.jump('end');
		});
		rig.poke(TABLES + 8 * 256, le64(0x14000n | P | W | C));
		rig.poke(0x14000 + 8 * 511, le64(P | W | LARGE));
		rig.addSlot(0x3ffff000, 0x1000, 2 * MIB);
		run(rig);
		expect([rig.ram[0], rig.ram[0xfff]]).toEqual([11, 12]);
	});

	it.each<[string, number, boolean]>([
		['−1 to 0, storing', -2, true],
		['−1 to 0, loading', -2, false],
		['2^47 − 1 upwards, storing', 2 ** 47 - 2, true],
		['2^47 − 1 upwards, loading', 2 ** 47 - 2, false],
	])('ends where it ends: no access goes from %s', (_, va, isWrite) => {
		const rig = withAlias((cpu) => {
			if (isWrite) cpu.storeU32(va, 0xffffffff);
			else cpu.loadU32(va);
			return cpu.jump('end');
		});
		// Everything is mapped on either side.
		rig.poke(0x14000 + 8 * 511, le64(P | W | LARGE));
		rig.poke(TABLES + 8 * 255, le64(0x14000n | P | W | C));
		rig.addSlot(0x3ffff000, 0x1000, 2 * MIB);
		const before = rig.ram.slice(0, 0x1000);
		expect(faultOf(rig)).toContain(va < 0 ? 'translation: VA 0x0: expected an access that ends' : 'canonical');
		expect(rig.ram.slice(0, 0x1000)).toEqual(before);
	});

	it('does not go round in a fill of many pages', () => {
		const rig = withAlias((cpu) => {
			cpu.fill(-0x10000, 0x20000, 1);
			return cpu.jump('end');
		});
		expect(faultOf(rig)).toContain('translation: VA 0x0: expected an access that ends');
	});

	it('is what CR2 names after a fault', () => {
		const seen: number[] = [];
		const rig = withAlias(
			(cpu) => {
				cpu.setNum('rsp', 0x50000);
				// An interrupt gate for vector 14 that leads to `second`.
				const to = BigInt(cpu.address('second'));
				cpu.storeU64(0x40000 + 14 * 16, (to & 0xffffn) | (8n << 16n) | (0x8e00n << 32n) | ((to >> 16n) << 48n));
				cpu.storeU64(0x40000 + 14 * 16 + 8, to >> 32n);
				cpu.lidt(0x40000, 0xfff);
				cpu.loadU8(ALIAS + 2 ** 31 + 5);
				return cpu.jump('end');
			},
			(cpu) => {
				seen.push(cpu.cr2);
				return cpu.jump('end');
			},
		);
		run(rig);
		expect(seen).toEqual([ALIAS + 2 ** 31 + 5]);
		expect(rig.register('cr2')).toBe(0xffffff8080000005n);
	});
});
