import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { PACKET_PAGES, vectorPage, ZSTD_PACKETS } from '../../../test/zstd-vectors.js';
import { joined } from '../deflate-stream.js';
import type { CodecError } from '../error.js';
import { isCodecError } from '../error.js';
import type { MultifdPacket } from './packet.js';
import {
	decodeMultifdDeviceState,
	decodeMultifdInit,
	decodeMultifdPacket,
	encodeMultifdInit,
	encodeMultifdPacket,
	multifdPacketSize,
} from './packet.js';
import type { MultifdCompression, MultifdReaderOptions } from './reader.js';
import { MultifdReader } from './reader.js';
import { MultifdWriter } from './writer.js';

const uuid = Uint8Array.from({ length: 16 }, (_, i) => i);
const packet: MultifdPacket = {
	flags: 0,
	pagesAlloc: 128,
	nextPacketSize: 8192,
	packetNum: 7n,
	block: 'pc.ram',
	normal: [0x1000, 0x5000],
	zero: [],
};

/** What a reader says, in order; `fault` last if it fails. */
function read(data: Uint8Array, options: Partial<MultifdReaderOptions> = {}, step = data.length) {
	const events: unknown[] = [];
	let fault: CodecError | undefined;
	const reader = new MultifdReader({
		...options,
		handler: {
			init: (init, raw, at) => events.push(['init', init.channel, raw.length, at]),
			packet: (p, raw, at) => events.push(['packet', p.packetNum, p.normal.length, p.zero, raw.length, at]),
			compressed: (bytes, at) => events.push(['compressed', bytes.length, at]),
			page: (block, address, bytes) => events.push(['page', block, address, bytes.slice()]),
			sync: (number) => events.push(['sync', number]),
			deviceState: (state, bytes, raw) => events.push(['device', state, bytes.slice(), raw.length]),
		},
	});
	try {
		for (let at = 0; at < data.length; at += step) reader.push(data.slice(at, at + step));
		reader.end();
	} catch (error) {
		if (!isCodecError(error)) throw error;
		fault = error;
	}
	return { events, fault };
}
/** A channel with an opening packet and these. */
const channel = (...pieces: Uint8Array[]): Uint8Array => joined([encodeMultifdInit({ uuid, channel: 3 }), ...pieces]);
const patched = (data: Uint8Array, at: number, ...bytes: number[]): Uint8Array => {
	const out = data.slice();
	out.set(bytes, at);
	return out;
};

describe('the opening packet', () => {
	const raw = encodeMultifdInit({ uuid, channel: 3 });

	it('has the layout of QEMU', () => {
		expect(Buffer.from(raw).toString('hex')).toBe(
			`1122334400000001000102030405060708090a0b0c0d0e0f03${'00'.repeat(39)}`,
		);
		expect(decodeMultifdInit(raw)).toEqual({ uuid, channel: 3 });
	});

	it.each([
		['magic', patched(raw, 0, 0x51), 'multifd: received packet magic 51223344 expected 11223344'],
		['version', patched(raw, 7, 2), 'multifd: received packet version 2 expected 1'],
	])('is refused for its %s', (code, data, text) => {
		expect(() => decodeMultifdInit(data)).toThrow(expect.objectContaining({ code, qemu: [text] }));
	});

	it('must fit', () => {
		expect(() => decodeMultifdInit(raw.subarray(1))).toThrow(expect.objectContaining({ code: 'truncated' }));
		expect(() => encodeMultifdInit({ uuid: uuid.subarray(1), channel: 0 })).toThrow(/16 bytes/);
		expect(() => encodeMultifdInit({ uuid, channel: 256 })).toThrow(/0 to 255/);
	});
});

