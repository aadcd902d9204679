import { describe, expect, it } from 'vitest';
import { packageOf } from '../../test/dialect-streams.js';
import { beginStream, device, page, ramEnd, ramPart, read, relayed, thrown, written } from '../../test/streams.js';
import type { ReaderOptions, ResumeState, StreamHandler, StreamWriter } from '../index.js';
import { Command, encodeCommand, StreamReader } from '../index.js';

const NOTHING = new Uint8Array(0);
const SECTION_LINE = 'error while loading state section id 2(ram)';
const ping = (value: number): Uint8Array => encodeCommand({ command: Command.ping, value });
const ADVICE = encodeCommand({ command: Command.postcopyAdvise, pageSizes: 0x1000n, targetPageSize: 0x1000n });
const RANGES = [
	{ start: 0x8000n, length: 0x1000n },
	{ start: 0x100000n, length: 0x100000n },
];

/** The order QEMU 7.2 sends: advice, pages, discards, the package, more pages, EOF without description. */
async function postcopy(records: (writer: StreamWriter) => void = () => {}): Promise<Uint8Array> {
	const place = await packageOf((w) => {
		w.command(Command.postcopyListen, NOTHING);
		for (const id of [3, 4]) {
			w.sectionBegin(device(id, 'timer', id));
			w.opaqueBody(Uint8Array.of(1, 2, 3));
			w.sectionEnd(device(id, 'timer', id));
		}
		w.command(Command.ping, ping(3));
		w.command(Command.postcopyRun, NOTHING);
	});
	return written((w) => {
		w.header();
		w.configuration({ machineType: 'none', subsections: [] });
		w.command(Command.openReturnPath, NOTHING);
		w.command(Command.ping, ping(1));
		w.command(Command.postcopyAdvise, ADVICE);
		beginSections(w);
		w.ramDiscard('pc.ram', RANGES);
		w.command(Command.ping, ping(2));
		place(w);
		w.command(Command.ping, ping(4));
		w.sectionBegin(ramPart);
		w.rawPage('pc.ram', 0x1000, page(1));
		records(w);
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.sectionBegin(ramEnd);
		w.endOfRecords();
		w.sectionEnd(ramEnd);
		w.eof();
	});
}

function beginSections(w: StreamWriter): void {
	const start = { ...ramPart, type: 1 } as const;
	w.sectionBegin(start);
	w.blockList([{ idstr: 'pc.ram', usedLength: 0x4000 }]);
	w.endOfRecords();
	w.sectionEnd(start);
}

function reading(data: Uint8Array, handler: StreamHandler, options: Partial<ReaderOptions> = {}): StreamReader {
	const reader = new StreamReader({ ...options, dialect: 'qemu-7.2', handler });
	reader.push(data);
	return reader;
}

describe('a postcopy stream', () => {
	it('is read with its package in place, and that marked', async () => {
		const data = await postcopy();
		const seen: string[] = [];
		const mark = (text: string, packaged: boolean): number => seen.push(packaged ? `(${text})` : text);
		const reader = reading(
			data,
			{
				command: (command, _data, at) => mark(`command ${command}`, at.packaged),
				packageBegin: (length, at) => mark(`begin ${length} of ${at.length}`, at.packaged),
				packageEnd: (at) => mark(`end ${at.length}`, at.packaged),
				sectionBegin: ({ idstr, type }, at) => mark(`${idstr} ${type}`, at.packaged),
				ramDiscard: (block, ranges, at) => mark(`discard ${block} ${ranges.length}`, at.packaged),
				eof: (at) => mark('eof', at.packaged),
			},
			{ check: 'target' },
		);
		expect(reader.end()).toEqual({ description: false, trailing: 0 });
		expect(seen).toEqual([
			...['command 1', 'command 2', 'command 3', 'ram 1', 'command 6', 'discard pc.ram 2', 'command 2', 'command 7'],
			...['(begin 73 of 0)', '(command 4)', '(timer 4)', '(timer 4)', '(command 2)', '(command 5)', '(end 0)'],
			...['command 2', 'ram 2', 'ram 3', 'eof'],
		]);
		for (const size of [1, 7, 1000]) expect((await relayed(data, size, 'qemu-7.2'))[0]).toEqual(data);
	});

	it('is refused as QEMU does when cut inside the package', async () => {
		const data = await postcopy();
		let begin = 0;
		reading(data, {
			packageBegin: (_length, at) => {
				begin = at.offset;
			},
		});
		for (const got of [0, 1, 40, 72]) {
			expect(thrown(() => read(data.slice(0, begin + got)))).toMatchObject({
				code: 'truncated',
				qemu: [`CMD_PACKAGED: Buffer receive fail ret=${got} length=73`],
				strerror: 'Resource temporarily unavailable',
			});
		}
	});

	it('is refused if an element of the package goes on behind it, or it holds another', async () => {
		const data = await written((w) => {
			beginStream(w);
			w.packaged(7);
			w.command(Command.ping, ping(3));
			w.eof();
		});
		expect(thrown(() => read(data))).toMatchObject({ code: 'command', strerror: 'Input/output error' });
		const inner = await packageOf((w) => w.command(Command.postcopyRun, NOTHING));
		const outer = await packageOf(inner);
		const nested = await written((w) => {
			beginStream(w);
			outer(w);
		});
		expect(thrown(() => read(nested))).toMatchObject({ code: 'command' });
	});

	it('may have an empty package, and an EOF that ends only the package', async () => {
		const place = await packageOf((w) => w.eof());
		const data = await written((w) => {
			beginStream(w);
			w.packaged(0);
			place(w);
			w.command(Command.ping, ping(9));
			w.eof();
		});
		const seen: string[] = [];
		const reader = reading(data, {
			packageBegin: (length) => seen.push(`begin ${length}`),
			packageEnd: () => seen.push('end'),
			eof: (at) => seen.push(`eof ${at.packaged}`),
			command: (command) => seen.push(`command ${command}`),
		});
		expect(reader.end().trailing).toBe(0);
		const first = ['command 7', 'begin 0', 'end'];
		expect(seen).toEqual([...first, 'command 7', 'begin 1', 'eof true', 'end', 'command 2', 'eof false']);
	});

	it('holds no XBZRLE once the target listens', async () => {
		const data = await postcopy((w) => w.encodedPage('xbzrle', 'pc.ram', 0, Uint8Array.of(0, 1, 1)));
		expect(read(data)).toMatchObject({ trailing: 0 });
		expect(thrown(() => read(data, 'qemu-7.2', { check: 'target' }))).toMatchObject({
			code: 'record',
			qemu: ['Unknown combination of migration flags: 0x60 (postcopy mode)', SECTION_LINE],
		});
	});
});

