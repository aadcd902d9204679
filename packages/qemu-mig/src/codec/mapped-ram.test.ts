import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { isCodecError } from './error.js';
import type { MappedRamRun, RandomAccess } from './mapped-ram.js';
import {
	decodeMappedRamHeader,
	encodeMappedRamHeader,
	MappedRamBitmap,
	mappedRamBitmapSize,
	planMappedRam,
	readMappedRam,
} from './mapped-ram.js';

const MIB = 1024 * 1024;
const header = { pageSize: 4096, bitmapOffset: 0x100, pagesOffset: MIB };
const raw = encodeMappedRamHeader(header);
const patched = (at: number, ...bytes: number[]): Uint8Array => {
	const out = raw.slice();
	out.set(bytes, at);
	return out;
};
const file = (bytes: Uint8Array): RandomAccess & { longest: number } => ({
	longest: 0,
	read(offset, length) {
		this.longest = Math.max(this.longest, length);
		return bytes.subarray(offset, offset + length);
	},
});
async function all(source: AsyncIterable<MappedRamRun>): Promise<MappedRamRun[]> {
	const runs: MappedRamRun[] = [];
	for await (const run of source) runs.push(run);
	return runs;
}

describe('the header of a block', () => {
	it('has the layout of QEMU', () => {
		expect(Buffer.from(raw).toString('hex')).toBe('00000001000000000000100000000000000001000000000000100000');
		expect(decodeMappedRamHeader(raw, 0x4000)).toEqual(header);
	});

	it('may leave a block out of the file', () => {
		expect(decodeMappedRamHeader(encodeMappedRamHeader(), 0x4000)).toBeUndefined();
	});

	it.each([
		['version', patched(3, 2)],
		['malformed', patched(10, 0x20)],
		['offset', patched(12, 0x80)],
		['offset', patched(20, 0x80)],
		['offset', patched(26, 0x08, 0x01)],
		['offset', patched(17, 0x10, 0x00, 0x08)],
		['truncated', raw.subarray(1)],
	])('is refused: %s', (code, data) => {
		expect(() => decodeMappedRamHeader(data, 0x4000)).toThrow(expect.objectContaining({ code }));
	});

	it('is refused in the words of QEMU for its version', () => {
		expect(() => decodeMappedRamHeader(patched(3, 2), 0)).toThrow(
			expect.objectContaining({
				qemu: ['Migration mapped-ram capability version not supported (expected <= 1, got 2)'],
			}),
		);
	});

	it('may put pages on any page, as QEMU reads them', () => {
		expect(decodeMappedRamHeader(encodeMappedRamHeader({ ...header, pagesOffset: 0x3000 }), 0x4000)).toBeDefined();
	});

	property.prop([fc.uint8Array({ minLength: 28, maxLength: 28 }), fc.nat()])(
		'ends typed on any bytes',
		(data, length) => {
			try {
				decodeMappedRamHeader(data, length);
			} catch (error) {
				expect(isCodecError(error)).toBe(true);
			}
		},
	);
});

describe('planMappedRam', () => {
	it('lays blocks out as QEMU does', () => {
		const plan = planMappedRam(0x3a, [
			{ entrySize: 15, usedLength: 16 * MIB },
			{ entrySize: 20, usedLength: 4096 * 65, ignored: true },
			{ entrySize: 15, usedLength: 4096 * 65 },
		]);
		expect(plan).toEqual([
			{
				pageSize: 4096,
				entryOffset: 0x3a,
				headerOffset: 0x49,
				bitmapOffset: 0x65,
				bitmapSize: 512,
				pagesOffset: MIB,
				end: 17 * MIB,
			},
			{
				pageSize: 4096,
				entryOffset: 17 * MIB,
				headerOffset: 17 * MIB + 20,
				bitmapOffset: 0,
				bitmapSize: 0,
				pagesOffset: 0,
				end: 17 * MIB + 48,
			},
			{
				pageSize: 4096,
				entryOffset: 17 * MIB + 48,
				headerOffset: 17 * MIB + 63,
				bitmapOffset: 17 * MIB + 91,
				bitmapSize: 16,
				pagesOffset: 18 * MIB,
				end: 18 * MIB + 4096 * 65,
			},
		]);
		for (const [i, { usedLength }] of [
			[0, { usedLength: 16 * MIB }],
			[2, { usedLength: 4096 * 65 }],
		] as const) {
			const placed = plan[i] as (typeof plan)[number];
			expect(decodeMappedRamHeader(encodeMappedRamHeader(placed), usedLength)).toMatchObject({
				pagesOffset: placed.pagesOffset,
			});
		}
	});

	it('refuses parts of pages and files beyond 53 bits', () => {
		for (const usedLength of [4095, -4096, 2 ** 53]) {
			expect(() => planMappedRam(0, [{ entrySize: 9, usedLength }])).toThrow(
				expect.objectContaining({ code: 'argument' }),
			);
		}
	});

	it('rounds bitmaps up to 64 bits', () => {
		expect([0, 1, 64, 65, 128, 129].map((pages) => mappedRamBitmapSize(pages * 4096))).toEqual([0, 8, 8, 16, 16, 24]);
	});
});

