import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import {
	contentStream,
	opened,
	pieces,
	randomContent,
	writeBeginning,
	writeEnding,
} from '../../test/image-fixtures.js';
import { page, ramEnd, ramPart, written } from '../../test/streams.js';
import { MultifdWriter } from '../codec/multifd/writer.js';
import type { StreamImage } from '../image.js';
import { createFileStore, createMemoryStore, diffImages, openImage, PageKind, pageAt } from '../image.js';
import type { StreamWriter } from '../index.js';
import { Command } from '../index.js';
import { createCollectingSink } from '../testing.js';

const firstByte = (image: StreamImage, number: number): number | undefined => {
	const block = image.blocks[0];
	return block === undefined ? undefined : pageAt(image, block, number)[0];
};

const four = randomContent(1, [4]);
const part = (writer: StreamWriter, records: () => void): void => {
	writer.sectionBegin(ramPart);
	records();
	writer.endOfRecords();
	writer.sectionEnd(ramPart);
};

/** A channel as bytes. */
function channel(number: number, write: (writer: MultifdWriter) => void): Uint8Array {
	const sink = createCollectingSink();
	write(new MultifdWriter({ write: (data) => sink.write(data), channel: number }));
	return sink.bytes();
}

describe('multifd channels', () => {
	const normal = (address: number, fill: number) => [{ address, data: page(fill) }];
	const main = written((writer) => {
		writeBeginning(writer, four);
		part(writer, () => writer.zeroPage('pc.ram', 3 * PAGE_SIZE, 0));
		part(writer, () => writer.zeroPage('pc.ram', PAGE_SIZE, 0));
		writer.sectionBegin(ramEnd);
		writer.endOfRecords();
		writer.sectionEnd(ramEnd);
		writeEnding(writer, four);
	});
	const zero = channel(0, (w) => {
		w.sync(0n);
		w.pages({ packetNum: 2n, block: 'pc.ram', normal: [...normal(0, 0x10), ...normal(PAGE_SIZE, 0x11)] });
		w.sync(4n);
		w.pages({ packetNum: 7n, block: 'pc.ram', normal: normal(2 * PAGE_SIZE, 0x22) });
		w.sync(8n);
		w.sync(10n);
	});
	const one = channel(1, (w) => {
		w.sync(1n);
		w.pages({ packetNum: 3n, block: 'pc.ram', normal: normal(2 * PAGE_SIZE, 0x12) });
		w.sync(5n);
		w.pages({ packetNum: 6n, block: 'pc.ram', normal: [...normal(0, 0x20), ...normal(3 * PAGE_SIZE, 0x23)] });
		w.sync(9n);
		w.sync(11n);
	});

	it.each([[[0, 1, 2]], [[0, 2, 1]], [[2, 1, 0]], [[1, 0, 2]]])(
		'are merged by barriers, whatever the order of the inputs (%j)',
		async (order) => {
			const all = [await main, zero, one];
			for (const size of [100, 5000, 1 << 20]) {
				const inputs = order.map((i) => ({ source: pieces(all[i] ?? new Uint8Array(0), size) }));
				const image = await opened(inputs);
				// Page 1 is zero in the second interval, on the main channel; page 3 only in the first.
				expect([0, 1, 2, 3].map((number) => firstByte(image, number))).toEqual([0x20, 0, 0x22, 0x23]);
				expect(image.multifd).toMatchObject({ barriers: 4 });
				expect(image.multifd?.channels.map(({ syncs, packets }) => [syncs, packets])).toEqual([
					[4, 6],
					[4, 6],
				]);
			}
		},
	);

	it('name blocks and pages that exist', async () => {
		const bad = (block: string, address: number) =>
			channel(0, (w) => w.pages({ packetNum: 0n, block, normal: normal(address, 1) }));
		const inputs = async (data: Uint8Array) => [{ source: await main }, { source: data }];
		await expect(opened(await inputs(bad('nix', 0)))).rejects.toMatchObject({ name: 'CodecError', code: 'block' });
		await expect(opened(await inputs(bad('pc.ram', 1 << 20)))).rejects.toMatchObject({ code: 'offset' });
	});
});

