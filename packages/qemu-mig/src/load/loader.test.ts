import { PAGE_SIZE, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { noneMachine } from '../../test/fixtures/none-machine.js';
import {
	beginStream,
	device,
	page,
	ramEnd,
	ramPart,
	ramStart,
	smallStream,
	thrown,
	written,
} from '../../test/streams.js';
import type { LoaderOptions, StreamWriter } from '../index.js';
import { Command, createLoader, encodeCommand } from '../index.js';
import type { FakeTarget } from '../testing.js';
import { createCollectingSink, createFakeTarget, ToySealer } from '../testing.js';

const PC_RAM = [{ idstr: 'pc.ram', usedLength: 4 * PAGE_SIZE }];

function load(o: Partial<LoaderOptions> = {}) {
	const target = createFakeTarget(PC_RAM);
	const reply = createCollectingSink();
	const log: string[] = [];
	const loader = createLoader({
		sink: target,
		dialect: 'sev-v4',
		machineType: 'none',
		reply,
		device: ({ idstr }, body) => {
			log.push(`${idstr}[${body.length}]`);
			return 'loaded';
		},
		finish: () => {
			log.push('finish');
		},
		...o,
	});
	return { target, reply, log, loader };
}

/** Pushes a stream and returns what was thrown. */
const pushed = async (make: (w: StreamWriter) => void, o: Partial<LoaderOptions> = {}) => {
	const { loader, ...rest } = load(o);
	const data = await written(make);
	const error = thrown(() => loader.push(data));
	return { error, loader, ...rest };
};
const inPart =
	(records: (w: StreamWriter) => void) =>
	(w: StreamWriter): void => {
		beginStream(w);
		w.sectionBegin(ramPart);
		records(w);
		w.endOfRecords();
		w.sectionEnd(ramPart);
	};
/** RAM of 200 private pages of two blocks, sealed by the toy, with a plain page in between. */
const BLOCKS = [
	{ idstr: 'a', usedLength: 150 * PAGE_SIZE },
	{ idstr: 'b', usedLength: 50 * PAGE_SIZE },
];

describe('a loaded stream', () => {
	it('of real QEMU runs when the description is read, and says that all arrived', async () => {
		const { loader, log } = load({ dialect: 'qemu-7.2', sink: createFakeTarget([]) });
		const data = noneMachine();
		loader.push(data.subarray(0, 400));
		expect(log).toEqual(['timer[24]', 'globalstate[104]']);
		loader.push(data.subarray(400));
		loader.end();
		expect(await loader.outcome).toEqual({ status: 'running', complete: true, missing: [] });
		expect(log).toEqual(['timer[24]', 'globalstate[104]', 'finish']);
		expect([...loader.progress.parts.keys()]).toEqual([
			'header',
			'configuration',
			'block-list',
			'ram-end',
			'devices',
			'eof',
			'description',
		]);
		expect(loader.progress.parts.get('eof')).toBe(255);
	});

	it('of a header and EOF alone runs as in QEMU, but is not complete', async () => {
		const { loader } = await pushed((w) => {
			w.header();
			w.configuration({ machineType: 'none', subsections: [] });
			w.eof();
		});
		loader.end();
		expect(await loader.outcome).toMatchObject({
			status: 'running',
			complete: false,
			missing: ['block-list', 'ram-end', 'devices', 'description'],
		});
		expect(loader.progress.warnings).toEqual(['Expected vmdescription section']);
	});

	it('runs at EOF when no description is expected', async () => {
		const { loader } = await pushed(
			(w) => {
				beginStream(w);
				w.eof();
			},
			{ vmDescription: false },
		);
		expect(await loader.outcome).toMatchObject({ status: 'running', missing: ['ram-end', 'devices'] });
	});

	it('puts plain, zero and private pages in place, private ones in batches of at most 64', async () => {
		const memory = BLOCKS.map(({ usedLength }) => new Uint8Array(usedLength).map((_, i) => (i * 7) >> 4));
		const at = (block: number, number: number) =>
			(memory[block] ?? new Uint8Array(0)).subarray(number * PAGE_SIZE, (number + 1) * PAGE_SIZE);
		const sealer = new ToySealer(at, () => [{ gfnStart: 1, gfnEnd: 2 }]);
		const target = createFakeTarget(BLOCKS);
		const { loader, error } = await pushed(
			(w) => {
				w.header();
				w.configuration({ machineType: 'none', subsections: [] });
				w.sectionBegin(ramStart);
				w.blockList(BLOCKS);
				w.endOfRecords();
				w.sectionEnd(ramStart);
				w.sectionBegin(ramEnd);
				const record = new Uint8Array(52 + PAGE_SIZE);
				let first = true;
				for (const [block, { idstr, usedLength }] of BLOCKS.entries()) {
					for (let number = 0; number < usedLength / PAGE_SIZE; number++) {
						if (block === 0 && number === 10) w.rawPage(idstr, number * PAGE_SIZE, at(block, number));
						else {
							const layout = { header: 0, payload: 52, stride: 0 };
							sealer.seal(block, Uint32Array.of(number), 1, record, layout);
							const prefix = first ? sealer.start() : undefined;
							w.encryptedPage(idstr, number * PAGE_SIZE, record.subarray(0, 52), record.subarray(52), prefix);
							first = false;
						}
					}
				}
				w.sharedRegions('b', 0, sealer.sharedRegions());
				w.endOfRecords();
				w.sectionEnd(ramEnd);
			},
			{ sink: target },
		);
		expect(error).toBeUndefined();
		expect(target.opener.batches).toEqual([10, 64, 64, 11, 50]);
		expect(target.opener.regions).toEqual([{ gfnStart: 1, gfnEnd: 2 }]);
		for (const [block, bytes] of memory.entries()) {
			expect(Buffer.compare(target.memory[block] ?? new Uint8Array(0), bytes)).toBe(0);
		}
		expect(loader.progress).toMatchObject({ plainPages: 1, zeroPages: 0, privatePages: 199 });
	});

	it('opens a sealed page before a plain record of the same page that follows it', async () => {
		const target = createFakeTarget(PC_RAM);
		const sealer = new ToySealer(
			() => page(0x77),
			() => [],
		);
		const { error } = await pushed(
			inPart((w) => {
				const record = new Uint8Array(52 + PAGE_SIZE);
				for (const number of [0, 1, 2]) {
					sealer.seal(0, Uint32Array.of(number), 1, record, { header: 0, payload: 52, stride: 0 });
					const prefix = number === 0 ? sealer.start() : undefined;
					w.encryptedPage('pc.ram', number * PAGE_SIZE, record.subarray(0, 52), record.subarray(52), prefix);
					if (number === 0) w.rawPage('pc.ram', 0, page(0x11));
					if (number === 1) w.zeroPage('pc.ram', PAGE_SIZE, 0x22);
				}
			}),
			{ sink: target },
		);
		expect(error).toBeUndefined();
		const first = [0, 1, 2].map((number) => target.memory[0]?.[number * PAGE_SIZE]);
		expect(first).toEqual([0x11, 0x22, 0x77]);
	});

	it('refuses sealed pages whose header or payload has another length than before', async () => {
		const { error } = await pushed(
			inPart((w) =>
				w.encryptedPage(
					'pc.ram',
					0,
					new Uint8Array(52),
					new Uint8Array(4095),
					new ToySealer(
						() => page(0),
						() => [],
					).start(),
				),
			),
		);
		expect(error).toMatchObject({ code: 'encrypted', section: 'ram' });
	});

	it('keeps the order of records of one page, whatever their kinds', async () => {
		const { target } = await pushed(
			inPart((w) => {
				w.zeroPage('pc.ram', 0, 5);
				w.rawPage('pc.ram', 0, page(6));
				w.rawPage('pc.ram', PAGE_SIZE, page(6));
				w.zeroPage('pc.ram', PAGE_SIZE, 5);
			}),
		);
		expect(target.memory[0]?.subarray(0, PAGE_SIZE)).toEqual(page(6));
		expect(target.memory[0]?.subarray(PAGE_SIZE, 2 * PAGE_SIZE)).toEqual(page(5));
		expect(target.memory[0]?.[2 * PAGE_SIZE]).toBe(0xee);
	});
});

describe('a stream for another machine', () => {
	const configured =
		(machineType: string, ...subsections: { name: string; version: number; data: Uint8Array }[]) =>
		(w: StreamWriter): void => {
			w.header();
			w.configuration({ machineType, subsections });
			w.eof();
		};
	const capabilities = (name: string) => ({
		name: 'configuration/capabilities',
		version: 1,
		data: Uint8Array.of(0, 0, 0, 1, name.length, ...new TextEncoder().encode(name)),
	});
	const uuid = (fill: number) => ({ name: 'configuration/uuid', version: 1, data: new Uint8Array(16).fill(fill) });

	it.each([
		[configured('pc'), {}, "Machine type received is 'pc' and local is 'none'"],
		[configured('nonesuch'), {}, "Machine type received is 'nonesuch' and local is 'none'"],
		[
			configured('none', capabilities('x-other')),
			{},
			'Received unknown capability x-other',
			'Failed to load configuration/capabilities:capabilities',
		],
		[
			configured('none', capabilities('x-ignore-shared')),
			{},
			'Capability x-ignore-shared is off, but received capability is on',
		],
		[
			configured('none', capabilities('x-handover-commit')),
			{},
			'Capability x-handover-commit is off, but received capability is on',
		],
		[configured('none'), { handover: true }, 'Capability x-handover-commit is on, but received capability is off'],
		[
			configured('none', uuid(1)),
			{ uuid: new Uint8Array(16).fill(2) },
			'UUID received is 01010101-0101-0101-0101-010101010101 and local is 02020202-0202-0202-0202-020202020202',
		],
	] as const)('is refused %#', async (make, options, ...qemu) => {
		const { error, loader } = await pushed(make, options);
		expect(error).toMatchObject({ code: 'configuration', qemu, strerror: 'Invalid argument' });
		expect(await loader.outcome).toMatchObject({ status: 'failed', error: { code: 'configuration' } });
	});

	it('passes with a prefix of the machine type, and with a warning for a uuid we do not have', async () => {
		const { error, loader } = await pushed(configured('no', uuid(1)));
		expect(error).toBeUndefined();
		expect(loader.progress.warnings).toEqual([
			"UUID is received 01010101-0101-0101-0101-010101010101, but local uuid isn't set",
		]);
	});

	it('is refused for an unknown block and for another size', async () => {
		const start = (idstr: string, pages: number) => (w: StreamWriter) => {
			w.header();
			w.configuration({ machineType: 'none', subsections: [] });
			w.sectionBegin(ramStart);
			w.blockList([{ idstr, usedLength: pages * PAGE_SIZE }]);
		};
		const generic = "error while loading state for instance 0x0 of device 'ram'";
		expect((await pushed(start('pc.rxm', 4))).error).toMatchObject({
			qemu: ['Unknown ramblock "pc.rxm", cannot accept migration', generic],
		});
		expect((await pushed(start('pc.ram', 8))).error).toMatchObject({
			qemu: ['Size mismatch: pc.ram: 0x8000 != 0x4000: Invalid argument', generic],
		});
	});
});

describe('pages and devices that cannot be loaded', () => {
	const generic = 'error while loading state section id 2(ram)';
	it.each([
		[inPart((w) => w.zeroPage('x', 0, 0)), 'block', ["Can't find block x", 'Illegal RAM offset 0', generic]],
		[inPart((w) => w.zeroPage('pc.ram', 4 * PAGE_SIZE, 0)), 'offset', ['Illegal RAM offset 4000', generic]],
		[inPart((w) => w.rawPage('pc.ram', 4 * PAGE_SIZE, page(1))), 'offset', ['Illegal RAM offset 4000', generic]],
	] as const)('are refused with QEMU’s text %#', async (make, code, qemu) => {
		expect((await pushed(make)).error).toMatchObject({ code, qemu });
	});

	it('are refused when the device is unknown, and when it throws', async () => {
		const withDevice = (w: StreamWriter): void => {
			beginStream(w);
			w.sectionBegin(device(3, 'foo'));
			w.opaqueBody(new Uint8Array(3));
			w.sectionEnd(device(3, 'foo'));
			w.eof();
			w.vmDescription(new TextEncoder().encode('{}'));
		};
		expect((await pushed(withDevice, { device: () => 'unknown' })).error).toMatchObject({
			code: 'section',
			qemu: [
				"Unknown savevm section or instance 'foo' 0. Make sure that your current VM setup matches your saved VM setup, including any hotplugged devices",
			],
		});
		const cause = new Error('bad state');
		const throwing = () => {
			throw cause;
		};
		expect((await pushed(withDevice, { device: throwing })).error).toMatchObject({ code: 'device', cause });
	});

	it('are refused when the opener notices that a sealed page changed', async () => {
		const { loader } = load();
		const data = await smallStream();
		expect(thrown(() => loader.push(data))).toMatchObject({
			code: 'page',
			section: 'ram',
			cause: { message: expect.stringContaining('toy opener') },
		});
		expect(await loader.outcome).toMatchObject({ status: 'failed' });
		expect(thrown(() => loader.push(new Uint8Array(1)))).toMatchObject({ code: 'closed' });
	});

	it('are refused when sealed and nobody can open them', async () => {
		const { opener: _, ...plain } = createFakeTarget(PC_RAM) as FakeTarget;
		const { loader } = load({ sink: plain });
		const data = await smallStream();
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'encrypted' });
	});
});

