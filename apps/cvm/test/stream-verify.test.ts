import { readFileSync } from 'node:fs';
import { Command, encodeCommand, StreamWriter } from '@cvm/qemu-mig';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { CAPTURE } from './processes.js';
import { capture, indexOf, patched, stream, streamJson, tinyStream } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

interface Document {
	readonly valid: boolean;
	readonly findings: readonly { readonly rule: string; readonly severity: string; readonly offset?: number }[];
}

const ascii = (text: string): number[] => [...Buffer.from(text)];

describe('verify', () => {
	it('finds nothing wrong with a stream of real QEMU', async () => {
		const { code, stdout } = await stream('verify', CAPTURE);
		expect([code, stdout]).toEqual([0, 'valid: 548.1 KiB, 0 errors, 0 warnings\n']);
		expect(await streamJson<Document>('verify', CAPTURE)).toMatchObject({ valid: true, findings: [] });
	});

	it('tells offset, section and rule of what is wrong', async () => {
		const file = folder.write('f', capture().subarray(0, 300_000));
		const { code, stdout } = await stream('verify', file);
		expect(code).toBe(1);
		expect(stdout.split('\n')[0]).toMatch(
			/^error 0x[0-9a-f]+ ram: stream: expected 4096 more bytes, got \d+ \[stream\/truncated\]$/,
		);
		expect(stdout).toContain('not valid: 293.0 KiB, 1 error, 0 warnings');
		expect(await streamJson<Document>('verify', file)).toMatchObject({
			valid: false,
			findings: [{ rule: 'stream/truncated', severity: 'error', section: 'ram' }],
		});
	});

	it('tells of pages that never came, and of a delta without a base', async () => {
		const file = folder.write('f', tinyStream(2, [[0x1000, 0x40, 0, 1, 9]]));
		const { findings } = await streamJson<Document>('verify', file);
		expect(findings.map(({ rule }) => rule)).toEqual(expect.arrayContaining(['ram/page-missing', 'ram/delta-base']));
		expect((await stream('verify', file)).code).toBe(1);
	});

	it('does not take a description for granted', async () => {
		const file = folder.write('f', tinyStream(1, [[0, 0x02, 0]]));
		const { code, stdout } = await stream('verify', file);
		expect([code, stdout]).toEqual([
			0,
			'warning: no description follows EOF [description/none]\nvalid: 123 B, 0 errors, 1 warning\n',
		]);
	});

	it('reads multifd channels along', async () => {
		await stream('convert', CAPTURE, '--to', 'multifd', '-o', folder.at('mf'));
		const whole = await streamJson<Document>('verify', folder.at('mf'), folder.at('mf.0'), folder.at('mf.1'));
		expect(whole).toMatchObject({ valid: true });
		const half = await streamJson<Document>('verify', folder.at('mf'), folder.at('mf.0'));
		expect(half.valid).toBe(false);
	});

	it('lists its rules in the help', async () => {
		const { code, stdout } = await stream('verify', '--help');
		expect(code).toBe(0);
		expect(stdout).toMatch(/ram\/delta-base \(error\): /);
		expect(stdout).toContain('cvm stream verify --as qemu-7.2 guest.qevm');
	});
});

/** Where things stand in the capture. */
const START = 0x1a;
const PART = 0xc4;
const RECORDS = PART + 5;
const DEVICES = 0x6e3b9;
const EOF = 0x71544;

const cut = (at: number) => (data: Uint8Array) => data.subarray(0, at);
const set =
	(at: number, ...bytes: number[]) =>
	(data: Uint8Array) =>
		patched(data, at, ...bytes);
const insert =
	(at: number, ...bytes: number[]) =>
	(data: Uint8Array) =>
		Uint8Array.from([...data.subarray(0, at), ...bytes, ...data.subarray(at)]);
const named =
	(text: string, to: string, from = 0) =>
	(data: Uint8Array) =>
		patched(data, indexOf(data, text, from), ...ascii(to));

const PART_FAILS = 'error while loading state section id 2(ram)';
const START_FAILS = "error while loading state for instance 0x0 of device 'ram'";
const END = 'load of migration failed: ';
const INVALID = `${END}Invalid argument`;
const CUT = `${END}Input/output error`;
const device = (name: string): string => `error while loading state for instance 0x0 of device '${name}'`;

