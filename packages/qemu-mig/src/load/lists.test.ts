import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { mappedStream } from '../../test/dialect-streams.js';
import { beginStream, page, ramEnd, ramPart, thrown, written } from '../../test/streams.js';
import type { Dialect, LoaderOptions, StreamWriter } from '../index.js';
import { createLoader } from '../index.js';
import { createFakeTarget, TOY_PREFIX } from '../testing.js';

function load(o: Partial<LoaderOptions> & { readonly dialect: Dialect }, pages: readonly number[] = [4]) {
	const names = pages.length === 1 ? ['pc.ram'] : pages.map((_, i) => `ram${i}`);
	const target = createFakeTarget(names.map((idstr, i) => ({ idstr, usedLength: (pages[i] ?? 0) * PAGE_SIZE })));
	const loader = createLoader({ sink: target, machineType: 'none', device: () => 'loaded', finish: () => {}, ...o });
	return { target, loader };
}

/** A stream with one record in a PART, then END and a description. */
const withRecord = (record: (w: StreamWriter) => void): Promise<Uint8Array> =>
	written((w) => {
		beginStream(w);
		w.sectionBegin(ramPart);
		record(w);
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.sectionBegin(ramEnd);
		w.endOfRecords();
		w.sectionEnd(ramEnd);
		w.eof();
		w.vmDescription(new TextEncoder().encode('{"page_size": 4096, "devices": []}'));
	});

const slot = (startGpa: bigint, pages: number, ...bitmap: number[]) => ({
	...{ word: 1, startGpa, pages: BigInt(pages), bitmap: Uint8Array.from(bitmap) },
});

describe('the bitmap of sev-v1', () => {
	it('tells the sink which pages are shared', async () => {
		const data = await withRecord((w) =>
			w.encryptedBitmap('pc.ram', 0, [
				slot(0n, 24, 0xff, 0b0110_0111, 0xff, 0, 0, 0, 0, 0),
				slot(0x100000n, 3, 0b0000_0010, 0, 0, 0, 0, 0, 0, 0),
				slot(0x200000n, 8, 0xff, 0, 0, 0, 0, 0, 0, 0),
			]),
		);
		const { loader, target } = load({ dialect: 'sev-v1' });
		loader.push(data);
		loader.end();
		expect(target.opener.regions).toEqual([
			{ gfnStart: 11, gfnEnd: 13 },
			{ gfnStart: 15, gfnEnd: 16 },
			{ gfnStart: 0x100, gfnEnd: 0x101 },
			{ gfnStart: 0x102, gfnEnd: 0x103 },
		]);
		expect(loader.progress.parts.has('shared-regions')).toBe(true);
		expect(await loader.outcome).toMatchObject({ status: 'running' });
	});

	it('is refused if it has more ranges than lists may have', async () => {
		const data = await withRecord((w) =>
			w.encryptedBitmap('pc.ram', 0, [slot(0n, 64, ...Array.from({ length: 8 }, () => 0x55))]),
		);
		const { loader } = load({ dialect: 'sev-v1', limits: { sharedRegions: 31 } });
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'too-large' });
		load({ dialect: 'sev-v1', limits: { sharedRegions: 32 } }).loader.push(data);
	});

	it('needs a host that opens pages', async () => {
		const data = await withRecord((w) => w.encryptedBitmap('pc.ram', 0, []));
		const { opener: _, ...sink } = createFakeTarget([{ idstr: 'pc.ram', usedLength: 4 * PAGE_SIZE }]);
		const { loader } = load({ dialect: 'sev-v1', sink });
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'encrypted' });
	});
});

describe('the list of sev-list', () => {
	const list = (start: number, ...regions: (readonly [bigint, bigint])[]) => ({
		...{ start, end: start === 1 ? 2 : undefined },
		regions: regions.map(([gfnStart, gfnEnd]) => ({ gfnStart, gfnEnd })),
	});

	it('reaches the sink, after the sealed pages before it', async () => {
		const order: string[] = [];
		const { loader, target } = load({ dialect: 'sev-list' });
		const { opener } = target;
		opener.open = (_block, _pages, count) => void order.push(`open ${count}`);
		const { sharedRegions } = opener;
		opener.sharedRegions = (regions) => {
			order.push('regions');
			sharedRegions.call(opener, regions);
		};
		const data = await withRecord((w) => {
			w.encryptedPage('pc.ram', 0, new Uint8Array(52), page(1), TOY_PREFIX);
			w.hostRegions('pc.ram', 0, list(1, [2n, 4n], [0xfffffn, 0x100000n]));
		});
		loader.push(data);
		loader.end();
		expect(order).toEqual(['open 1', 'regions']);
		expect(opener.regions).toEqual([
			{ gfnStart: 2, gfnEnd: 4 },
			{ gfnStart: 0xfffff, gfnEnd: 0x100000 },
		]);
		expect(await loader.outcome).toEqual({ status: 'running', complete: false, missing: ['devices'] });
	});

	it('may be none', async () => {
		const { loader, target } = load({ dialect: 'sev-list' });
		loader.push(await withRecord((w) => w.hostRegions('pc.ram', 0, list(0))));
		expect(target.opener.regions).toEqual([]);
	});

	it('has frames that a number can hold', async () => {
		const { loader } = load({ dialect: 'sev-list' });
		const data = await withRecord((w) => w.hostRegions('pc.ram', 0, list(1, [2n ** 60n + 1n, 2n ** 63n])));
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'record' });
	});
});

describe('a mapped-ram file', () => {
	const sizes = [10, 70, 1];

	it('is loaded as it comes, absent pages as zeros', async () => {
		const data = await mappedStream(sizes);
		const { loader, target } = load({ dialect: 'qemu-9', machineType: 'pc-q35-9.0', mappedRam: true }, sizes);
		for (let at = 0; at < data.length; at += 10_007) loader.push(data.subarray(at, at + 10_007));
		loader.end();
		expect(await loader.outcome).toMatchObject({ status: 'running' });
		expect(loader.progress.plainPages + loader.progress.zeroPages).toBe(81);
		expect(loader.progress.zeroPages).toBeGreaterThan(0);
		// Nothing of what was there before is left.
		expect(target.memory.some((bytes) => bytes.includes(0xee))).toBe(false);
	});

	it('is refused where the capability is off, and the other way round, in QEMU’s words', async () => {
		const data = await mappedStream(sizes);
		const off = load({ dialect: 'qemu-9', machineType: 'pc-q35-9.0' }, sizes).loader;
		expect(thrown(() => off.push(data))).toMatchObject({
			qemu: ['Capability mapped-ram is off, but received capability is on'],
		});
		const old = load({ dialect: 'qemu-7.2', machineType: 'pc-q35-9.0', mappedRam: true }, sizes).loader;
		expect(thrown(() => old.push(data))).toMatchObject({
			qemu: ['Received unknown capability mapped-ram', 'Failed to load configuration/capabilities:capabilities'],
		});
		const on = load({ dialect: 'qemu-9', mappedRam: true }).loader;
		const plain = await withRecord((w) => w.zeroPage('pc.ram', 0, 0));
		expect(thrown(() => on.push(plain))).toMatchObject({
			qemu: ['Capability mapped-ram is on, but received capability is off'],
		});
	});

	it('must have the blocks of the host', async () => {
		const { loader } = load({ dialect: 'qemu-9', machineType: 'pc-q35-9.0', mappedRam: true }, [10, 71, 1]);
		const data = await mappedStream(sizes);
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'block' });
	});
});