describe('postcopy', () => {
	const begin = (writer: StreamWriter): void => {
		writeBeginning(writer, four);
		part(writer, () => {
			for (let i = 0; i < 4; i++) writer.rawPage('pc.ram', i * PAGE_SIZE, page(1 + i));
		});
		writer.ramDiscard('pc.ram', [{ start: BigInt(PAGE_SIZE), length: BigInt(3 * PAGE_SIZE) }]);
		writer.command(Command.postcopyListen, new Uint8Array(0));
		writer.command(Command.postcopyRun, new Uint8Array(0));
	};
	const cut = written((writer) => {
		begin(writer);
		writer.sectionBegin(ramPart);
		writer.rawPage('pc.ram', 2 * PAGE_SIZE, page(0x22));
	});
	const recovery = written((writer) => {
		writer.command(Command.postcopyResume, new Uint8Array(0));
		part(writer, () => writer.rawPage('pc.ram', PAGE_SIZE, page(0x21)));
		writer.eof();
	});
	const urgent = written((writer) => {
		writer.rawPage('pc.ram', 3 * PAGE_SIZE, page(0x23));
		writer.endOfRecords();
	});

	it('drops what it discards, and goes on in recovery and on the urgent channel', async () => {
		const image = await opened([
			{ source: await cut },
			{ source: await recovery },
			{ source: await urgent, kind: 'preempt' },
		]);
		expect([0, 1, 2, 3].map((number) => firstByte(image, number))).toEqual([1, 0x21, 0x22, 0x23]);
		expect(image.inputs.map(({ kind }) => kind)).toEqual(['migration', 'recovery', 'preempt']);
		expect(image.postcopy).toBe(true);
		expect(image.notes.join()).toContain('cut at offset');
		const without = await opened([{ source: await cut }, { source: await recovery }]);
		expect(without.blocks[0]?.facts.kindAt(3)).toBe(PageKind.discarded);
		expect(firstByte(without, 3)).toBe(0);
	});

	it('does not excuse a cut without a recovery, or before postcopy', async () => {
		await expect(opened(await cut)).rejects.toMatchObject({ code: 'truncated' });
		const early = (await contentStream(four)).subarray(0, 300);
		await expect(opened([{ source: early }, { source: await recovery }])).rejects.toMatchObject({ code: 'truncated' });
	});
});

describe('facts', () => {
	const data = written((writer) => {
		writeBeginning(writer, four);
		part(writer, () => {
			for (let i = 0; i < 3; i++) writer.rawPage('pc.ram', i * PAGE_SIZE, page(1 + i));
		});
		part(writer, () => {
			writer.zeroPage('pc.ram', PAGE_SIZE, 0);
			writer.zeroPage('pc.ram', 2 * PAGE_SIZE, 9);
		});
		writeEnding(writer, four);
	});

	it('tell what the last record of a page was, how often it was sent and where', async () => {
		const image = await opened(await data);
		const facts = image.blocks[0]?.facts;
		if (facts === undefined) throw new Error('one block');
		expect([0, 1, 2, 3].map((number) => facts.kindAt(number))).toEqual([1, 2, 3, 0]);
		expect([0, 1, 2, 3].map((number) => facts.timesAt(number))).toEqual([1, 2, 2, 0]);
		expect(facts.firstOffset(3)).toBe(-1);
		expect(facts.firstOffset(1)).toBe(facts.firstOffset(0) + 8 + 7 + PAGE_SIZE);
		expect(facts.lastOffset(1)).toBeGreaterThan(facts.firstOffset(2) + PAGE_SIZE);
		expect([...facts.runs()].map(({ kind, start, end }) => [kind, start, end])).toEqual([
			[1, 0, 1],
			[2, 1, 2],
			[3, 2, 3],
			[0, 3, 4],
		]);
		expect(image).toMatchObject({ passes: 2, counts: { raw: 3, zero: 1, filled: 1 } });
		expect(image.sections.map(({ pages, pass }) => [pages.raw, pages.zero, pass])).toEqual([
			[0, 0, 0],
			[3, 0, 1],
			[0, 1, 2],
		]);
		expect(firstByte(image, 1)).toBe(0);
		expect(firstByte(image, 2)).toBe(9);
	});

	it('cost 23 bytes a page, or 3', async () => {
		const block = async (facts: 'full' | 'kinds') => (await opened(await data, { facts })).blocks[0];
		expect((await block('full'))?.facts.bytes).toBe(4 * 23);
		const kinds = await block('kinds');
		expect(kinds?.facts.bytes).toBe(4 * 3);
		expect(kinds?.facts.firstOffset(0)).toBe(-1);
	});

	it('of a hostile block list cost nothing before pages come', async () => {
		const huge = await written((writer) => {
			writer.header();
			writer.configuration({ machineType: 'none', subsections: [] });
			writer.sectionBegin({ ...ramPart, type: 1 });
			writer.blockList([{ idstr: 'a', usedLength: 2 ** 43 }]);
			writer.zeroPage('a', 2 ** 42, 0);
			writer.endOfRecords();
			writer.sectionEnd(ramPart);
			writer.eof();
		});
		const image = await opened(huge);
		expect(image.blocks[0]?.facts.bytes).toBeLessThan(100_000);
		await expect(opened(huge, { ramLimit: 2 ** 40 })).rejects.toMatchObject({ name: 'ImageError', code: 'limit' });
	});
});