/** What Debian's QEMU 7.2.22 printed for the same files, started as the capture's source was. */
const SAID: readonly (readonly [what: string, damage: (data: Uint8Array) => Uint8Array, ...lines: string[]])[] = [
	['wrong magic', set(0, 1), 'Not a migration stream', INVALID],
	['version 2', set(7, 2), "SaveVM v2 format is obsolete and don't work anymore", `${END}Operation not supported`],
	['version 4', set(7, 4), 'Unsupported migration stream version', `${END}Operation not supported`],
	[
		'no configuration',
		(data) => Uint8Array.from([...data.subarray(0, 8), ...data.subarray(START)]),
		'Configuration section missing',
		INVALID,
	],
	[
		'another machine',
		named('7.2', '7.1'),
		"Machine type received is 'pc-i440fx-7.1' and local is 'pc-i440fx-7.2'",
		INVALID,
	],
	[
		'an unknown block',
		named('pc.ram', 'pc.rxm'),
		'Unknown ramblock "pc.rxm", cannot accept migration',
		START_FAILS,
		INVALID,
	],
	[
		'an unknown block in a record',
		insert(RECORDS, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0x78, 0),
		"Can't find block x",
		'Illegal RAM offset 0',
		PART_FAILS,
		INVALID,
	],
	['cut in RAM', cut(300_000), PART_FAILS, CUT],
	['cut before EOF', cut(EOF), CUT],
	['cut in globalstate', cut(EOF - 30), 'Failed to load globalstate:runstate', device('globalstate'), CUT],
	['cut in the CPU', cut(0x6e41f + 100), 'Failed to load cpu:env.regs', device('cpu'), CUT],
	[
		'flag 0x200',
		insert(RECORDS, 0, 0, 0, 0, 0, 0, 2, 0),
		'Unknown combination of migration flags: 0x200',
		PART_FAILS,
		INVALID,
	],
	[
		'flag 0x100',
		insert(RECORDS, 0, 0, 0, 0, 0, 0, 1, 0),
		'Received an unexpected compressed page',
		PART_FAILS,
		INVALID,
	],
	['flag 0x080', insert(RECORDS, 0, 0, 0, 0, 0, 0, 0, 0x80), PART_FAILS, INVALID],
	[
		'CONTINUE first',
		insert(RECORDS, 0, 0, 0, 0, 0, 0, 0, 0x22, 0),
		'Ack, bad migration stream!',
		'Illegal RAM offset 0',
		PART_FAILS,
		INVALID,
	],
	[
		'an offset behind the block',
		insert(RECORDS, 0, 0, 0, 0, 1, 0, 0, 2, 6, ...ascii('pc.ram'), 0),
		'Illegal RAM offset 1000000',
		PART_FAILS,
		INVALID,
	],
	[
		'no footer',
		(data) => Uint8Array.from([...data.subarray(0, PART - 5), ...data.subarray(PART)]),
		'Missing section footer for ram',
		INVALID,
	],
	['a wrong footer', set(PART - 1, 3), 'Mismatched section id in footer for ram - read 0x3 expected 0x2', INVALID],
	[
		'an unknown device',
		named('timer', 'tamer', DEVICES),
		"Unknown savevm section or instance 'tamer' 0. Make sure that your current VM setup matches your saved VM setup, including any hotplugged devices",
		INVALID,
	],
	['a device that is too new', set(DEVICES + 18, 9), "savevm: unsupported version 9 for 'timer' v2", INVALID],
	['type 9', set(PART, 9), 'Unknown savevm section type 9', INVALID],
	['an unknown command', insert(PART, 8, 0, 0x63, 0, 0), 'MIG_CMD 0x63 unknown (len 0x0)', INVALID],
	[
		'a short PING',
		insert(PART, 8, 0, 2, 0, 3, 0, 0, 1),
		'PING received with bad length - expecting 4, got 3',
		`${END}Numerical result out of range`,
	],
	[
		'a PING without return path',
		insert(PART, 8, 0, 2, 0, 4, 0, 0, 0, 1),
		'CMD_PING (0x1) received with no return path',
		`${END}Operation not permitted`,
	],
	[
		'an unknown run state',
		named('paused', 'bogus!'),
		'invalid parameter value: bogus!',
		device('globalstate'),
		INVALID,
	],
	['no description', cut(EOF + 1), 'Expected vmdescription section, but got 0'],
	[
		'other bytes in its place',
		(data) => Uint8Array.from([...data.subarray(0, EOF + 1), 9, 1, 2]),
		'Expected vmdescription section, but got 9',
	],
	['a description that is none', set(EOF + 6, 0x20)],
	['bytes behind the end', (data) => Uint8Array.from([...data, 1, 2, 3])],
	['nothing wrong', (data) => data],
];

