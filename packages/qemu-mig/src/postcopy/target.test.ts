import { PAGE_SIZE, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { page, ramEnd, ramPart, ramStart, thrown, written } from '../../test/streams.js';
import { createLoader, type LoaderOptions, type StreamWriter } from '../index.js';
import { createCollectingSink, createFakeTarget } from '../testing.js';

const BLOCKS = [
	{ idstr: 'pc.ram', usedLength: 32 * PAGE_SIZE, pageSize: 16 * PAGE_SIZE },
	{ idstr: 'pc.bios', usedLength: 8 * PAGE_SIZE },
];
const ADVISE = '00000000000110000000000000001000';
const bytesOf = (hex: string): Uint8Array =>
	Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));

function load(o: Partial<LoaderOptions> = {}) {
	const target = createFakeTarget(BLOCKS);
	const { opener: _, ...sink } = target;
	const reply = createCollectingSink();
	const loader = createLoader({
		sink,
		dialect: 'qemu-7.2',
		machineType: 'none',
		reply,
		postcopy: target.postcopy,
		device: () => 'loaded',
		finish: () => {},
		...o,
	});
	return { target, reply, loader };
}

const begin = (w: StreamWriter, advise = ADVISE, pageSize = 16 * PAGE_SIZE): void => {
	w.header();
	w.configuration({ machineType: 'none', subsections: [] });
	w.command(1, new Uint8Array(0));
	w.command(3, bytesOf(advise));
	w.sectionBegin(ramStart);
	w.blockList([
		{ idstr: 'pc.ram', usedLength: 32 * PAGE_SIZE, pageSize },
		{ idstr: 'pc.bios', usedLength: 8 * PAGE_SIZE },
	]);
	w.endOfRecords();
	w.sectionEnd(ramStart);
};

/** What a stream makes the loader throw. */
async function fault(make: (w: StreamWriter) => void, o: Partial<LoaderOptions> = {}) {
	const data = await written(make);
	return thrown(() => load(o).loader.push(data));
}

const nothing = new Uint8Array(0);
const running = (w: StreamWriter): void => {
	begin(w);
	w.command(4, nothing);
	w.command(5, nothing);
};

