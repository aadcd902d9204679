import { PAGE_SIZE, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { noneMachine } from '../../test/fixtures/none-machine.js';
import { page, written } from '../../test/streams.js';
import { describeSections, SealedBatch, StreamWriter } from '../index.js';
import { createCollectingSink, TOY_PREFIX } from '../testing.js';

describe('RAM records', () => {
	it('are those of QEMU 7.2 (q35, 64 MiB: zero pages at 0 and 0x1000)', async () => {
		const bytes = await written((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.zeroPage('pc.ram', 0x1000, 0);
		});
		expect(toHex(bytes)).toBe(`0000000000000002${'06'}70632e72616d${'00'}0000000000001022${'00'}`);
	});

	it('name a block again after another block', async () => {
		const bytes = await written((w) => {
			w.zeroPage('a', 0, 0);
			w.zeroPage('b', 0, 0);
			w.zeroPage('a', 0x1000, 1);
		});
		expect(toHex(bytes)).toBe('00000000000000020161000000000000000002016200000000000000100201610' + '1');
	});

	it('keep offsets above 4 GiB', async () => {
		const bytes = await written((w) => w.zeroPage('a', 0x123456789000, 0));
		expect(toHex(bytes.subarray(0, 8))).toBe('0000123456789002');
	});

	it('refuse pages of another size and names that do not fit', async () => {
		const writer = new StreamWriter(createCollectingSink());
		expect(() => writer.rawPage('a', 0, new Uint8Array(4095))).toThrow('page: expected 4096 bytes, got 4095');
		expect(() => writer.zeroPage('x'.repeat(256), 0, 0)).toThrow('name: expected at most 255 bytes, got 256');
		expect(() => writer.zeroPage('\u0100', 0, 0)).toThrow('name: expected characters of one byte');
	});
});

describe('a sealed batch', () => {
	const fill = (batch: SealedBatch, pages: readonly number[]): void => {
		for (const [i, number] of pages.entries()) {
			batch.add(number);
			const { header, payload, stride } = batch.layout;
			batch.bytes.fill(0x10 + i, header + i * stride, header + i * stride + 52);
			batch.bytes.fill(0x20 + i, payload + i * stride, payload + i * stride + PAGE_SIZE);
		}
	};

	it('has records of 4168 bytes with a 52-byte header, the first of a stream 2224 and the name longer', async () => {
		expect(SealedBatch.stride(52)).toBe(4168);
		const batch = new SealedBatch(new Uint8Array(4168), 52, 1);
		fill(batch, [5]);
		const first = await written((w) => void w.sealedBatch('pc.ram', batch, TOY_PREFIX));
		expect(first.length).toBe(4168 + 2224 + 7);
	});

	it('is the same bytes as its pages written one by one', async () => {
		const batch = new SealedBatch(new Uint8Array(3 * 4168), 52, 3);
		fill(batch, [1, 2, 0x12345678]);
		const bytes = await written((w) => {
			w.sealedBatch('pc.ram', batch, TOY_PREFIX);
			w.sealedBatch('pc.ram', batch);
		});
		const single = await written((w) => {
			for (const prefix of [TOY_PREFIX, undefined]) {
				for (const [i, number] of [1, 2, 0x12345678].entries()) {
					const header = new Uint8Array(52).fill(0x10 + i);
					w.encryptedPage('pc.ram', number * PAGE_SIZE, header, page(0x20 + i), i === 0 ? prefix : undefined);
				}
			}
		});
		expect(bytes).toEqual(single);
	});

	it('needs a buffer for all its records', () => {
		expect(() => new SealedBatch(new Uint8Array(100), 52, 1)).toThrow('batch buffer: expected 4168 bytes, got 100');
	});
});

describe('the description', () => {
	it('has the separators and members QEMU 7.2 writes for old-style devices', () => {
		const text = new TextDecoder().decode(describeSections([{ idstr: 'timer', instanceId: 0, size: 24 }]));
		expect(text).toBe(
			'{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "size": 24, ' +
				'"fields": [{"name": "data", "size": 24, "type": "buffer"}]}]}',
		);
		const real = new TextDecoder().decode(noneMachine().subarray(0x105));
		expect(real.startsWith('{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, ')).toBe(true);
		expect(new TextDecoder().decode(describeSections([]))).toBe('{"page_size": 4096, "devices": []}');
	});

	it('is padded so that no byte of its length looks like the start of the JSON', () => {
		const without = describeSections([{ idstr: '', instanceId: 0, size: 0 }]).length;
		const one = describeSections([{ idstr: 'x'.repeat(0x17b - without), instanceId: 0, size: 0 }]);
		expect(one.length).toBe(0x17c);
		expect(JSON.parse(new TextDecoder().decode(one)).page_size).toBe(4096);
	});

	it('is ASCII whatever the names hold', () => {
		const bytes = describeSections([{ idstr: 'a"\u00e9', instanceId: 0, size: 0 }]);
		expect(bytes.every((byte) => byte < 0x7f)).toBe(true);
		expect(JSON.parse(new TextDecoder().decode(bytes)).devices[0].name).toBe('a"\u00e9');
	});
});

describe('back-pressure', () => {
	it('asks for a pause when three chunks are on their way, and keeps order and contents', async () => {
		const sink = createCollectingSink({ manual: true });
		const writer = new StreamWriter(sink);
		let pages = 0;
		while (writer.ready() === undefined) writer.rawPage('a', 0, page(pages++ & 0xff));
		expect(sink.pending).toBe(3);
		expect(pages * PAGE_SIZE).toBeLessThan(4 * 256 * 1024);
		const flushed = writer.flush();
		while (sink.release());
		await flushed;
		const expected = await written((w) => {
			for (let i = 0; i < pages; i++) w.rawPage('a', 0, page(i & 0xff));
		});
		expect(Buffer.compare(sink.bytes(), expected)).toBe(0);
		expect(writer.position).toBe(expected.length);
	});

	it('reports a failed write at the next occasion, and nothing rejects unheard', async () => {
		const sink = createCollectingSink({ manual: true });
		const writer = new StreamWriter(sink);
		writer.header();
		const flushed = writer.flush();
		sink.fail(new Error('gone'));
		await expect(flushed).rejects.toThrow('gone');
		expect(() => writer.ready()).toThrow('gone');
	});
});