describe('a packet', () => {
	const raw = encodeMultifdPacket(packet);

	it('has the layout of QEMU', () => {
		expect(raw.length).toBe(1344);
		expect(Buffer.from(raw.subarray(0, 72)).toString('hex')).toBe(
			`11223344000000010000000000000080000000020000200000000000000000070000000000000000${'00'.repeat(24)}70632e72616d0000`,
		);
		expect(Buffer.from(raw.subarray(320, 344)).toString('hex')).toBe(
			'000000000000100000000000000050000000000000000000',
		);
		expect(decodeMultifdPacket(raw)).toEqual(packet);
	});

	it('names zero pages after the others since 9.0', () => {
		const with9: MultifdPacket = { ...packet, zero: [0x9000, 2 ** 40] };
		const bytes = encodeMultifdPacket(with9);
		expect([...bytes.subarray(32, 36)]).toEqual([0, 0, 0, 2]);
		expect(decodeMultifdPacket(bytes)).toEqual(with9);
	});

	it.each([
		['magic', 3, [0x45], 'received packet magic 11223345 and expected magic 11223344'],
		['version', 7, [2], 'received packet version 2 and expected version 1'],
		['too-large', 15, [129], 'received packet with size 129 and expected a size of 128'],
		['too-large', 19, [129], 'received packet with 129 pages and expected maximum pages are 128'],
		['too-large', 35, [127], 'received packet with 127 zero pages and expected maximum zero pages are 126'],
	] as const)('is refused with %s and the words of QEMU', (code, at, bytes, text) => {
		expect(() => decodeMultifdPacket(patched(raw, at, ...bytes))).toThrow(
			expect.objectContaining({ code, qemu: [`multifd: ${text}`] }),
		);
	});

	it('is refused for an offset of more than 53 bits, and when it is cut', () => {
		expect(() => decodeMultifdPacket(patched(raw, 320, 0x80))).toThrow(
			expect.objectContaining({ code: 'offset', offset: 320 }),
		);
		expect(() => decodeMultifdPacket(raw.subarray(1))).toThrow(expect.objectContaining({ code: 'truncated' }));
	});

	it('must have room for its pages and its name', () => {
		expect(() => encodeMultifdPacket({ ...packet, normal: [1, 2], zero: [3] }, 2)).toThrow(/2 pages/);
		expect(() => encodeMultifdPacket({ ...packet, block: 'x'.repeat(256) })).toThrow(/255/);
		expect(decodeMultifdPacket(encodeMultifdPacket({ ...packet, block: 'x'.repeat(255) })).block.length).toBe(255);
	});

	property.prop([fc.uint8Array({ minLength: 1344, maxLength: 1344 })])('ends typed on any bytes', (data) => {
		data.set([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1]);
		data.fill(0, 12, 14);
		try {
			decodeMultifdPacket(data);
		} catch (error) {
			expect(isCodecError(error)).toBe(true);
		}
	});
});

