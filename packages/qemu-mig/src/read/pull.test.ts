import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { beginStream, page, ramPart, smallStream, written } from '../../test/streams.js';
import type { StreamEvent } from '../index.js';
import { createRelay, readStream, StreamReader, StreamWriter } from '../index.js';
import { createCollectingSink } from '../testing.js';

async function* pieces(data: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
	for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

async function all(events: AsyncIterable<StreamEvent>): Promise<StreamEvent[]> {
	const out: StreamEvent[] = [];
	for await (const event of events) out.push(event);
	return out;
}

const manyPages = (count: number): Promise<Uint8Array> =>
	written((w) => {
		beginStream(w, count);
		w.sectionBegin(ramPart);
		for (let i = 0; i < count; i++) w.rawPage('pc.ram', i * PAGE_SIZE, page(i));
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.eof();
	});

describe('readStream', () => {
	it('gives what a handler is told, in order, with places of its own', async () => {
		const data = await smallStream();
		const names: string[] = [];
		const relay = createRelay(new StreamWriter(createCollectingSink()));
		const handler = Object.fromEntries(Object.keys(relay).map((name) => [name, () => names.push(name)]));
		const reader = new StreamReader({ dialect: 'sev-v4', handler });
		reader.push(data);
		reader.end();
		for (const size of [1, 50, data.length]) {
			const events = await all(readStream(pieces(data, size), { dialect: 'sev-v4' }));
			expect(events.map(({ type }) => type)).toEqual([...names, 'end']);
			expect(new Set(events.map((event) => ('at' in event ? event.at : undefined))).size).toBe(events.length);
		}
	});

	it('gives bytes that stay valid: views of the chunk, or copies of what straddles chunks', async () => {
		const data = await manyPages(20);
		const [chunk] = [data.slice()];
		const whole = await all(readStream([chunk], { dialect: 'qemu-7.2' }));
		const views = whole.filter((event) => event.type === 'rawPage' && event.page.buffer === chunk.buffer);
		// One page straddles the 64 KiB that are read at a time.
		expect(views.length).toBe(19);
		for (const size of [100, 5000, 70000]) {
			const events = await all(readStream(pieces(data, size), { dialect: 'qemu-7.2' }));
			const pages = events.flatMap((event) => (event.type === 'rawPage' ? [event.page] : []));
			expect(pages.map((bytes, i) => bytes.every((byte) => byte === i))).toEqual(Array(20).fill(true));
		}
	});

	it('copies for a source that reuses its chunk, if asked', async () => {
		const data = await manyPages(20);
		const buffer = new Uint8Array(30000);
		async function* reusing(): AsyncGenerator<Uint8Array> {
			for (let at = 0; at < data.length; at += buffer.length) {
				const part = data.subarray(at, at + buffer.length);
				buffer.set(part);
				yield buffer.subarray(0, part.length);
				buffer.fill(0xcc);
			}
		}
		const events = await all(readStream(reusing(), { dialect: 'qemu-7.2', copy: true }));
		const pages = events.flatMap((event) => (event.type === 'rawPage' ? [event.page] : []));
		expect(pages.map((bytes, i) => bytes.every((byte) => byte === i))).toEqual(Array(20).fill(true));
	});

	it('throws after the events before the fault', async () => {
		const data = (await manyPages(3)).slice(0, -1);
		const seen: string[] = [];
		const run = async (): Promise<void> => {
			for await (const event of readStream([data], { dialect: 'qemu-7.2' })) seen.push(event.type);
		};
		await expect(run()).rejects.toMatchObject({ name: 'StreamError', code: 'truncated' });
		expect(seen.filter((type) => type === 'rawPage').length).toBe(3);
		expect(seen.at(-1)).toBe('sectionEnd');
	});

	it('reads its source no further than asked, and closes it', async () => {
		const data = await manyPages(100);
		let given = 0;
		let closed = false;
		async function* source(): AsyncGenerator<Uint8Array> {
			try {
				for (const piece of [data.subarray(0, 20000), data.subarray(20000)]) {
					given += piece.length;
					yield piece;
				}
			} finally {
				closed = true;
			}
		}
		for await (const event of readStream(source(), { dialect: 'qemu-7.2' })) if (event.type === 'rawPage') break;
		expect(given).toBe(20000);
		expect(closed).toBe(true);
	});

	it('reads a web stream, and cancels it', async () => {
		const data = await smallStream();
		const web = (): ReadableStream<Uint8Array> => new Blob([Uint8Array.from(data)]).stream();
		expect((await all(readStream(web(), { dialect: 'sev-v4' }))).at(-1)).toMatchObject({ type: 'end' });
		let cancelled = false;
		const endless = new ReadableStream<Uint8Array>({
			pull: (controller) => controller.enqueue(Uint8Array.from(data)),
			cancel: () => {
				cancelled = true;
			},
		});
		for await (const { type } of readStream(endless, { dialect: 'sev-v4' })) if (type === 'eof') break;
		expect(cancelled).toBe(true);
	});

	it('finds out the dialect, and says so first', async () => {
		const data = await smallStream();
		for (const size of [100, data.length]) {
			const events = await all(readStream(pieces(data, size), { dialect: 'auto' }));
			expect(events[0]).toMatchObject({ type: 'dialect', detection: { best: 'sev-v4' } });
			const forced = await all(readStream(pieces(data, size), { dialect: 'sev-v4' }));
			expect(events.slice(1)).toEqual(forced);
		}
	});

	it('holds back no more than the look-ahead', async () => {
		const data = await manyPages(50);
		let given = 0;
		let closed = false;
		async function* counted(): AsyncGenerator<Uint8Array> {
			try {
				for await (const piece of pieces(data, 4096)) {
					given += piece.length;
					yield piece;
				}
			} finally {
				closed = true;
			}
		}
		const events = readStream(counted(), { dialect: 'auto', lookAhead: 10000 });
		expect((await events.next()).value).toMatchObject({ type: 'dialect', detection: { certain: false } });
		expect(given).toBe(3 * 4096);
		await events.return();
		expect(closed).toBe(true);
	});

	it('does not grow with the stream', async () => {
		const start = await written((w) => {
			beginStream(w, 2 ** 20);
			w.sectionBegin(ramPart);
			w.rawPage('pc.ram', 0, page(1));
		});
		const more = await written((w) => {
			for (let i = 0; i < 256; i++) w.rawPage('pc.ram', i * PAGE_SIZE, page(1), true);
		});
		function* source(): Generator<Uint8Array> {
			yield start;
			for (let i = 0; i < 200; i++) yield more;
		}
		let pages = 0;
		let most = 0;
		const before = process.memoryUsage().arrayBuffers;
		const run = async (): Promise<void> => {
			for await (const event of readStream(source(), { dialect: 'qemu-7.2' })) {
				if (event.type !== 'rawPage') continue;
				if (++pages % 1000 === 0) most = Math.max(most, process.memoryUsage().arrayBuffers - before);
			}
		};
		await expect(run()).rejects.toMatchObject({ code: 'truncated' });
		expect(pages).toBe(1 + 200 * 256);
		// 200 MiB went through; the copies are those of pages that straddle 64 KiB, until the collector comes.
		expect(most).toBeLessThan(64 * 1024 * 1024);
	});
});
