import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { beginStream, page, ramEnd, ramPart, thrown, written } from '../../test/streams.js';
import { createMemoryStore, openImage, verifyStream } from '../image.js';
import type { StreamHandler, StreamWriter } from '../index.js';
import { StreamReader } from '../index.js';

const PAGES = 300;

/** Records of pages: zeros, other fills, raw ones, some named though they need not be. */
const records = fc.array(
	fc.record({
		kind: fc.constantFrom('run', 'run', 'zero', 'fill', 'raw', 'named'),
		first: fc.nat(PAGES - 1),
		count: fc.integer({ min: 1, max: 120 }),
	}),
	{ maxLength: 20 },
);
type Records = { readonly kind: string; readonly first: number; readonly count: number }[];

function write(w: StreamWriter, list: Records): void {
	beginStream(w, PAGES);
	w.sectionBegin(ramPart);
	for (const { kind, first, count } of list) {
		const address = first * PAGE_SIZE;
		if (kind === 'fill') w.zeroPage('pc.ram', address, 7);
		else if (kind === 'raw') w.rawPage('pc.ram', address, page(0));
		else if (kind === 'named') w.zeroPage('pc.ram', address, 0, false);
		else {
			const last = kind === 'run' ? Math.min(PAGES, first + count) : first + 1;
			for (let i = first; i < last; i++) w.zeroPage('pc.ram', i * PAGE_SIZE, 0);
		}
	}
	w.endOfRecords();
	w.sectionEnd(ramPart);
	w.sectionBegin(ramEnd);
	w.endOfRecords();
	w.sectionEnd(ramEnd);
	w.eof();
}

/** Every page of zeros with its place, from a reader that tells runs or one that does not. */
function told(data: Uint8Array, chunk: number, runs: boolean): string[] {
	const out: string[] = [];
	const single: StreamHandler = {
		zeroPage: (block, address, fill, at) => out.push(`${block} ${address} ${fill} ${at.offset}`),
		rawPage: (block, address) => out.push(`${block} ${address} raw`),
	};
	const handler: StreamHandler = {
		...single,
		zeroPages: (block, address, count, at) => {
			expect(count).toBeGreaterThan(1);
			expect(at.length).toBe(9 * count);
			for (let i = 0; i < count; i++) out.push(`${block} ${address + i * PAGE_SIZE} 0 ${at.offset + 9 * i}`);
		},
	};
	const reader = new StreamReader({ dialect: 'qemu-7.2', handler: runs ? handler : single, check: 'target' });
	for (let at = 0; at < data.length; at += chunk) reader.push(data.subarray(at, at + chunk));
	reader.end();
	return out;
}

describe('runs of zero pages', () => {
	test.prop([records, fc.constantFrom(7, 64, 1000, 2 ** 20)], { numRuns: 60 })(
		'are the pages that a reader without them tells, at the same places',
		async (list, chunk) => {
			const data = await written((w) => write(w, list));
			expect(told(data, chunk, true)).toEqual(told(data, chunk, false));
		},
	);

	test.prop([records], { numRuns: 40 })('leave the facts that single records leave', async (list) => {
		const data = await written((w) => write(w, list));
		// With page contents each page is noted by itself.
		const kept = await openImage(data, { store: createMemoryStore() });
		for (const { blocks, counts, passes, sections } of [
			await openImage(data, {}),
			await openImage(data, { facts: 'kinds' }),
			(await verifyStream(data)).image,
		]) {
			expect([counts, passes, sections]).toEqual([kept.counts, kept.passes, kept.sections]);
			const [block, other] = [blocks[0]?.facts, kept.blocks[0]?.facts];
			if (block === undefined || other === undefined) throw new Error('one block');
			expect([...block.runs()]).toEqual([...other.runs()]);
			for (let i = 0; i < PAGES; i++) expect(block.timesAt(i)).toBe(other.timesAt(i));
			if (block.lastOffset(list[0]?.first ?? 0) < 0) continue;
			for (let i = 0; i < PAGES; i++) {
				expect([block.firstOffset(i), block.lastOffset(i)]).toEqual([other.firstOffset(i), other.lastOffset(i)]);
			}
		}
	});

	it('end where a block ends, and what lies behind is refused as ever', async () => {
		const data = await written((w) => {
			beginStream(w, 4);
			w.sectionBegin(ramPart);
			for (let i = 0; i < 6; i++) w.zeroPage('pc.ram', i * PAGE_SIZE, 0);
		});
		const pages: number[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			check: 'target',
			handler: {
				zeroPage: (_block, address) => pages.push(address / PAGE_SIZE),
				zeroPages: (_block, address, count) => pages.push(address / PAGE_SIZE, count),
			},
		});
		expect(thrown(() => reader.push(data))).toMatchObject({
			code: 'offset',
			qemu: [expect.stringMatching(/offset 4000/), expect.anything()],
		});
		// Page 0 has a name; 1 to 3 are a run.
		expect(pages).toEqual([0, 1, 3]);
		const { findings } = await verifyStream(data);
		expect(findings.find(({ rule }) => rule === 'stream/offset')).toBeDefined();
	});

	it('cross from one four-gigabyte stretch of a block into the next', async () => {
		const base = 2 ** 32 / PAGE_SIZE - 3;
		const data = await written((w) => {
			beginStream(w, base + 10);
			w.sectionBegin(ramPart);
			for (let i = 0; i < 10; i++) w.zeroPage('pc.ram', (base + i) * PAGE_SIZE, 0);
			w.endOfRecords();
			w.sectionEnd(ramPart);
			w.eof();
		});
		expect(told(data, 2 ** 20, true)).toEqual(told(data, 2 ** 20, false));
		expect((await verifyStream(data)).image.counts.zero).toBe(10);
	});
});
