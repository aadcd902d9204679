import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { mappedStream } from '../../test/dialect-streams.js';
import { beginStream, page, patched, ramPart, ramStart, read, relayed, thrown, written } from '../../test/streams.js';
import type { Dialect, ReaderOptions, StreamHandler, StreamWriter } from '../index.js';
import { StreamReader } from '../index.js';

const SECTION_LINE = 'error while loading state section id 2(ram)';

/** A PART section after a START, with a zero page that names `pc.ram`, and then raw bytes. */
const after = (...bytes: number[]): Promise<Uint8Array> =>
	written((w) => {
		beginStream(w);
		w.sectionBegin(ramPart);
		w.zeroPage('pc.ram', 0, 0);
		w.opaqueBody(Uint8Array.from(bytes));
	});
/** The word of a record at offset 0x1000 of the block named last. */
const word = (flags: number): number[] => [0, 0, 0, 0, 0, 0, 0x10 | ((flags | 0x20) >> 8), (flags | 0x20) & 0xff];
const be32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];

const whole = (records: (writer: StreamWriter) => void): Promise<Uint8Array> =>
	written((w) => {
		beginStream(w);
		w.sectionBegin(ramPart);
		records(w);
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.eof();
	});

function told(data: Uint8Array, dialect: Dialect, handler: StreamHandler, options: Partial<ReaderOptions> = {}): void {
	const reader = new StreamReader({ ...options, dialect, handler });
	reader.push(data);
	reader.end();
}

describe('encoded pages', () => {
	it('carry their data as they are, from a real XBZRLE record', async () => {
		// q35, QEMU 7.2.22: page 0x8000, CONTINUE, 4 bytes.
		const data = await after(0, 0, 0, 0, 0, 0, 0x80, 0x60, 1, 0, 4, 0, 2, 0x58, 0x3a, ...word(0x10));
		const seen: unknown[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: { encodedPage: (kind, block, at, bytes) => seen.push([kind, block, at, [...bytes]]) },
		});
		reader.push(data);
		expect(seen).toEqual([['xbzrle', 'pc.ram', 0x8000, [0, 2, 0x58, 0x3a]]]);
	});

	it.each<[string, number[], string[]]>([
		[
			'another XBZRLE encoding',
			[...word(0x40), 2, 0, 4],
			['Failed to load XBZRLE page - wrong compression!', 'Failed to decompress XBZRLE page at 1000'],
		],
		[
			'XBZRLE of more than a page',
			[...word(0x40), 1, 0x10, 1],
			['Failed to load XBZRLE page - len overflow!', 'Failed to decompress XBZRLE page at 1000'],
		],
		[
			'a compressed page above the bound of zlib',
			[...word(0x100), ...be32(4111)],
			['Invalid compressed data length: 4111'],
		],
		['a negative length', [...word(0x100), ...be32(0xffffffff)], ['Invalid compressed data length: -1']],
	])('%s is refused', async (_name, bytes, qemu) => {
		const data = await after(...bytes);
		expect(thrown(() => read(data, 'qemu-7.2', { compress: true }))).toMatchObject({
			code: 'record',
			offset: data.length - bytes.length,
			qemu: [...qemu, SECTION_LINE],
		});
	});

	it('of zlib are refused by a target without the capability, before their block is looked up', async () => {
		const data = await written((w) => {
			beginStream(w);
			w.sectionBegin(ramPart);
			w.encodedPage('zlib', 'other', 0, new Uint8Array(9));
		});
		const options = { check: 'target' } as const;
		expect(thrown(() => read(data, 'qemu-7.2', options))).toMatchObject({
			code: 'unsupported',
			qemu: ['Received an unexpected compressed page', SECTION_LINE],
		});
		expect(thrown(() => read(data, 'qemu-7.2', { ...options, compress: true }))).toMatchObject({ code: 'block' });
	});
});

