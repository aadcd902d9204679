import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { PACKET_PAGES, vectorPage, ZSTD_PACKETS } from '../../../test/zstd-vectors.js';
import { joined } from '../deflate-stream.js';
import { isCodecError } from '../error.js';
import { ZstdChannelInflater } from './channel.js';
import { ZstdDecoder } from './decoder.js';
import { ZstdStoredEncoder } from './stored.js';

const packets = (level: keyof typeof ZSTD_PACKETS): Uint8Array[] =>
	ZSTD_PACKETS[level].map((text) => new Uint8Array(Buffer.from(text, 'base64')));
const pagesOf = (packet: number): Uint8Array => {
	const first = PACKET_PAGES.slice(0, packet).reduce((sum, count) => sum + count, 0);
	return joined(Array.from({ length: PACKET_PAGES[packet] as number }, (_, i) => vectorPage(first + i)));
};
const allPages = joined(PACKET_PAGES.map((_, i) => pagesOf(i)));

function decode(data: Uint8Array, step = data.length || 1): { content: Uint8Array; complete: boolean } {
	const pieces: Uint8Array[] = [];
	const decoder = new ZstdDecoder((piece) => pieces.push(piece.slice()));
	for (let at = 0; at < data.length; at += step) decoder.push(data.subarray(at, at + step));
	return { content: joined(pieces), complete: decoder.complete };
}
const code = (run: () => void): unknown => {
	try {
		run();
		return 'ok';
	} catch (error) {
		return isCodecError(error) ? error.code : error;
	}
};
/** Magic, frame header, blocks as type and content (a length for runs). */
function frame(header: number[], ...blocks: [type: number, content: number[], size?: number][]): Uint8Array {
	const body = blocks.flatMap(([type, content, size], i) => {
		const word = ((size ?? content.length) << 3) | (type << 1) | Number(i === blocks.length - 1);
		return [word & 0xff, (word >> 8) & 0xff, word >> 16, ...content];
	});
	return Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, ...header, ...body);
}
/** No content size, a window of 128 KiB. */
const PLAIN = [0x00, 0x38];