describe('MultifdReader', () => {
	const page = (n: number) => vectorPage(n);
	const written = (compression: MultifdCompression): Uint8Array => {
		const pieces: Uint8Array[] = [];
		const write = (data: Uint8Array) => pieces.push(data.slice());
		const writer = new MultifdWriter({ write, channel: 3, uuid, compression, zeroPages: true });
		const two = [1, 2].map((n) => ({ address: n * 4096, data: page(n) }));
		writer.pages({ packetNum: 0n, block: 'pc.ram', normal: two });
		writer.sync(1n);
		writer.pages({ packetNum: 2n, block: 'vga', normal: [{ address: 0, data: page(4) }], zero: [4096], sync: true });
		return joined(pieces);
	};

	it.each(['none', 'zlib', 'zstd'] as const)('reads what the writer writes: %s', (compression) => {
		const data = written(compression);
		const whole = read(data);
		expect(whole.fault).toBeUndefined();
		expect(whole.events.filter((event) => (event as unknown[])[0] !== 'compressed')).toEqual([
			['init', 3, 64, 0],
			['packet', 0n, 2, [], 1344, 64],
			['page', 'pc.ram', 4096, page(1)],
			['page', 'pc.ram', 8192, page(2)],
			expect.arrayContaining(['packet', 1n, 0]),
			['sync', 1n],
			expect.arrayContaining(['packet', 2n, 1, [4096]]),
			['page', 'vga', 0, page(4)],
			['sync', 2n],
		]);
		expect(read(data, { compression }, 997)).toEqual(whole);
		expect(read(data.slice(), {}, 1)).toEqual(whole);
	});

	it('reads the packets of libzstd', () => {
		let first = 0;
		const packets = ZSTD_PACKETS.level1.map((text, i) => {
			const payload = new Uint8Array(Buffer.from(text, 'base64'));
			const normal = Array.from({ length: PACKET_PAGES[i] as number }, () => first++ * 4096);
			const header = { ...packet, flags: 4, packetNum: BigInt(i), normal, nextPacketSize: payload.length };
			return joined([encodeMultifdPacket(header), payload]);
		});
		const pages = read(channel(...packets)).events.filter((event) => (event as unknown[])[0] === 'page');
		expect(pages).toEqual(pages.map((_, n) => ['page', 'pc.ram', n * 4096, vectorPage(n)]));
		expect(pages.length).toBe(11);
	});

	it('takes no payload for a packet without pages, whatever its size says', () => {
		const empty = encodeMultifdPacket({ ...packet, flags: 1, normal: [], nextPacketSize: 524288 });
		const { events, fault } = read(channel(empty, empty), { compression: 'zlib', blockLength: () => undefined });
		expect(fault).toBeUndefined();
		expect(events.map((event) => (event as unknown[])[0])).toEqual(['init', 'packet', 'sync', 'packet', 'sync']);
	});

	it('names every truncation', () => {
		const data = written('zlib');
		const ends = new Set([64, data.length]);
		let at = 64;
		for (const event of read(data).events as [string, ...number[]][]) {
			if (event[0] === 'packet') ends.add(event[5] as number);
			if (event[0] === 'compressed') at = (event[1] as number) + (event[2] as number);
			ends.add(at);
		}
		for (let length = 0; length <= data.length; length++) {
			if (length % 4096 > 200 && !ends.has(length) && length % 7) continue;
			expect(read(data.subarray(0, length), { decompress: false }).fault?.code).toBe(
				ends.has(length) ? undefined : 'truncated',
			);
		}
	});

	it.each([
		['block', { blockLength: (): undefined => undefined }, 'multifd: unknown ram block pc.ram'],
		['offset', { blockLength: (): number => 0x5fff }, 'multifd: offset too long 20480 (max 5fff)'],
		['compression', { compression: 'zstd' }, 'multifd 3: flags received 0 flags expected 4'],
	] as const)('refuses a packet for its %s in the words of QEMU', (code, options, text) => {
		const { fault } = read(channel(encodeMultifdPacket(packet), new Uint8Array(8192)), options);
		expect(fault).toMatchObject({ code, qemu: [text] });
	});

	it('accepts the last page of a block', () => {
		const data = channel(encodeMultifdPacket(packet), new Uint8Array(8192));
		expect(read(data, { blockLength: () => 0x6000 }).fault).toBeUndefined();
	});

	it('refuses a compression that changes on the way', () => {
		const plain = joined([encodeMultifdPacket(packet), new Uint8Array(8192)]);
		const { fault } = read(channel(plain, encodeMultifdPacket({ ...packet, flags: 2 })));
		expect(fault).toMatchObject({ code: 'compression', offset: 64 + plain.length + 8 });
	});

	it('says of compressions it does not know what they are, but reads them undecoded', () => {
		const data = channel(encodeMultifdPacket({ ...packet, flags: 8, nextPacketSize: 5 }), new Uint8Array(5));
		expect(read(data).fault).toMatchObject({ code: 'unsupported', message: expect.stringContaining('qpl') });
		const { events, fault } = read(data, { decompress: false });
		expect(fault).toBeUndefined();
		expect(events.at(-1)).toEqual(['compressed', 5, 1408]);
	});

	it.each([
		['too-large', { flags: 2, nextPacketSize: 2 ** 20 + 1 }, new Uint8Array(0), []],
		['too-short', { flags: 2, nextPacketSize: 0 }, new Uint8Array(0), ['multifd 3: inflate generated too few output']],
		[
			'malformed',
			{ flags: 2, nextPacketSize: 2 },
			Uint8Array.of(1, 2),
			['multifd 3: inflate returned -3 instead of Z_OK'],
		],
		['too-short', { flags: 4, nextPacketSize: 0 }, new Uint8Array(0), ['multifd 3: decompressStream buffer too small']],
	])('refuses a payload that is %s', (code, change, payload, qemu) => {
		const { fault } = read(channel(encodeMultifdPacket({ ...packet, ...change }), payload));
		expect(fault).toMatchObject({ code, qemu, offset: 1408 });
	});

	it('reads device state of QEMU 10, up to its cap', () => {
		const raw = new Uint8Array(276);
		raw.set([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0x40, 0x76, 0x66, 0x69, 0x6f]);
		raw.set([0, 0, 0, 9, 0, 0, 0, 3], 268);
		const state = { flags: 0x40, idstr: 'vfio', instanceId: 9, size: 3 };
		expect(decodeMultifdDeviceState(raw)).toEqual(state);
		const data = channel(raw, Uint8Array.of(1, 2, 3), encodeMultifdPacket({ ...packet, normal: [] }));
		const { events, fault } = read(data, {}, 5);
		expect(fault).toBeUndefined();
		expect(events[1]).toEqual(['device', state, Uint8Array.of(1, 2, 3), 276]);
		expect(read(data, { deviceStateLimit: 2 }).fault).toMatchObject({ code: 'too-large', offset: 64 + 272 });
	});

	it('is closed after its end, after an error, and after a handler that throws', () => {
		const reader = new MultifdReader({
			handler: {
				init: () => {
					throw new RangeError('no');
				},
			},
		});
		expect(() => reader.push(channel())).toThrow(RangeError);
		expect(() => reader.push(channel())).toThrow(expect.objectContaining({ code: 'closed' }));
		const ended = new MultifdReader({ handler: {} });
		ended.push(channel());
		ended.end();
		expect(() => ended.end()).toThrow(expect.objectContaining({ code: 'closed' }));
	});

	it('takes a sane number of pages', () => {
		for (const pageCount of [0, 1.5, 12801, Number.NaN]) {
			expect(() => new MultifdReader({ handler: {}, pageCount })).toThrow(/1 to 12800/);
		}
		const small = encodeMultifdPacket({ ...packet, pagesAlloc: 2 }, 2);
		expect(small.length).toBe(multifdPacketSize(2));
		expect(read(channel(small, new Uint8Array(8192)), { pageCount: 2 }).events.length).toBe(4);
	});

	property.prop(
		[fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 8 }), fc.constantFrom('none', 'zlib', 'zstd')],
		{
			numRuns: 150,
		},
	)('ends typed on damaged channels', (damage, compression) => {
		const data = written(compression as MultifdCompression);
		for (const [at, value] of damage) data[at % data.length] = value;
		read(data);
	});
});

