import { gunzipSync, gzipSync } from 'node:zlib';
import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { PACKET_PAGES, vectorPage, ZSTD_PACKETS } from '../../../test/zstd-vectors.js';
import { joined } from '../deflate-stream.js';
import { isCodecError } from '../error.js';
import { createSavePacker, createSaveUnpacker, SaveImageReader } from './body.js';
import type { SaveFormat } from './header.js';
import {
	createSaveImage,
	decodeSaveHeader,
	decodeSaveImage,
	encodeSaveImage,
	isSaveImage,
	SAVE_FORMATS,
	saveFormatOf,
	saveImageCookie,
	saveImageXml,
} from './header.js';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array | undefined): string => new TextDecoder().decode(data);
const image = createSaveImage({
	xml: bytes('<domain>é</domain>'),
	cookie: bytes('<cookie/>'),
	running: true,
	format: 'gzip',
});
const raw = encodeSaveImage(image);
const patched = (at: number, ...values: number[]): Uint8Array => {
	const out = raw.slice();
	out.set(values, at);
	return out;
};
const code = (run: () => void): unknown => {
	try {
		run();
		return 'ok';
	} catch (error) {
		return isCodecError(error) ? error.code : error;
	}
};

describe('the header of a libvirt save file', () => {
	it('has the layout of libvirt', () => {
		const size = 20 + 10 + 65536;
		expect(raw.length).toBe(92 + size);
		expect(text(raw.subarray(0, 16))).toBe('LibvirtQemudSave');
		expect(Buffer.from(raw.subarray(16, 36)).toString('hex')).toBe(
			`02000000${Buffer.from(Uint32Array.of(size).buffer).toString('hex')}010000000100000014000000`,
		);
		expect(raw.subarray(36, 92).every((byte) => byte === 0)).toBe(true);
		expect(text(raw.subarray(92, 122))).toBe('<domain>é</domain>\0<cookie/>\0');
	});

	it('comes back, with XML and cookie', () => {
		const got = decodeSaveImage(raw);
		expect(got).toEqual(image);
		expect([text(saveImageXml(got)), text(saveImageCookie(got)), saveFormatOf(got.header)]).toEqual([
			'<domain>é</domain>',
			'<cookie/>',
			'gzip',
		]);
		const bare = createSaveImage({ xml: bytes('<domain/>') });
		expect([text(saveImageXml(bare)), saveImageCookie(bare), bare.header.wasRunning]).toEqual([
			'<domain/>',
			undefined,
			0,
		]);
	});

	it('is read in the other byte order', () => {
		const swapped = encodeSaveImage({ ...image, header: { ...image.header, littleEndian: false } });
		expect([...swapped.subarray(16, 20)]).toEqual([0, 0, 0, 2]);
		const got = decodeSaveImage(swapped);
		expect(got.header).toEqual({ ...image.header, littleEndian: false });
		expect(encodeSaveImage(got)).toEqual(swapped);
	});

	it('tells a file that is not complete', () => {
		const partial = encodeSaveImage({ ...image, header: { ...image.header, complete: false } });
		expect(text(partial.subarray(0, 16))).toBe('LibvirtQemudPart');
		expect(decodeSaveImage(partial).header.complete).toBe(false);
		expect([isSaveImage(raw), isSaveImage(partial), isSaveImage(bytes('QEVM'))]).toEqual([true, true, false]);
	});

	it('means a raw stream in version 1, whatever its format', () => {
		expect(saveFormatOf(decodeSaveHeader(patched(16, 1)))).toBe('raw');
	});

	it.each([
		['magic', patched(0, 0x6c)],
		['version', patched(16, 3)],
		['unsupported', patched(28, 7)],
		['malformed', patched(20, 0, 0, 0, 0)],
		['malformed', patched(34, 2)],
		['too-large', patched(23, 1)],
	])('is refused: %s', (expected, data) => expect(code(() => decodeSaveImage(data))).toBe(expected));

	it('names every truncation', () => {
		for (let length = 0; length < raw.length; length += length < 130 ? 1 : 999) {
			expect(code(() => decodeSaveImage(raw.subarray(0, length)))).toBe('truncated');
		}
	});

	it('cannot hold a NUL in its XML, nor data of another length', () => {
		expect(code(() => createSaveImage({ xml: Uint8Array.of(1, 0) }))).toBe('argument');
		expect(code(() => createSaveImage({ xml: bytes('<a/>'), cookie: Uint8Array.of(0) }))).toBe('argument');
		expect(code(() => encodeSaveImage({ ...image, data: image.data.subarray(1) }))).toBe('argument');
	});

	property.prop([fc.array(fc.tuple(fc.integer({ min: 16, max: 91 }), fc.nat(255)), { maxLength: 6 })])(
		'comes back byte for byte, or is refused',
		(damage) => {
			const data = raw.slice();
			for (const [at, value] of damage) data[at] = value;
			const got = code(() => {
				const decoded = decodeSaveImage(data);
				const end = 92 + decoded.header.dataLength;
				expect(Buffer.compare(encodeSaveImage(decoded), data.subarray(0, end))).toBe(0);
			});
			expect(['ok', 'version', 'unsupported', 'malformed', 'too-large', 'truncated']).toContain(got);
		},
	);
});