describe('MappedRamBitmap', () => {
	it('has the words of either byte order', () => {
		for (const littleEndian of [true, false]) {
			const bitmap = new MappedRamBitmap(new Uint8Array(16), littleEndian);
			const view = new DataView(bitmap.bytes.buffer);
			for (const page of [0, 9, 63, 64, 127]) bitmap.add(page);
			expect(view.getBigUint64(0, littleEndian)).toBe((1n << 63n) | (1n << 9n) | 1n);
			expect(view.getBigUint64(8, littleEndian)).toBe((1n << 63n) | 1n);
			expect([8, 9, 10, 127, 128].map((page) => bitmap.has(page))).toEqual([false, true, false, true, false]);
			expect(() => bitmap.add(128)).toThrow(/no page 128/);
		}
	});
});

describe('readMappedRam', () => {
	const usedLength = 300 * 4096;
	const build = (pages: readonly number[], littleEndian = true): Uint8Array => {
		const bytes = new Uint8Array(MIB + usedLength);
		const bitmap = new MappedRamBitmap(bytes.subarray(0x100, 0x100 + mappedRamBitmapSize(usedLength)), littleEndian);
		for (const page of pages) {
			bitmap.add(page);
			bytes.fill(page & 0xff, MIB + page * 4096, MIB + (page + 1) * 4096);
		}
		return bytes;
	};

	it('gives runs of the pages that are there, a MiB at most', async () => {
		const pages = [3, 4, ...Array.from({ length: 290 }, (_, i) => i + 8), 299];
		const source = file(build(pages));
		const runs = await all(readMappedRam(source, header, usedLength));
		expect(runs.map(({ address, data }) => [address / 4096, data.length / 4096])).toEqual([
			[3, 2],
			[8, 256],
			[264, 34],
			[299, 1],
		]);
		expect(runs.every(({ offset, address }) => offset === MIB + address)).toBe(true);
		expect(source.longest).toBe(MIB);
	});

	it('ignores bits beyond the block', async () => {
		const bytes = build([0]);
		bytes[0x100 + 300 / 8 + 0.5] = 0xf0;
		expect((await all(readMappedRam(file(bytes), header, usedLength))).length).toBe(1);
	});

	it('says where a file ends early', async () => {
		const bytes = build([299]);
		for (const [length, offset] of [
			[0x110, 0x100],
			[MIB + usedLength - 1, MIB + 299 * 4096],
		] as const) {
			await expect(all(readMappedRam(file(bytes.subarray(0, length)), header, usedLength))).rejects.toMatchObject({
				code: 'truncated',
				offset,
			});
		}
	});

	it('reads a long bitmap in pieces', async () => {
		// 5 GiB of memory, of which two pages are there; the file is computed.
		const long = 5 * 1024 * MIB;
		const wanted = [600_000, 1_300_000];
		const far = { ...header, pagesOffset: 2 * MIB };
		const lengths: number[] = [];
		const source: RandomAccess = {
			async read(offset, length) {
				lengths.push(length);
				const out = new Uint8Array(length);
				for (const page of wanted) {
					const at = header.bitmapOffset + Math.floor(page / 8) - offset;
					if (offset < far.pagesOffset && at >= 0 && at < length) out[at] = 1 << (page & 7);
				}
				return out;
			},
		};
		const runs = await all(readMappedRam(source, far, long));
		expect(runs.map(({ address }) => address / 4096)).toEqual(wanted);
		expect(lengths).toEqual([65536, 65536, 4096, 32768, 4096]);
	});

	property.prop([fc.uniqueArray(fc.nat(299), { maxLength: 120 }), fc.boolean()], { numRuns: 30 })(
		'gives back what the bitmap says, in either byte order',
		async (pages, littleEndian) => {
			const runs = await all(readMappedRam(file(build(pages, littleEndian)), header, usedLength, littleEndian));
			const got = runs.flatMap(({ address, data }) =>
				Array.from({ length: data.length / 4096 }, (_, i) => {
					expect(data[i * 4096]).toBe((address / 4096 + i) & 0xff);
					return address / 4096 + i;
				}),
			);
			expect(got).toEqual([...pages].sort((a, b) => a - b));
		},
	);
});