describe('the flag 0x200', () => {
	it('is nothing but itself in qemu-9', async () => {
		const data = await whole((w) => {
			w.multifdFlush();
			w.zeroPage('pc.ram', 0, 0);
			w.multifdFlush(0x1000, true);
			w.zeroPage('pc.ram', 0x1000, 0);
		});
		const seen: unknown[] = [];
		told(data, 'qemu-9', { multifdFlush: (address, at) => seen.push([address, at.continued, at.length]) });
		expect(seen).toEqual([
			[0, false, 8],
			[0x1000, true, 8],
		]);
		expect(thrown(() => read(data))).toMatchObject({
			qemu: ['Unknown combination of migration flags: 0x200', SECTION_LINE],
		});
	});

	it.each<[Dialect, number[], string]>([
		['sev-v4', be32(4), 'unknown encrypted flag 4'],
		['sev-v1', be32(3), 'unknown encrypted flag 3'],
		['mh-v2', be32(0x10), 'unknown encrypted flag 10'],
		[
			'mh-v2',
			[...be32(4), ...be32(1025)],
			'confidential-ram: page header is too large (1025 bytes) when loading gpa 0x1000',
		],
		[
			'mh-v2',
			[...be32(4), ...be32(0), ...be32(4095)],
			'confidential-ram: encrypted page is too large (4095 bytes) when loading gpa 0x1000',
		],
		['mh-v1', be32(1025), 'confidential-ram: page header is too large (1025 bytes) when loading gpa 0x1000'],
		[
			'sev-v1',
			[...be32(2), ...be32(1), ...be32(0), ...be32(0), ...be32(0), ...be32(65), ...be32(0), ...be32(8)],
			'corrupted bitmap expected size 16 got 8',
		],
	])('in %s is refused with the text of its tree', async (dialect, bytes, text) => {
		const data = await after(...word(0x200), ...bytes);
		expect(thrown(() => read(data, dialect))).toMatchObject({ code: 'encrypted', qemu: [text, SECTION_LINE] });
	});

	it('is 4128 bytes for a helper page with a 12-byte header, 4116 without', async () => {
		const lengths: number[] = [];
		const data = await whole((w) => {
			w.zeroPage('pc.ram', 0x2000, 0);
			w.migrationHelperPage('pc.ram', 0x3000, new Uint8Array(12), page(7), 4);
			w.migrationHelperPage('pc.ram', 0x3000, new Uint8Array(0), page(7), 4);
		});
		told(data, 'mh-v2', { migrationHelperPage: (_block, _address, _header, _page, at) => lengths.push(at.length) });
		expect(lengths).toEqual([4128, 4116]);
	});

	it.each([256, 257])('allows 256 regions in host order: %i', async (count) => {
		const regions = Array.from({ length: count }, () => ({ gfnStart: 1n, gfnEnd: 2n ** 63n }));
		const data = await whole((w) => w.hostRegions('pc.ram', 0, { start: 1, regions, end: 9 }));
		const seen: unknown[] = [];
		const error = thrown(() => told(data, 'sev-list', { hostRegions: (_block, _at, list) => seen.push(list) }));
		if (count > 256) expect(error).toMatchObject({ code: 'too-large' });
		else expect(seen).toEqual([{ start: 1, regions, end: 9 }]);
	});

	it('allows bitmaps up to a cap, all slots together, before they arrive', async () => {
		const slot = { word: 1, startGpa: 0n, pages: 64n, bitmap: new Uint8Array(8) };
		const data = await whole((w) => w.encryptedBitmap('pc.ram', 0, [slot, slot]));
		const attempt = (cap: number) => thrown(() => read(data, 'sev-v1', { limits: { encryptionBitmap: cap } }));
		expect(attempt(528)).toBeUndefined();
		expect(attempt(527)).toMatchObject({ code: 'too-large' });
		const huge = await after(...word(0x200), ...be32(2), ...be32(1), ...be32(0), ...be32(0), ...be32(0x80000000));
		const more = Uint8Array.from([...huge, ...be32(0), ...be32(0x10000000), ...be32(0)]);
		expect(thrown(() => read(more, 'sev-v1'))).toMatchObject({ code: 'too-large' });
	});
});

describe('records outside the listed blocks, if a target is asked for', () => {
	it.each<[string, (writer: StreamWriter) => void, string, string[]]>([
		['an unknown block', (w) => w.zeroPage('x', 0, 0), 'block', ["Can't find block x", 'Illegal RAM offset 0']],
		['the offset of its end', (w) => w.zeroPage('pc.ram', 0x4000, 0), 'offset', ['Illegal RAM offset 4000']],
	])('%s', async (_name, records, code, qemu) => {
		const data = await whole(records);
		expect(thrown(() => read(data, 'qemu-7.2', { check: 'target' }))).toMatchObject({
			code,
			qemu: [...qemu, SECTION_LINE],
		});
		expect(read(data)).toMatchObject({ trailing: 0 });
	});
});