describe('commands, as a target checks them', () => {
	const unknown = (command: number, length: number) =>
		`MIG_CMD 0x${command.toString(16)} unknown (len 0x${length.toString(16)})`;
	const EINVAL = 'Invalid argument';
	const EPERM = 'Operation not permitted';
	const ERANGE = 'Numerical result out of range';
	const discard = (...data: number[]): [number, Uint8Array][] => [
		[3, ADVICE],
		[6, Uint8Array.from([...data, ...new Uint8Array(Math.max(0, 20 - data.length))])],
	];
	it.each<[string, [number, Uint8Array][], string, string]>([
		['0x63', [[0x63, NOTHING]], unknown(0x63, 0), EINVAL],
		['0', [[0, new Uint8Array(1)]], unknown(0, 1), EINVAL],
		['SWITCHOVER_START, in 7.2', [[11, NOTHING]], unknown(11, 0), EINVAL],
		['the hand-over, unannounced', [[0x4356, NOTHING]], unknown(0x4356, 0), EINVAL],
		['PING of 3 bytes', [[2, new Uint8Array(3)]], 'PING received with bad length - expecting 4, got 3', ERANGE],
		['PING too early', [[2, ping(1)]], 'CMD_PING (0x1) received with no return path', EPERM],
		['PACKAGED of 5 bytes', [[7, new Uint8Array(5)]], 'PACKAGED received with bad length - expecting 4, got 5', ERANGE],
		['LISTEN first', [[4, NOTHING]], 'CMD_POSTCOPY_LISTEN in wrong postcopy state (0)', EPERM],
		[
			'RUN before LISTEN',
			[
				[3, ADVICE],
				[5, NOTHING],
			],
			'CMD_POSTCOPY_RUN in wrong postcopy state (1)',
			EPERM,
		],
		[
			'ADVISE twice',
			[
				[3, ADVICE],
				[3, ADVICE],
			],
			'CMD_POSTCOPY_ADVISE in wrong postcopy state (1)',
			EPERM,
		],
		['ADVISE of 8 bytes', [[3, new Uint8Array(8)]], 'CMD_POSTCOPY_ADVISE invalid length (8)', EINVAL],
		[
			'ADVISE of other target pages',
			[[3, encodeCommand({ command: 3, pageSizes: 0x1000n, targetPageSize: 0x2000n })]],
			'Postcopy needs matching target page sizes (s=8192 d=4096)',
			EPERM,
		],
		[
			'RAM_DISCARD first',
			[[6, encodeCommand({ command: 6, block: 'a', ranges: RANGES })]],
			'CMD_POSTCOPY_RAM_DISCARD in wrong postcopy state (0)',
			EPERM,
		],
		[
			'a short RAM_DISCARD',
			[
				[3, ADVICE],
				[6, new Uint8Array(19)],
			],
			'CMD_POSTCOPY_RAM_DISCARD invalid length (19)',
			EPERM,
		],
		['RAM_DISCARD version 1', discard(1), 'CMD_POSTCOPY_RAM_DISCARD invalid version (1)', EPERM],
		['RAM_DISCARD of no block', discard(0, 0), 'CMD_POSTCOPY_RAM_DISCARD Failed to read RAMBlock ID', EPERM],
		['RAM_DISCARD without nil', discard(0, 1, 0x61, 5), 'CMD_POSTCOPY_RAM_DISCARD missing nil (5)', EPERM],
		['half a range', discard(0, 2, 0x61, 0x61, 0), 'CMD_POSTCOPY_RAM_DISCARD invalid length (15)', EPERM],
		[
			'RECV_BITMAP of no block',
			[[10, Uint8Array.of(0)]],
			'loadvm_handle_recv_bitmap: failed to read block name',
			EINVAL,
		],
		[
			'RECV_BITMAP with more',
			[[10, Uint8Array.of(1, 0x61, 0)]],
			'loadvm_handle_recv_bitmap: invalid payload length (3)',
			EINVAL,
		],
	])('refuse %s', async (_name, commands, qemu, strerror) => {
		const data = await written((w) => {
			beginStream(w);
			for (const [command, bytes] of commands) w.command(command, bytes);
			w.eof();
		});
		const error = thrown(() => read(data, 'qemu-7.2', { check: 'target' }));
		expect(error).toMatchObject({ code: 'command', qemu: [qemu], strerror });
		const last = commands.at(-1)?.[1].length ?? 0;
		expect(error).toMatchObject({ offset: data.length - 1 - 5 - last, section: undefined });
	});

	it('take what a target takes: a second return path, resuming out of turn, 10.0 commands in qemu-9', async () => {
		const data = await written((w) => {
			beginStream(w);
			for (const command of [1, 1, 9, 8, 11]) w.command(command, NOTHING);
			w.eof();
		});
		expect(read(data, 'qemu-9', { check: 'target' })).toMatchObject({ trailing: 0 });
	});
});

