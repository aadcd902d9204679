import { gunzipSync, gzipSync } from 'node:zlib';
import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { vectorPage } from '../../test/zstd-vectors.js';
import { joined } from './deflate-stream.js';
import { isCodecError } from './error.js';
import { GzipDecoder, GzipEncoder } from './gzip.js';

const content = joined(Array.from({ length: 40 }, (_, n) => vectorPage(n)));

function decode(data: Uint8Array, step = data.length): Uint8Array {
	const pieces: Uint8Array[] = [];
	const decoder = new GzipDecoder((piece) => pieces.push(piece.slice()));
	for (let at = 0; at < data.length; at += step) decoder.push(data.subarray(at, at + step));
	decoder.end();
	return joined(pieces);
}
const code = (run: () => void): unknown => {
	try {
		run();
		return 'ok';
	} catch (error) {
		return isCodecError(error) ? error.code : error;
	}
};

describe('GzipDecoder', () => {
	it.each([1, 7, 1000, 1_000_000])('reads what zlib writes in pieces of %i bytes', (step) => {
		expect(Buffer.compare(decode(gzipSync(content), step), content)).toBe(0);
	});

	it('reads several members and padding of zeros', () => {
		const file = joined([gzipSync(content.subarray(0, 5000)), gzipSync(content.subarray(5000)), new Uint8Array(512)]);
		expect(Buffer.compare(decode(file), content)).toBe(0);
		expect(Buffer.compare(decode(file, 3), content)).toBe(0);
	});

	it('hands out no more than 64 KiB at once, whatever the file makes', () => {
		let [total, longest] = [0, 0];
		const decoder = new GzipDecoder((piece) => {
			total += piece.length;
			longest = Math.max(longest, piece.length);
		});
		decoder.push(gzipSync(new Uint8Array(8_000_000)));
		decoder.end();
		expect(total).toBe(8_000_000);
		expect(longest).toBe(65536);
	});

	it('names every truncation', () => {
		const file = gzipSync(content.subarray(0, 6000));
		for (let length = 0; length < file.length; length++) {
			expect(code(() => decode(file.subarray(0, length), 11))).toBe('truncated');
		}
	});

	it.each([
		['CRC', 8, 'checksum'],
		['length', 4, 'checksum'],
	])('verifies the %s', (_, fromEnd, expected) => {
		const file = gzipSync(content);
		const at = file.length - fromEnd;
		file[at] = (file[at] as number) ^ 1;
		expect(code(() => decode(file))).toBe(expected);
	});

	it('refuses rubbish, before and after a member', () => {
		expect(code(() => decode(Uint8Array.of(1, 2, 3)))).toBe('malformed');
		expect(code(() => decode(joined([gzipSync(content), Uint8Array.of(1, 2, 3)])))).toBe('malformed');
	});

	it('is closed after its end and after an error', () => {
		const decoder = new GzipDecoder(() => {});
		decoder.push(gzipSync(content));
		decoder.end();
		expect(code(() => decoder.push(content))).toBe('closed');
		const broken = new GzipDecoder(() => {});
		expect(code(() => broken.push(Uint8Array.of(1, 2, 3)))).toBe('malformed');
		expect(code(() => broken.end())).toBe('closed');
	});

	it('passes on what its output throws, and is closed then', () => {
		const decoder = new GzipDecoder(() => {
			throw new RangeError('full');
		});
		expect(() => decoder.push(gzipSync(content))).toThrow(RangeError);
		expect(code(() => decoder.push(content))).toBe('closed');
	});

	property.prop([fc.uint8Array({ maxLength: 300 })], { numRuns: 200 })('ends typed on any bytes', (data) => {
		const headed = Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, ...data);
		expect(['truncated', 'malformed', 'checksum']).toContain(code(() => decode(headed)));
	});
});

describe('GzipEncoder', () => {
	it('writes what zlib reads, the same each time', () => {
		const write = () => {
			const pieces: Uint8Array[] = [];
			const encoder = new GzipEncoder((piece) => pieces.push(piece));
			for (let at = 0; at < content.length; at += 3000) encoder.push(content.subarray(at, at + 3000));
			encoder.end();
			return joined(pieces);
		};
		expect(Buffer.compare(gunzipSync(write()), content)).toBe(0);
		expect(Buffer.compare(write(), write())).toBe(0);
	});
});
