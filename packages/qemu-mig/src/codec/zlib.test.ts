import { createHash } from 'node:crypto';
import { constants, createDeflate, deflateSync, inflateSync } from 'node:zlib';
import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { PACKET_PAGES, vectorPage } from '../../test/zstd-vectors.js';
import { joined, type ZlibLevel } from './deflate-stream.js';
import { isCodecError } from './error.js';
import { deflatePage, inflatePage, ZLIB_PAGE_LIMIT, ZlibChannelDeflater, ZlibChannelInflater } from './zlib.js';

const noise = Uint8Array.from({ length: 4096 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 24);
const samples: [string, Uint8Array][] = [
	['zeros', new Uint8Array(4096)],
	['letters', vectorPage(1)],
	['words', vectorPage(4)],
	['noise', noise],
];
const levels: ZlibLevel[] = [0, 1, 6, 9];
const code = (run: () => void): unknown => {
	try {
		run();
		return 'ok';
	} catch (error) {
		return isCodecError(error) ? error.code : error;
	}
};
const inflated = (data: Uint8Array): Uint8Array => {
	const page = new Uint8Array(4096);
	inflatePage(data, page);
	return page;
};

describe('a zlib page', () => {
	describe.each(samples)('of %s', (_, page) => {
		it.each(levels)('at level %i is read by zlib, which it reads', (level) => {
			const ours = deflatePage(page, level);
			expect(ours.length).toBeLessThanOrEqual(ZLIB_PAGE_LIMIT);
			expect(new Uint8Array(inflateSync(ours))).toEqual(page);
			expect(inflated(ours)).toEqual(page);
			expect(inflated(deflateSync(page, { level }))).toEqual(page);
		});
	});

	it('is byte for byte what zlib 1.2.13 makes', () => {
		const digest = createHash('sha256');
		for (let n = 0; n < 10; n++) digest.update(deflatePage(vectorPage(n)));
		expect(digest.digest('hex')).toBe('4b74f04c346a8479b7aa7800e5e080fbeabea8480ff58cd75a2849092967d313');
	});

	it('names every truncation, and leaves the page alone', () => {
		for (const whole of [deflateSync(vectorPage(1), { level: 1 }), deflateSync(vectorPage(4), { level: 0 })]) {
			for (let length = 0; length < whole.length; length++) {
				const page = new Uint8Array(4096).fill(7);
				const got = code(() => inflatePage(whole.subarray(0, length), page));
				expect(got).toBe('truncated');
				expect(page.every((byte) => byte === 7)).toBe(true);
			}
		}
	});

	it.each([
		['too-short', deflateSync(new Uint8Array(4095))],
		['too-long', deflateSync(new Uint8Array(4097))],
		['too-long', deflateSync(new Uint8Array(4_000_000))],
		['too-long', joined([deflateSync(new Uint8Array(4096)), Uint8Array.of(0)])],
		['too-large', new Uint8Array(4111)],
		['malformed', Uint8Array.of(0x79, 0x01, 0, 0, 0, 0, 0, 0)],
		['malformed', Uint8Array.of(0x78, 0x01, 0x07, 0, 0, 0, 0, 0)],
	])('is refused as %s', (expected, data) => expect(code(() => inflated(data))).toBe(expected));

	it('is refused with a preset dictionary, which QEMU does not have', () => {
		const data = deflateSync(new Uint8Array(4096), { dictionary: Buffer.from('abc') });
		expect(code(() => inflated(data))).toBe('malformed');
	});

	it('is refused when its checksum is wrong', () => {
		const data = deflateSync(vectorPage(1));
		data[data.length - 1] = (data[data.length - 1] as number) ^ 1;
		expect(() => inflated(data)).toThrow(
			expect.objectContaining({ code: 'checksum', offset: data.length, qemu: ['decompress data failed'] }),
		);
	});

	it('must be a page to be deflated', () => {
		expect(code(() => deflatePage(new Uint8Array(4095)))).toBe('argument');
	});

	property.prop([fc.uint8Array({ maxLength: 300 })], { numRuns: 300 })('ends typed on any bytes', (data) => {
		const headed = Uint8Array.of(0x78, 0x01, ...data);
		expect(['truncated', 'malformed', 'checksum', 'too-short', 'too-long']).toContain(code(() => inflated(headed)));
	});
});

/** The packets of a multifd channel, by zlib itself. */
async function packetsByZlib(groups: readonly Uint8Array[][], level: number): Promise<Uint8Array[]> {
	const stream = createDeflate({ level });
	const packets: Uint8Array[] = [];
	for (const group of groups) {
		for (const page of group) stream.write(page);
		await new Promise<void>((done) => stream.flush(constants.Z_SYNC_FLUSH, done));
		packets.push(joined(drain(stream)));
	}
	return packets;
}
function drain(stream: NodeJS.ReadableStream): Uint8Array[] {
	const pieces: Uint8Array[] = [];
	for (let piece = stream.read(); piece !== null; piece = stream.read()) pieces.push(piece as unknown as Uint8Array);
	return pieces;
}
const groups = [[vectorPage(0)], [vectorPage(1), noise, vectorPage(3)], [vectorPage(4)], [noise, vectorPage(1)]];

describe('a zlib channel', () => {
	it.each([1, 6, 9, 0])('of zlib at level %i is read packet by packet', async (level) => {
		const channel = new ZlibChannelInflater();
		for (const [i, packet] of (await packetsByZlib(groups, level)).entries()) {
			const out = new Uint8Array((groups[i] as Uint8Array[]).length * 4096);
			channel.inflate(packet, out);
			expect(out).toEqual(joined(groups[i] as Uint8Array[]));
		}
	});

	it.each(levels)('at level %i is read by zlib, each packet complete in itself', (level) => {
		const channel = new ZlibChannelDeflater(level);
		let sent = new Uint8Array(0);
		let pages: Uint8Array[] = [];
		for (const group of groups) {
			const packet = channel.deflate(group);
			expect(Buffer.from(packet.subarray(-4)).toString('hex')).toBe('0000ffff');
			sent = joined([sent, packet]) as Uint8Array<ArrayBuffer>;
			pages = [...pages, ...group];
			const got = inflateSync(sent, { finishFlush: constants.Z_SYNC_FLUSH });
			expect(new Uint8Array(got)).toEqual(joined(pages));
		}
	});

	it.each([
		[1, [41, 1384, 1502, 3068], '97dcea5b19dd08d764f6146d3e47e44fc374613fd1a887c9c70676c4b99971fe'],
		[6, [27, 1349, 469, 1902], '4d6ef20ab70513f197f83837bfde0882b907a834b09fbff80771c333d3d3cdfe'],
		[9, [27, 1345, 467, 1899], 'af7da79fae0e6eff62d91f5347edcb1387b8adea2fb2cfb14f913eaf7812213e'],
	] as const)('at level %i is byte for byte what zlib 1.2.13 makes', (level, sizes, expected) => {
		const channel = new ZlibChannelDeflater(level);
		const digest = createHash('sha256');
		let page = 0;
		const packets = PACKET_PAGES.map((count) => {
			const packet = channel.deflate(Array.from({ length: count }, () => vectorPage(page++)));
			digest.update(packet);
			return packet.length;
		});
		expect(packets).toEqual(sizes);
		expect(digest.digest('hex')).toBe(expected);
	});

	it('fails when a packet gives more or less than its pages, and stays failed', async () => {
		const [first] = (await packetsByZlib(groups, 1)) as [Uint8Array];
		for (const [size, expected] of [
			[8192, 'too-short'],
			[4095, 'too-long'],
			[0, 'too-long'],
		] as const) {
			const channel = new ZlibChannelInflater();
			expect(code(() => channel.inflate(first, new Uint8Array(size)))).toBe(expected);
			expect(code(() => channel.inflate(first, new Uint8Array(4096)))).toBe('closed');
		}
	});

	it('stops a bomb before it has grown', () => {
		const bomb = deflateSync(new Uint8Array(64 * 1024 * 1024));
		const channel = new ZlibChannelInflater();
		const before = process.memoryUsage().arrayBuffers;
		expect(code(() => channel.inflate(bomb, new Uint8Array(4096)))).toBe('too-long');
		expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024);
	});

	it('refuses what is not zlib', () => {
		expect(code(() => new ZlibChannelInflater().inflate(Uint8Array.of(1, 2, 3), new Uint8Array(1)))).toBe('malformed');
	});

	property.prop([fc.uint8Array({ maxLength: 400 })], { numRuns: 200 })('ends typed on any bytes', (data) => {
		const headed = Uint8Array.of(0x78, 0x01, ...data);
		const got = code(() => new ZlibChannelInflater().inflate(headed, new Uint8Array(4096)));
		expect(['ok', 'malformed', 'checksum', 'too-short', 'too-long']).toContain(got);
	});
});