describe('recovery', () => {
	const recovery = (): Promise<Uint8Array> =>
		written((w) => {
			w.command(Command.recvBitmap, encodeCommand({ command: Command.recvBitmap, block: 'pc.ram' }));
			w.command(Command.ping, ping(7));
			w.command(Command.postcopyResume, NOTHING);
			w.sectionBegin({ ...ramPart, id: 7 });
			w.rawPage('pc.ram', 0x2000, page(3));
			w.endOfRecords();
			w.sectionEnd({ ...ramPart, id: 7 });
			w.eof();
		});

	it('streams have no header, and go on with sections of the first', async () => {
		const data = await recovery();
		expect((await relayed(data, 3, 'qemu-7.2', { stream: 'recovery', check: 'target' }))[0]).toEqual(data);
		const resume: ResumeState = { sections: [], blocks: undefined, block: undefined, session: false, postcopy: 4 };
		expect(thrown(() => read(data, 'qemu-7.2', { stream: 'recovery', resume }))).toMatchObject({
			qemu: ['Unknown savevm section 7'],
		});
	});

	it('takes over what the first connection knew, also after it broke', async () => {
		const data = await postcopy();
		const first = reading(data.slice(0, -40), {}, { check: 'target' });
		expect(thrown(() => first.end())).toMatchObject({ code: 'truncated' });
		const resume = first.resumeState;
		expect(resume).toMatchObject({ block: 'pc.ram', session: false, postcopy: 4 });
		expect(resume.sections.map(({ id, idstr }) => `${id} ${idstr}`)).toEqual(['2 ram', '3 timer', '4 timer']);
		const second = await written((w) => {
			w.command(Command.postcopyResume, NOTHING);
			w.sectionBegin(ramPart);
			w.zeroPage('pc.ram', 0x3000, 0, true);
			w.zeroPage('pc.ram', 0x4000, 0, true);
		});
		const seen: string[] = [];
		const options = { stream: 'recovery', check: 'target', resume } as const;
		const error = thrown(() => reading(second, { zeroPage: (block, at) => seen.push(`${block} ${at}`) }, options));
		expect(seen).toEqual(['pc.ram 12288']);
		expect(error).toMatchObject({ code: 'offset', qemu: ['Illegal RAM offset 4000', SECTION_LINE] });
	});
});

describe('a preempt channel', () => {
	it('holds records and an EOS, with a CONTINUE state of its own', async () => {
		const data = await written((w) => {
			w.rawPage('pc.ram', 0x1000, page(1));
			w.zeroPage('pc.ram', 0x2000, 0);
			w.endOfRecords();
			w.trailing(Uint8Array.of(1));
		});
		expect((await relayed(data, 100, 'qemu-7.2', { stream: 'preempt' }))[0]).toEqual(data);
		const cut = data.slice(0, 4110);
		expect(thrown(() => read(cut, 'qemu-7.2', { stream: 'preempt' }))).toMatchObject({ code: 'truncated' });
		const continued = await written((w) => w.zeroPage('pc.ram', 0, 0, true));
		expect(thrown(() => read(continued, 'qemu-7.2', { stream: 'preempt' }))).toMatchObject({
			qemu: ['Ack, bad migration stream!', 'Illegal RAM offset 0'],
		});
	});
});