describe('ZstdDecoder', () => {
	it.each(['level1', 'level19'] as const)(
		'gives the pages of each packet of libzstd at %s as soon as it is here',
		(level) => {
			const channel = new ZstdChannelInflater();
			for (const [i, packet] of packets(level).entries()) {
				const out = new Uint8Array(pagesOf(i).length);
				channel.inflate(packet, out);
				expect(out).toEqual(pagesOf(i));
			}
		},
	);

	it.each([1, 2, 17, 1000])('does not care how its input is cut: %i bytes', (step) => {
		for (const level of ['level1', 'level19'] as const) {
			expect(decode(joined(packets(level)), step)).toEqual({ content: allPages, complete: false });
		}
	});

	it('reads stored blocks, runs, several frames, and skips others', () => {
		const skipped = Uint8Array.of(0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9);
		const first = frame(PLAIN, [0, [1, 2, 3]], [1, [7], 5]);
		const sized = frame([0x20, 2], [0, [8, 9]]);
		const got = decode(joined([skipped, first, sized, skipped]), 1);
		expect(got).toEqual({ content: Uint8Array.of(1, 2, 3, 7, 7, 7, 7, 7, 8, 9), complete: true });
	});

	it('reads what RFC 8878 allows in a header: sizes of 2, 4 and 8 bytes, a checksum, dictionary 0', () => {
		const content = new Array<number>(300).fill(5);
		const run = [1, [5], 300] as [number, number[], number];
		for (const header of [
			[0x60, 44, 0],
			[0xa0, 44, 1, 0, 0],
			[0xe0, 44, 1, 0, 0, 0, 0, 0, 0],
			[0x01, 0x38, 0],
			[0x03, 0x38, 0, 0, 0, 0],
		]) {
			expect([...decode(frame(header, run)).content]).toEqual(content);
		}
		const checked = joined([frame([0x04, 0x38], run), Uint8Array.of(1, 2, 3, 4)]);
		expect(decode(checked).complete).toBe(true);
		expect(decode(checked.subarray(0, -1)).complete).toBe(false);
	});

	it.each([
		['magic', Uint8Array.of(1, 2, 3, 4)],
		['malformed', frame([0x08, 0x38])],
		['unsupported', frame([0x01, 0x38, 7])],
		['too-large', frame([0x00, 0xff])],
		['too-large', frame([0xa0, 1, 0, 0, 4])],
		['too-large', frame([0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80])],
		['malformed', frame(PLAIN, [3, []])],
		['too-large', frame(PLAIN, [1, [7], 0x20001])],
		['too-large', frame([0x00, 0x00], [1, [7], 1025])],
		['too-long', frame([0x20, 2], [1, [7], 2], [1, [7], 1])],
		['too-short', frame([0x20, 2], [1, [7], 1])],
		['malformed', frame(PLAIN, [2, [0]])],
	])('refuses with %s', (expected, data) => expect(code(() => decode(data))).toBe(expected));

	it.each([
		['no sections', [0], /less than 2 bytes/],
		['literals beyond the block', [0x50, 1, 2], /literals: reach beyond the block/],
		['more literals than a block holds', [0x0c, 0xff, 0xff, 0], /literals: expected 131072 at most/],
		['no sequences', [0x08, 1], /sequences: missing/],
		['bytes after no sequences', [0x08, 1, 0, 0], /none, but bytes follow/],
		['a count cut short', [0x08, 1, 0xff, 0], /count reaches beyond/],
		['no modes', [0x08, 1, 1], /modes are missing/],
		['reserved mode bits', [0x08, 1, 1, 0x01, 0x80], /reserved bits/],
		['a repeated table never sent', [0x08, 1, 1, 0xfc, 0x80], /literal lengths: repeat a table/],
		['a repeated Huffman table never sent', [0x13, 0x40, 0x00, 0x80, 0x00], /Huffman table that was never sent/],
		['a Huffman table beyond the literals', [0x12, 0x40, 0x00, 0x20, 0x00], /Huffman table: reaches beyond/],
		['too heavy a weight', [0x12, 0xc0, 0x00, 0x81, 0xcc, 0x80, 0], /weights up to 11/],
		['weights that leave no room', [0x12, 0xc0, 0x00, 0x82, 0x31, 0x00, 0], /no room for the last symbol/],
		['no end mark', [0x08, 1, 1, 0x00, 0x00], /expected an end mark/],
		['too few bits', [0x08, 1, 1, 0x00, 0x02], /bits end early/],
		['bits left over', [0x08, 1, 1, 0x54, 1, 0, 0, 0x02], /bits are left over/],
		['an impossible code', [0x08, 1, 1, 0x54, 36, 0, 0, 0x80], /literal lengths: no such code/],
		['an entropy table of too many bits', [0x08, 1, 1, 0x80, 0x0f, 0, 0, 0x80], /accuracy of 9 bits/],
		['an entropy table cut short', [0x08, 1, 1, 0x80, 0x04], /entropy table: ends early/],
		['an offset before the frame', [0x08, 1, 1, 0x54, 1, 2, 0, 0x07], /reaches before the frame/],
		['a repeated offset of 0', [0x00, 1, 0x54, 0, 1, 0, 0x03], /repeated offset of 0/],
		['more literals than there are', [0x08, 1, 1, 0x54, 5, 0, 0, 0x01], /more literals than there are/],
		['more bytes than a block', [0x08, 1, 1, 0x54, 1, 0, 52, 0xff, 0xff, 0x01], /decodes to more than 131072/],
	])('refuses a block with %s', (_, content, message) => {
		const data = frame(PLAIN, [2, content]);
		expect(code(() => decode(data))).toBe('malformed');
		expect(() => decode(data)).toThrow(message);
	});

	it('does not hang on Huffman weights that take no bits', () => {
		// An entropy table of one symbol with all 64 of 64 probabilities, so that states change without bits.
		const table = [0x04, 0xf1, 0x07, 0x00, 0x80];
		const literals = [0x02 | (1 << 4), ((table.length + 1) << 6) & 0xff, (table.length + 1) >> 2, ...table, 0x80];
		expect(() => decode(frame(PLAIN, [2, [...literals, 0]]))).toThrow(/more than 255 weights/);
	});

	it('decodes a block of one sequence', () => {
		// Literal a, then 3 bytes from 1 back: codes 1, 0 (a repeated offset of 1), 0; the end mark alone.
		const block = [0x08, 0x61, 1, 0x54, 1, 0, 0, 0x01];
		expect(decode(frame(PLAIN, [2, block])).content).toEqual(Uint8Array.of(0x61, 0x61, 0x61, 0x61));
	});

	it('is closed after an error', () => {
		const decoder = new ZstdDecoder(() => {});
		expect(code(() => decoder.push(Uint8Array.of(1, 2, 3, 4)))).toBe('magic');
		expect(code(() => decoder.push(Uint8Array.of(1)))).toBe('closed');
	});

	it('keeps a window no longer than asked for while it decodes more', () => {
		// 40 runs of 128 KiB in a window of 128 KiB; the last refers back.
		const runs = Array.from({ length: 40 }, (_, i): [number, number[], number] => [1, [i], 0x20000]);
		let total = 0;
		const decoder = new ZstdDecoder((piece) => {
			total += piece.length;
		});
		const before = process.memoryUsage().arrayBuffers;
		decoder.push(frame(PLAIN, ...runs, [2, [0x00, 1, 0x54, 0, 0, 0, 0x01]]));
		expect(total).toBe(40 * 0x20000 + 3);
		expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 * 1024 * 1024);
	});

	property.prop(
		[
			fc.constantFrom(1, 2, 3),
			fc.constantFrom('level1', 'level19'),
			fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }),
		],
		{ numRuns: 500 },
	)('ends typed on damaged streams', (count, level, damage) => {
		const data = joined(packets(level as keyof typeof ZSTD_PACKETS).slice(0, count + 1));
		for (const [at, value] of damage) data[at % data.length] = value;
		const got = code(() => decode(data));
		expect(['ok', 'malformed', 'magic', 'too-large', 'too-short', 'too-long', 'unsupported']).toContain(got);
	});

	property.prop([fc.uint8Array({ maxLength: 300 })], { numRuns: 500 })('ends typed on any block', (data) => {
		expect(['ok', 'malformed']).toContain(code(() => decode(frame(PLAIN, [2, [...data]]))));
	});
});