describe('MultifdWriter', () => {
	const make = (options = {}) => {
		const pieces: Uint8Array[] = [];
		return { pieces, writer: new MultifdWriter({ write: (data) => pieces.push(data), channel: 0, ...options }) };
	};

	it('sets flags as QEMU does: compression only with pages', () => {
		const { pieces, writer } = make({ compression: 'zlib' });
		writer.sync(0n);
		writer.pages({ packetNum: 1n, block: 'a', normal: [{ address: 0, data: vectorPage(0) }], sync: true });
		expect([pieces[1], pieces[2]].map((header) => header?.[11])).toEqual([1, 3]);
	});

	it('passes pages on without copying', () => {
		const { pieces, writer } = make();
		const data = vectorPage(2);
		writer.pages({ packetNum: 0n, block: 'a', normal: [{ address: 0, data }] });
		expect(pieces.at(-1)).toBe(data);
	});

	it.each([
		['zero pages before 9.0', { normal: [], zero: [0] }],
		['a page of another size', { normal: [{ address: 0, data: new Uint8Array(4095) }] }],
		['too many pages', { normal: Array.from({ length: 129 }, () => ({ address: 0, data: vectorPage(0) })) }],
	])('refuses %s and writes nothing', (_, pages) => {
		const { pieces, writer } = make();
		expect(() => writer.pages({ packetNum: 0n, block: 'a', ...pages })).toThrow(
			expect.objectContaining({ code: 'argument' }),
		);
		expect(pieces.length).toBe(1);
	});
});