describe('verify --as qemu-7.2', () => {
	const cases = SAID.map(([what, damage, ...lines]) => ({ what, damage, lines }));
	it.each(cases)('says of a stream with $what what QEMU says', async ({ damage, lines }) => {
		const file = folder.write('f', damage(capture()));
		const { code, stdout, stderr } = await stream('verify', '--as', 'qemu-7.2', '--target', CAPTURE, file);
		expect(stdout).toBe(lines.map((line) => `qemu-system-x86_64: ${line}\n`).join(''));
		expect([code, stderr]).toEqual([lines.at(-1)?.startsWith(END) ? 1 : 0, '']);
	});

	it('of another size names both', async () => {
		const other = tinyStream(4, [[0, 0x02, 0]]);
		const file = folder.write('f', tinyStream(8, [[0, 0x02, 0]]));
		const { stdout } = await stream('verify', '--as', 'qemu-7.2', '--target', folder.write('t', other), file);
		expect(stdout.split('\n')[0]).toBe('qemu-system-x86_64: Size mismatch: pc.ram: 0x8000 != 0x4000: Invalid argument');
	});

	it('of postcopy that was cut says that the target waits, and with what continued it that all is well', async () => {
		const chunks: Uint8Array[][] = [[], []];
		const writers = chunks.map((list) => new StreamWriter({ write: (chunk) => void list.push(chunk.slice()) }));
		const [one, two] = writers;
		if (one === undefined || two === undefined) throw new Error('two writers');
		const none = new Uint8Array(0);
		const part = { type: 2, id: 2, idstr: 'ram', instanceId: 0, version: 4 } as const;
		one.ramDiscard('pc.ram', [{ start: 0x1000n, length: 0x1000n }]);
		one.command(Command.postcopyListen, none);
		one.command(Command.postcopyRun, none);
		one.sectionBegin(part);
		one.rawPage('pc.ram', 0x1000, new Uint8Array(4096));
		two.command(Command.recvBitmap, encodeCommand({ command: Command.recvBitmap, block: 'pc.ram' }));
		two.command(Command.postcopyResume, none);
		two.sectionBegin(part);
		two.rawPage('pc.ram', 0x1000, new Uint8Array(4096));
		two.endOfRecords();
		two.sectionEnd(part);
		two.sectionBegin({ ...part, type: 3 });
		two.endOfRecords();
		two.sectionEnd({ ...part, type: 3 });
		two.eof();
		for (const writer of writers) await writer.flush();
		// ADVISE in front, END, EOF away.
		const advise = [8, 0, 3, 0, 16, ...[0, 0, 0, 0, 0, 0, 16, 0], ...[0, 0, 0, 0, 0, 0, 16, 0]];
		const begin = tinyStream(2, [[0, 0x02, 0]]).subarray(0, -(1 + 4 + 8 + 5 + 1));
		const first = folder.write(
			'first',
			Uint8Array.from(Buffer.concat([begin, Uint8Array.from(advise), ...(chunks[0] ?? [])])),
		);
		const second = folder.write('second', Uint8Array.from(Buffer.concat(chunks[1] ?? [])));
		const lines = [
			'qemu-system-x86_64: error while loading state section id 2(ram)\n',
			'qemu-system-x86_64: Detected IO failure for postcopy. Migration paused.\n',
		];
		const alone = await stream('verify', '--as', 'qemu-7.2', first);
		expect([alone.code, alone.stdout]).toEqual([1, lines.join('')]);
		const both = await stream('verify', '--as', 'qemu-7.2', first, second);
		expect([both.code, both.stdout]).toEqual([0, lines.join('')]);
	});

	it('takes an empty file for a connection on which nothing came', async () => {
		const { code, stdout } = await stream('verify', '--as', 'qemu-7.2', folder.write('empty', new Uint8Array(0)));
		expect([code, stdout]).toEqual([
			1,
			'qemu-system-x86_64: Not a migration stream\nqemu-system-x86_64: load of migration failed: Invalid argument\n',
		]);
	});

	it('takes compressed pages if the target does', async () => {
		await stream('rewrite', CAPTURE, '--encoding', 'zlib', '-o', folder.at('z'));
		const without = await streamJson<{ lines: string[] }>('verify', '--as', 'qemu-7.2', folder.at('z'));
		expect(without).toMatchObject({ exit: 1 });
		expect(without.lines[0]).toBe('qemu-system-x86_64: Received an unexpected compressed page');
		const given = await stream('verify', '--as', 'qemu-7.2', '--capability', 'compress', folder.at('z'));
		expect([given.code, given.stdout]).toEqual([0, '']);
	});

	it.each([
		[['--target', CAPTURE], '--target: expected --as with it'],
		[['--capability', 'compress'], '--capability: expected --as with it'],
		[['--as', 'qemu-7.2', '--capability', 'x'], "--capability: expected compress, got 'x'"],
		[['--as', 'qemu-1'], 'expected one of qemu-7.2'],
		[['--as', 'qemu-7.2', '--target', '/nonexistent'], "'/nonexistent': No such file or directory"],
	])('with %j is one line', async (options, line) => {
		const { code, stdout, stderr } = await stream('verify', ...options, CAPTURE);
		expect([code, stdout]).toEqual([2, '']);
		expect(stderr).toMatch(/^cvm: [^\n]+\n$/);
		expect(stderr).toContain(line);
	});
});

it('the offsets above are those of the capture', () => {
	const data = readFileSync(CAPTURE);
	expect([data[START], data[PART], data[EOF], data[EOF + 1]]).toEqual([1, 2, 0, 6]);
});
