import { inflateSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { pixelsOfPng, pixelsOfSvg } from './pictures.js';
import { CAPTURE } from './processes.js';
import { capture, patched, stream, streamJson, tinyStream } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

interface Document {
	readonly what: string;
	readonly machine: string;
	readonly complete: boolean;
	readonly dialect: { readonly name: string; readonly certain: boolean };
	readonly blocks: readonly {
		readonly idstr: string;
		readonly 'pages-sent': number;
		readonly records: object;
		readonly ranges?: readonly object[];
	}[];
	readonly rounds: readonly { readonly offset: number; readonly pages: object }[];
	readonly devices: readonly {
		readonly idstr: string;
		readonly fields?: readonly { name: string; value: unknown }[];
	}[];
	readonly channels?: readonly object[];
	readonly fault?: { readonly code: string; readonly offset: number };
}

describe('a stream of real QEMU', () => {
	it('is told with machine, blocks, rounds and devices', async () => {
		const found = await streamJson<Document>('inspect', CAPTURE);
		expect(found).toMatchObject({
			what: 'migration',
			machine: 'pc-i440fx-7.2',
			complete: true,
			dialect: { name: 'qemu-7.2' },
		});
		expect(found.blocks[0]).toMatchObject({ idstr: 'pc.ram', 'pages-sent': 4096, records: { raw: 96, zero: 4000 } });
		expect(found.rounds).toMatchObject([{ pages: { raw: 101, zero: 4077 } }]);
		expect(found.devices).toHaveLength(29);
		expect(found.devices[0]).toMatchObject({ idstr: 'timer' });
		expect(found.devices[0]).not.toHaveProperty('fields');
	});

	it('is a table for people, plain when piped', async () => {
		const { code, stdout, stderr } = await stream('inspect', CAPTURE);
		expect([code, stderr]).toEqual([0, '']);
		expect(stdout).toMatch(/^machine\s+pc-i440fx-7\.2$/m);
		expect(stdout).toMatch(/^ {2}pc\.ram +16 MiB +4096 +4096 +96 +4000$/m);
		expect(stdout).toMatch(/^ {2}globalstate .* runstate paused$/m);
		expect(stdout).toContain('29 devices');
		expect(stdout).not.toContain('\u001b');
	});

	it('shows all fields with --devices', async () => {
		const { stdout } = await stream('inspect', '--devices', CAPTURE);
		expect(stdout).toMatch(/^ {4}env\.segs\[1\]\.selector = 0xf000$/m);
		const { devices } = await streamJson<Document>('inspect', '--devices', CAPTURE);
		const state = devices.find(({ idstr }) => idstr === 'globalstate');
		expect(state?.fields?.map(({ name }) => name)).toContain('runstate');
	});
});

describe('pages', () => {
	const twoRounds = () =>
		tinyStream(
			8,
			[
				[0, 0x08, 7],
				[0x1000, 0x08, 8],
				[0x2000, 0x02, 0],
			],
			[
				[0x1000, 0x40, 0, 1, 9],
				[0x3000, 0x02, 0],
			],
		);

	it('are told by range, with how they came and how often', async () => {
		const file = folder.write('f', twoRounds());
		const { blocks, rounds } = await streamJson<Document>('inspect', '--pages', file);
		expect(blocks[0]?.ranges).toEqual([
			{ offset: 0, length: 4096, kind: 'raw', sent: 1 },
			{ offset: 4096, length: 4096, kind: 'xbzrle', sent: 2 },
			{ offset: 8192, length: 8192, kind: 'zero', sent: 1 },
			{ offset: 16384, length: 16384, kind: 'never', sent: 0 },
		]);
		expect(rounds.map(({ pages }) => pages)).toEqual([
			{ raw: 2, zero: 1 },
			{ zero: 1, xbzrle: 1 },
		]);
		expect((await stream('inspect', '--pages', file)).stdout).toMatch(/0x1000 +0x1fff +xbzrle +× 2$/m);
	});

	it('of a block that claims to be huge cost nothing', async () => {
		const data = twoRounds();
		// 2^52 bytes, in the sum and in the entry of the block list.
		const sum = 8 + 9 + 17;
		const huge = patched(patched(data, sum, 0, 0x10, 0, 0, 0, 0, 0, 4), sum + 15, 0, 0x10, 0, 0, 0, 0, 0, 0);
		const { blocks } = await streamJson<Document>(
			'inspect',
			'--pages',
			'--map',
			folder.at('m.svg'),
			folder.write('f', huge),
		);
		expect(blocks[0]?.ranges?.at(-1)).toMatchObject({ kind: 'never', sent: 0 });
	});
});

describe('a map', () => {
	it('is a PNG whose colours are those of the pages', async () => {
		await stream('inspect', '--map', folder.at('m.png'), CAPTURE);
		const png = Buffer.from(folder.read('m.png'));
		expect(png.subarray(0, 8).toString('latin1')).toBe('\x89PNG\r\n\x1a\n');
		const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
		const length = png.readUInt32BE(33);
		const rows = inflateSync(png.subarray(41, 41 + length));
		expect(rows.length).toBe((1 + 3 * width) * height);
		const colours = new Set<string>();
		for (let at = 0; at < rows.length; at += 1 + 3 * width) {
			for (let x = at + 1; x < at + 1 + 3 * width; x += 3) colours.add(rows.subarray(x, x + 3).toString('hex'));
		}
		expect(colours).toContain('0072b2');
		expect(colours).toContain('f3e6c4');
	});

	it('is an SVG with legend and offsets', async () => {
		const { code } = await stream('inspect', '--map', folder.at('m.svg'), CAPTURE);
		const svg = folder.text('m.svg');
		expect(code).toBe(0);
		expect(svg).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" width="\d+"/);
		for (const text of [
			'kind of page',
			'times sent',
			'entropy, bits per byte',
			'pc.ram, 16 MiB: a cell is a page',
			'0x100000',
		]) {
			expect(svg).toContain(`>${text}<`);
		}
		expect(svg.match(/<path /g)?.length).toBeGreaterThan(3);
	});

	it.each([
		['a capture of QEMU', capture],
		[
			'two rounds',
			() =>
				tinyStream(
					16,
					[
						[0, 0x08, 3],
						[0x1000, 0x08, 4],
						[0x2000, 0x02, 0],
					],
					[[0x1000, 0x08, 5]],
				),
		],
		[
			'a block of a short last row, and pages that never came',
			() =>
				tinyStream(70, [
					[0, 0x02, 0],
					[0x45000, 0x08, 9],
				]),
		],
	] as const)('is one picture in both forms: %s', async (_, make) => {
		const file = folder.write('f', make());
		for (const form of ['png', 'svg']) {
			expect(await stream('inspect', '--map', folder.at(`m.${form}`), file)).toMatchObject({ stderr: '' });
		}
		const png = pixelsOfPng(Buffer.from(folder.read('m.png')));
		const svg = pixelsOfSvg(folder.text('m.svg'), 2);
		expect([svg.width, svg.height]).toEqual([png.width, png.height]);
		// Letters are drawn by whoever shows the SVG.
		for (const { x, y, width, height } of svg.texts) {
			for (let row = 2 * y; row < 2 * (y + height); row++) {
				const [from, to] = [row * png.width + 2 * x, row * png.width + 2 * (x + width)];
				png.data.fill(0, from, to);
				svg.data.fill(0, from, to);
			}
		}
		const different = png.data.findIndex((colour, i) => colour !== svg.data[i]);
		expect([different % png.width, Math.floor(different / png.width)]).toEqual([-1, -1]);
		expect(new Set(png.data).size).toBeGreaterThan(3);
	});

	it('replaces nothing unless told to, and knows two forms', async () => {
		folder.write('m.png', 'mine');
		expect(await stream('inspect', '--map', folder.at('m.png'), CAPTURE)).toMatchObject({
			code: 2,
			stderr: expect.stringContaining('File exists; --force replaces it'),
		});
		expect(folder.text('m.png')).toBe('mine');
		expect(await stream('inspect', '--map', folder.at('m.jpg'), CAPTURE)).toMatchObject({
			code: 2,
			stderr: expect.stringContaining("m.jpg': expected a name in .png or .svg"),
		});
	});
});

describe('a damaged stream', () => {
	it('is told up to the fault, which is named', async () => {
		const file = folder.write('f', capture().subarray(0, 300_000));
		const { code, stdout, stderr } = await stream('inspect', file);
		expect(code).toBe(1);
		expect(stdout).toMatch(/^end +not reached$/m);
		expect(stderr).toMatch(/^cvm: f: offset \d+ \(ram\): stream: expected \d+ more bytes, got \d+\n$/);
		const { fault } = await streamJson<Document>('inspect', file);
		expect(fault).toMatchObject({ code: 'truncated', section: 'ram' });
	});

	it.each([
		['nothing', new Uint8Array(0)],
		['a text', new TextEncoder().encode('hello world, this is no stream at all\n')],
		['zeros', new Uint8Array(100)],
	])('that is %s is one line', async (_name, data) => {
		const { code, stdout, stderr } = await stream('inspect', folder.write('f', data));
		expect([code, stdout]).toEqual([1, '']);
		expect(stderr).toMatch(/^cvm: '.*': .*\n$/);
	});

	it('can not put anything on the terminal', async () => {
		const name = tinyStream(1, [[0, 0x02, 0]]);
		const { stdout } = await stream('inspect', folder.write('f', patched(name, 13, 0x1b, 0x5b, 0x32, 0x4a)));
		expect(stdout).toContain('\\x1b[2J');
	});
});

describe('a multifd channel', () => {
	const channel = () => {
		const data = new Uint8Array(64 + 1344 + 4096);
		const view = new DataView(data.buffer);
		for (const at of [0, 64]) {
			view.setUint32(at, 0x11223344);
			view.setUint32(at + 4, 1);
		}
		view.setUint8(24, 3);
		view.setUint32(64 + 12, 128);
		view.setUint32(64 + 16, 1);
		view.setUint32(64 + 20, 4096);
		data.set(new TextEncoder().encode('pc.ram'), 64 + 64);
		view.setBigUint64(64 + 320, 0x2000n);
		return data;
	};

	it('adds its pages to those of its stream', async () => {
		const main = folder.write('main', tinyStream(4, [[0, 0x02, 0]]));
		const found = await streamJson<Document>('inspect', main, folder.write('c', channel()));
		expect(found.blocks[0]).toMatchObject({ 'pages-sent': 2, records: { zero: 1, multifd: 1 } });
		expect(found.channels).toMatchObject([{ what: 'multifd', channel: 3, compression: 'none', packets: 1, pages: 1 }]);
	});

	it('is told alone, too', async () => {
		const found = await streamJson<Document>('inspect', folder.write('c', channel()));
		expect(found).toMatchObject({ what: 'multifd', channels: [{ channel: 3, pages: 1 }] });
		expect((await stream('inspect', folder.at('c'))).stdout).toMatch(/^what +multifd channel$/m);
	});

	it('that is cut is one line', async () => {
		const main = folder.write('main', tinyStream(4, [[0, 0x02, 0]]));
		const { code, stderr } = await stream('inspect', main, folder.write('c', channel().subarray(0, 2000)));
		expect(code).toBe(1);
		expect(stderr).toMatch(/^cvm: '.*': offset 2000: multifd: the channel ends inside a packet\n$/);
	});
});

describe('a connection of postcopy', () => {
	const ZERO_PAGE = [0, 0, 0, 0, 0, 0, 0x10, 0x02, 6, ...Buffer.from('pc.ram'), 0];
	const END = [0, 0, 0, 0, 0, 0, 0, 0x10];

	it('with urgent pages is told alone, and adds them to its stream', async () => {
		const channel = folder.write('c', Uint8Array.from([...ZERO_PAGE, ...END]));
		const alone = await streamJson<Document>('inspect', channel);
		expect(alone).toMatchObject({ what: 'preempt', blocks: [{ idstr: 'pc.ram', 'pages-sent': 1 }] });
		const main = folder.write('main', tinyStream(4, [[0, 0x02, 0]]));
		const both = await streamJson<Document>('inspect', main, channel);
		expect(both.blocks[0]).toMatchObject({ 'pages-sent': 2, records: { zero: 2 } });
		expect(both.channels).toMatchObject([{ what: 'preempt', pages: 1 }]);
	});

	it('that recovers is told with its commands', async () => {
		const bitmap = [8, 0, 10, 0, 7, 6, ...Buffer.from('pc.ram')];
		const resume = [8, 0, 9, 0, 0];
		const end = [3, 0, 0, 0, 2, ...ZERO_PAGE, ...END, 0x7e, 0, 0, 0, 2, 0];
		const { code, stdout } = await stream(
			'inspect',
			folder.write('r', Uint8Array.from([...bitmap, ...resume, ...end])),
		);
		expect(code).toBe(0);
		expect(stdout).toMatch(/^what +recovery of a paused postcopy: it continues another stream$/m);
		expect(stdout).toMatch(/command RECV_BITMAP pc\.ram$/m);
		expect(stdout).toMatch(/command POSTCOPY_RESUME$/m);
		expect(stdout).toMatch(/ram END, round 1$/m);
	});
});