describe('page sizes in the block list', () => {
	const advise = (sizes: bigint): Uint8Array => {
		const data = new DataView(new ArrayBuffer(16));
		data.setBigUint64(0, sizes);
		data.setBigUint64(8, 4096n);
		return new Uint8Array(data.buffer);
	};
	const stream = (advised: Uint8Array): Promise<Uint8Array> =>
		written((w) => {
			w.header();
			w.configuration({ machineType: 'none', subsections: [] });
			w.command(3, advised);
			w.sectionBegin(ramStart);
			w.blockList([
				{ idstr: 'huge', usedLength: 2 ** 21, pageSize: 2 ** 21 },
				{ idstr: 'small', usedLength: PAGE_SIZE },
			]);
			w.endOfRecords();
			w.sectionEnd(ramStart);
			w.eof();
		});

	it('are read where the advice allows them, and where the caller says so', async () => {
		const seen: unknown[] = [];
		const handler: StreamHandler = { blockList: (blocks) => seen.push(blocks) };
		told(await stream(advise(0x201000n)), 'qemu-7.2', handler);
		const pageSizeListed = (idstr: string): boolean => idstr === 'huge';
		told(await stream(new Uint8Array(0)), 'qemu-7.2', handler, { pageSizeListed });
		const blocks = [
			{ idstr: 'huge', usedLength: 2 ** 21, pageSize: 2 ** 21 },
			{ idstr: 'small', usedLength: PAGE_SIZE },
		];
		expect(seen).toEqual([blocks, blocks]);
		const unadvised = await stream(new Uint8Array(0));
		expect(thrown(() => read(unadvised))).toMatchObject({ name: 'StreamError' });
	});
});

describe('a mapped-ram header', () => {
	const patchedHeader = async (at: number, ...bytes: number[]): Promise<Uint8Array> => {
		const data = await mappedStream([3]);
		const name = Buffer.from(data).indexOf('ram0');
		return patched(data, name + 4 + 8 + at, ...bytes);
	};

	it.each<[string, number, number[], string[]]>([
		['of a newer version', 3, [2], ['Migration mapped-ram capability version not supported (expected <= 1, got 2)']],
		['of other pages', 4 + 6, [0x20], ['Migration mapped-ram header has invalid page_size 8192 (expected 4096)']],
		['whose bitmap lies elsewhere', 12 + 6, [0, 1], []],
		['whose pages begin in the bitmap', 20 + 6, [0, 0], []],
		['whose pages lie beyond any file', 20, [1], []],
	])('%s is refused', async (_name, at, bytes, qemu) => {
		const data = await patchedHeader(at, ...bytes);
		const generic = "error while loading state for instance 0x0 of device 'ram'";
		expect(thrown(() => read(data, 'qemu-9'))).toMatchObject({ code: 'block-list', qemu: [...qemu, generic] });
	});

	it('of a second block must agree with the first on where the file begins', async () => {
		const data = await mappedStream([1, 1], 0x1000);
		expect(read(data, 'qemu-9')).toMatchObject({ description: true });
		const second = Buffer.from(data).indexOf('ram1') + 4 + 8 + 12;
		const moved = patched(data, second + 6, (data[second + 6] ?? 0) + 1);
		expect(thrown(() => read(moved, 'qemu-9'))).toMatchObject({ code: 'block-list' });
	});

	it('asks for a bitmap within the cap', async () => {
		const data = await mappedStream([65]);
		expect(thrown(() => read(data, 'qemu-9', { limits: { mappedBitmap: 8 } }))).toMatchObject({ code: 'too-large' });
	});
});

describe('machines before 2.4', () => {
	it('write neither configuration nor footers', async () => {
		const data = await written((w) => {
			w.header();
			w.sectionBegin(ramStart);
			w.blockList([]);
			w.endOfRecords();
			w.sectionBegin({ type: 4, id: 3, idstr: 'timer', instanceId: 0, version: 1 });
			w.opaqueBody(Uint8Array.of(1, 2, 3));
			w.eof();
		});
		const options = { configurationSection: false, sectionFooters: false } as const;
		const bodies: number[] = [];
		told(
			data,
			'qemu-7.2',
			{ opaqueBody: (_section, body) => bodies.push(body.length) },
			{ ...options, deviceLength: () => 3 },
		);
		expect(bodies).toEqual([3]);
		expect(thrown(() => read(data, 'qemu-7.2', options))).toMatchObject({ code: 'unsupported', section: 'timer' });
		const footed = await whole(() => {});
		expect(thrown(() => read(footed, 'qemu-7.2', { sectionFooters: false }))).toMatchObject({
			qemu: ['Unknown savevm section type 126'],
		});
		expect(thrown(() => read(footed, 'qemu-7.2', { configurationSection: false }))).toMatchObject({
			qemu: ['Unknown savevm section type 7'],
		});
	});
});

it('relays a mapped-ram stream that lists no memory', async () => {
	const data = await mappedStream([]);
	expect(Buffer.compare((await relayed(data, 5, 'qemu-9'))[0], data)).toBe(0);
});