describe('ZstdChannelInflater', () => {
	it('fails when a packet gives more or less than its pages, and stays failed', () => {
		for (const [size, expected] of [
			[8192, 'too-short'],
			[4095, 'too-long'],
		] as const) {
			const channel = new ZstdChannelInflater();
			const [first] = packets('level1') as [Uint8Array];
			expect(code(() => channel.inflate(first, new Uint8Array(size)))).toBe(expected);
			expect(code(() => channel.inflate(first, new Uint8Array(4096)))).toBe('closed');
		}
	});
});

describe('ZstdStoredEncoder', () => {
	it('writes frames that read back, runs as runs', () => {
		const encoder = new ZstdStoredEncoder();
		const written = [encoder.encode(allPages), encoder.encode(new Uint8Array(8192)), encoder.end()];
		expect((written[1] as Uint8Array).length).toBe(8);
		expect(decode(joined(written))).toEqual({ content: joined([allPages, new Uint8Array(8192)]), complete: true });
	});

	it('gives a packet complete in itself', () => {
		const [encoder, channel] = [new ZstdStoredEncoder(), new ZstdChannelInflater()];
		for (const [i] of PACKET_PAGES.entries()) {
			const out = new Uint8Array(pagesOf(i).length);
			channel.inflate(encoder.encode(pagesOf(i)), out);
			expect(out).toEqual(pagesOf(i));
		}
	});

	it('writes an empty frame', () => {
		expect(decode(new ZstdStoredEncoder().end())).toEqual({ content: new Uint8Array(0), complete: true });
	});
});