describe('commands', () => {
	const command = (code: number, ...data: number[]) =>
		pushed((w) => {
			beginStream(w);
			w.command(code, Uint8Array.from(data));
		});
	it.each([
		[0x63, [], 'MIG_CMD 0x63 unknown (len 0x0)', 'Invalid argument'],
		[0, [], 'MIG_CMD 0x0 unknown (len 0x0)', 'Invalid argument'],
		[0x4356, [], 'MIG_CMD 0x4356 unknown (len 0x0)', 'Invalid argument'],
		[2, [0, 0, 1], 'PING received with bad length - expecting 4, got 3', 'Numerical result out of range'],
		[2, [0, 0, 0, 1], 'CMD_PING (0x1) received with no return path', 'Operation not permitted'],
	])('%# are refused with QEMU’s text', async (code, data, qemu, strerror) => {
		expect((await command(code, ...data)).error).toMatchObject({ code: 'command', qemu: [qemu], strerror });
	});

	it('of postcopy are refused without the capability, an advise for dirty bitmaps alone is not', async () => {
		const advise = encodeCommand({ command: Command.postcopyAdvise, pageSizes: 4096n, targetPageSize: 4096n });
		expect((await command(Command.postcopyAdvise, ...advise)).error).toMatchObject({
			code: 'unsupported',
			qemu: ['RAM postcopy is disabled but have 16 byte advise'],
		});
		expect((await command(Command.postcopyAdvise)).error).toBeUndefined();
		expect((await command(Command.enableColo)).error).toMatchObject({ code: 'unsupported' });
	});

	it('open a return path only where there is one', async () => {
		const opening = (w: StreamWriter): void => {
			beginStream(w);
			w.command(1, new Uint8Array(0));
			w.command(1, new Uint8Array(0));
			w.command(2, Uint8Array.of(0, 0, 0, 9));
		};
		const { loader, reply, error } = await pushed(opening);
		expect(error).toBeUndefined();
		expect(toHex(reply.bytes())).toBe('0002000400000009');
		expect(loader.progress.warnings).toEqual(['CMD_OPEN_RETURN_PATH called when RP already open']);
		const closed = createLoader({
			sink: createFakeTarget(PC_RAM),
			dialect: 'qemu-7.2',
			machineType: 'none',
			device: () => 'loaded',
			finish: () => {},
		});
		const data = await written(opening);
		expect(thrown(() => closed.push(data))).toMatchObject({ qemu: ['CMD_OPEN_RETURN_PATH failed'] });
	});
});