const content = joined(Array.from({ length: 11 }, (_, n) => vectorPage(n)));
function unpack(format: SaveFormat, data: Uint8Array): Uint8Array {
	const pieces: Uint8Array[] = [];
	const filter = createSaveUnpacker(format, (piece) => pieces.push(piece.slice()), 5000);
	for (let at = 0; at < data.length; at += 700) filter.push(data.subarray(at, at + 700));
	filter.end();
	return joined(pieces);
}
function pack(format: SaveFormat, data: Uint8Array): Uint8Array {
	const pieces: Uint8Array[] = [];
	const filter = createSavePacker(format, (piece) => pieces.push(piece.slice()));
	for (let at = 0; at < data.length; at += 9000) filter.push(data.subarray(at, at + 9000));
	filter.end();
	return joined(pieces);
}

describe('the stream of a libvirt save file', () => {
	it.each(['raw', 'gzip', 'zstd'] as const)('is packed and unpacked: %s', (format) => {
		expect(Buffer.compare(unpack(format, pack(format, content)), content)).toBe(0);
	});

	it('is gzip to zlib, and that of libzstd is read', () => {
		expect(Buffer.compare(gunzipSync(pack('gzip', content)), content)).toBe(0);
		const last = Uint8Array.of(1, 0, 0);
		const packets = ZSTD_PACKETS.level19.map((packet) => new Uint8Array(Buffer.from(packet, 'base64')));
		expect(PACKET_PAGES.reduce((a, b) => a + b)).toBe(11);
		expect(Buffer.compare(unpack('zstd', joined([...packets, last])), content)).toBe(0);
	});

	it.each(['gzip', 'zstd'] as const)('is missed when it is cut: %s', (format) => {
		const packed = pack(format, content);
		expect(code(() => unpack(format, packed.subarray(0, -1)))).toBe('truncated');
		expect(code(() => unpack(format, new Uint8Array(0)))).toBe('truncated');
	});

	it.each([
		['bzip2', 'tail -c +5001 FILE | bzip2 -dc'],
		['xz', 'tail -c +5001 FILE | xz -dc'],
		['lzop', 'tail -c +5001 FILE | lzop -dc --ignore-warn'],
		['sparse', 'mapped-ram'],
	] as const)('is refused with advice: %s', (format, advice) => {
		expect(() => unpack(format, content)).toThrow(
			expect.objectContaining({ code: 'unsupported', message: expect.stringContaining(advice) }),
		);
		expect(code(() => pack(format, content))).toBe('unsupported');
	});

	it('knows the formats by their numbers', () => {
		expect(SAVE_FORMATS.map((name) => SAVE_FORMATS.indexOf(name))).toEqual([0, 1, 2, 3, 4, 5, 6]);
		expect(SAVE_FORMATS[5]).toBe('zstd');
	});
});

describe('SaveImageReader', () => {
	const whole = joined([raw, gzipSync(content)]);
	const read = (data: Uint8Array, step: number) => {
		const seen: { prefix: Uint8Array[]; body: Uint8Array[] } = { prefix: [], body: [] };
		const reader = new SaveImageReader({
			header: (prefix) => seen.prefix.push(prefix.slice()),
			body: (piece) => seen.body.push(piece.slice()),
		});
		for (let at = 0; at < data.length; at += step) reader.push(data.subarray(at, at + step));
		reader.end();
		return seen;
	};

	it.each([1, 91, 4096, 1_000_000])('reads a file in pieces of %i bytes', (step) => {
		const { prefix, body } = read(whole, step);
		expect(prefix.map((data) => Buffer.compare(data, raw))).toEqual([0]);
		expect(Buffer.compare(joined(body), content)).toBe(0);
	});

	it('misses the end of header and stream', () => {
		for (const length of [0, 50, 91, 92, 200, raw.length - 1, raw.length, whole.length - 1]) {
			expect(code(() => read(whole.subarray(0, length), 64))).toBe('truncated');
		}
	});

	it('tells the header of a file that it cannot unpack', () => {
		let seen = 0;
		const reader = new SaveImageReader({ header: () => seen++, body: () => {} });
		expect(code(() => reader.push(patched(28, 3)))).toBe('unsupported');
		expect(seen).toBe(1);
	});
});