describe('stores', () => {
	/** A file in memory, which grows. */
	const memoryFile = () => {
		let data = new Uint8Array(0);
		return {
			get length() {
				return data.length;
			},
			read(at: number, into: Uint8Array): number {
				const got = data.subarray(at, at + into.length);
				into.set(got);
				return got.length;
			},
			write(at: number, bytes: Uint8Array): void {
				if (at + bytes.length > data.length) {
					const grown = new Uint8Array(at + bytes.length);
					grown.set(data);
					data = grown;
				}
				data.set(bytes, at);
			},
		};
	};

	it('in memory and in a file hold the same', async () => {
		const data = await contentStream(randomContent(6, [40, 300, 2]));
		const memory = await opened(data);
		const file = memoryFile();
		const inFile = await openImage(data, { store: createFileStore(file) });
		expect(diffImages(memory, inFile).equal).toBe(true);
		expect(file.length).toBeGreaterThan(2 ** 20);
	});

	it('read what was written, across granules, and zeros after clearing', () => {
		for (const store of [createMemoryStore(), createFileStore(memoryFile())]) {
			const block = store.addBlock('a', 2 ** 20);
			const data = Uint8Array.from({ length: 70_000 }, (_, i) => i % 251);
			store.write(block, 60_000, data);
			const into = new Uint8Array(70_010);
			store.read(block, 59_995, into);
			expect(Buffer.compare(into.subarray(5, 70_005), data)).toBe(0);
			expect([...into.subarray(0, 5), ...into.subarray(-5)]).toEqual(Array(10).fill(0));
			store.clear(block, 61_000, 66_000);
			store.read(block, 59_995, into);
			expect(into.subarray(1005, 67_005).every((byte) => byte === 0)).toBe(true);
			expect(into[1004]).toBe(999 % 251);
			expect(() => store.write(7, 0, data)).toThrow('expected a block below 1, got 7');
		}
	});

	it('in memory stop at their limit', async () => {
		const data = await contentStream(randomContent(6, [40]));
		const store = createMemoryStore({ limit: 65536 });
		await expect(openImage(data, { store })).rejects.toMatchObject({ code: 'limit' });
		expect(store.held).toBe(65536);
	});
});

describe('inputs', () => {
	it('are one stream, and what belongs to it', async () => {
		const data = await contentStream(four);
		await expect(opened([{ source: data }, { source: data }])).rejects.toMatchObject({ code: 'input' });
		await expect(opened([])).rejects.toMatchObject({ name: 'StreamError', code: 'truncated' });
		await expect(opened(new Uint8Array(100))).rejects.toMatchObject({ name: 'StreamError', code: 'not-a-stream' });
	});

	it('report progress, in bytes of the input', async () => {
		const data = await contentStream(four);
		const seen: number[] = [];
		await opened([data.subarray(0, 100), data.subarray(100)], { progress: (bytes) => seen.push(bytes) });
		expect(seen).toEqual([100, data.length]);
	});
});

it('a discard of more than there is costs no time', async () => {
	const data = await written((writer) => {
		writer.header();
		writer.configuration({ machineType: 'none', subsections: [] });
		writer.sectionBegin({ ...ramPart, type: 1 });
		writer.blockList([{ idstr: 'a', usedLength: 2 ** 43 }]);
		writer.zeroPage('a', 2 ** 42, 0);
		writer.endOfRecords();
		writer.sectionEnd(ramPart);
		for (let i = 0; i < 50; i++) writer.ramDiscard('a', [{ start: 0n, length: 2n ** 63n }]);
		writer.eof();
	});
	const image = await opened(data);
	expect(image.blocks[0]?.facts.kindAt(2 ** 30)).toBe(PageKind.discarded);
	expect(diffImages(image, await opened(data)).differingPages).toBe(0);
});