describe('a postcopy target', () => {
	it.each([
		['other page sizes', '00000000000010000000000000001000', 'Postcopy needs matching RAM page sizes (s=1000 d=11000)'],
		['no page sizes', '', 'RAM postcopy is enabled but have 0 byte advise'],
		[
			'other target pages',
			'00000000000110000000000000002000',
			'Postcopy needs matching target page sizes (s=8192 d=4096)',
		],
	])('refuses an advise of %s with QEMU’s text', async (_, advise, text) => {
		expect(await fault((w) => begin(w, advise))).toMatchObject({ qemu: [text] });
	});

	it('refuses a block whose host pages have another size', async () => {
		expect(await fault((w) => begin(w, ADVISE, 512 * PAGE_SIZE))).toMatchObject({
			qemu: [
				'Mismatched RAM page size pc.ram (local) 65536 != 2097152',
				"error while loading state for instance 0x0 of device 'ram'",
			],
		});
	});

	it.each([
		['an unknown block', 'pc.rom', 0n, 4096n, ["ram_discard_range: Failed to find block 'pc.rom'"]],
		['half a host page', 'pc.ram', 0n, 4096n, ['ram_block_discard_range: Unaligned length: 1000']],
		['a start inside one', 'pc.ram', 4096n, 65536n, []],
		[
			'more than the block',
			'pc.bios',
			0x7000n,
			0x2000n,
			["ram_block_discard_range: Overrun block 'pc.bios' (28672/2000/8000)"],
		],
	])('refuses to discard %s', async (_, block, start, length, qemu) => {
		const error = await fault((w) => {
			begin(w);
			w.ramDiscard(block, [{ start, length }]);
		});
		expect(error).toMatchObject({ code: 'command', qemu });
	});

	it('refuses commands in the wrong order with QEMU’s texts', async () => {
		const early = await fault((w) => {
			begin(w);
			w.command(5, nothing);
		});
		expect(early).toMatchObject({ qemu: ['CMD_POSTCOPY_RUN in wrong postcopy state (1)'] });
		const unasked = await fault((w) => {
			begin(w);
			w.command(10, Uint8Array.of(3, 0x61, 0x62, 0x63));
		});
		expect(unasked).toMatchObject({ qemu: ["loadvm_handle_recv_bitmap: block 'abc' not found"] });
	});

	it('forgets what is discarded, keeps the rest, and asks only for what is missing', async () => {
		const { loader, target, reply } = load();
		loader.push(
			await written((w) => {
				begin(w);
				w.sectionBegin(ramPart);
				for (const number of [0, 1, 2]) w.rawPage('pc.bios', number * PAGE_SIZE, page(7));
				w.endOfRecords();
				w.sectionEnd(ramPart);
				w.ramDiscard('pc.bios', [{ start: 0x1000n, length: 0x1000n }]);
				w.command(4, nothing);
			}),
		);
		expect([0, 1, 2, 3].map((number) => target.isPresent(1, number))).toEqual([true, false, true, false]);
		expect([0, 1, 1, 3].map((number) => loader.fault(1, number))).toEqual([false, true, true, true]);
		expect([20, 31, 5].map((number) => loader.fault(0, number))).toEqual([true, true, true]);
		// REQ_PAGES_ID pc.bios, REQ_PAGES, REQ_PAGES_ID pc.ram, REQ_PAGES; never twice the same host page.
		expect(toHex(reply.bytes())).toBe(
			'0003001400000000000010000000100007' +
				'70632e62696f73' +
				'0004000c000000000000300000001000' +
				'0003001300000000000100000001000006' +
				'70632e72616d' +
				'0004000c000000000000000000010000',
		);
	});

	it('places a host page only when it is whole, as zero only if all of it is', async () => {
		const { loader, target } = load();
		const placed: number[] = [];
		target.onPlaced = (block, address, length) => placed.push(block, address, length);
		loader.push(
			await written((w) => {
				running(w);
				w.sectionBegin(ramPart);
				for (let i = 0; i < 15; i++) w.zeroPage('pc.ram', 0x10000 + i * PAGE_SIZE, 0);
			}),
		);
		expect(placed).toEqual([]);
		loader.push((await written((w) => w.zeroPage('pc.ram', 0x1f000, 0))).slice());
		expect(placed).toEqual([0, 0x10000, 0x10000]);
		expect(loader.fault(0, 17)).toBe(false);
	});

	it('pauses rather than fails once the guest runs: at a mix of host pages, a wrong flag, the end', async () => {
		const endings: ((w: StreamWriter) => void)[] = [
			(w) => {
				w.rawPage('pc.ram', 0, page(1));
				w.rawPage('pc.ram', 0x10000, page(1));
			},
			(w) => w.encodedPage('xbzrle', 'pc.bios', 0, Uint8Array.of(0, 1, 1)),
			() => {},
		];
		for (const ending of endings) {
			const { loader } = load();
			loader.push(
				await written((w) => {
					running(w);
					w.sectionBegin(ramPart);
					ending(w);
				}),
			);
			loader.end();
			expect(loader.status).toBe('postcopy-paused');
			expect(loader.progress.warnings.at(-1)).toBe('Detected IO failure for postcopy. Migration paused.');
		}
	});

	it('only notes a RESUME that nobody waits for, and answers bitmaps at any time', async () => {
		const { loader, reply } = load();
		loader.push(
			await written((w) => {
				running(w);
				w.command(9, nothing);
				w.command(10, Uint8Array.of(7, ...new TextEncoder().encode('pc.bios')));
				w.sectionBegin(ramEnd);
				w.endOfRecords();
				w.sectionEnd(ramEnd);
				w.eof();
			}),
		);
		expect(loader.progress.warnings).toEqual(['loadvm_postcopy_handle_resume: illegal resume received']);
		expect(await loader.outcome).toMatchObject({ status: 'running' });
		const bitmap = '0005000807' + '70632e62696f73' + '0000000000000008' + '0000000000000000' + '0123456789abcdef';
		expect(toHex(reply.bytes())).toBe(`${bitmap}0001000400000000`);
	});

	it('needs a reverse direction, and goes with neither hand-over nor multifd', () => {
		const { postcopy, ...sink } = createFakeTarget(BLOCKS);
		const { opener: _, ...plain } = sink;
		const common = { sink: plain, postcopy, dialect: 'qemu-7.2', machineType: 'none', finish: () => {} } as const;
		const device = (): 'loaded' => 'loaded';
		const reply = createCollectingSink();
		for (const o of [{}, { reply, handover: true }, { reply, multifd: { channels: 2 } }]) {
			expect(() => createLoader({ ...common, device, ...o })).toThrow(RangeError);
		}
	});
});
