/** Mistakes of the person and of the world: one clear line, the right exit code, nothing left behind. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { damaged, sectionsOf, swapped } from './damage.js';
import { CAPTURE, expectOneLine, PATIENCE, PROGRAM, run, start } from './processes.js';

let folder = '';
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-test-'));
});
afterEach(() => {
	rmSync(folder, { recursive: true, force: true });
});

const file = (name: string, data: Uint8Array | string): string => {
	const path = join(folder, name);
	writeFileSync(path, data);
	return path;
};

describe('a mistaken command line', () => {
	it.each([
		['an unknown command', ['nope'], "unknown command 'nope'"],
		['an unknown option of demo', ['demo', '--nope'], "unknown option '--nope'"],
		['an unknown option of bench', ['bench', '--nope'], "unknown option '--nope'"],
		['an unknown option of host', ['host', '-nope'], '-nope: invalid option'],
		['an option without its value', ['demo', '--seed'], "option '--seed <text>' argument missing"],
		['a word too many', ['demo', 'extra'], 'too many arguments'],
		['--mode', ['demo', '--mode', 'fast'], "--mode: expected one of psp, mh, plain, got 'fast'"],
		[
			'--memory without sense',
			['demo', '--memory', 'much'],
			"--memory: expected a size such as 256M, from 40M to 2048M, got 'much'",
		],
		['--memory that is odd', ['demo', '--memory', '65M'], "got '65M'"],
		['--memory too small', ['demo', '--memory', '8M'], "got '8M'"],
		['--memory too large', ['demo', '--memory', '4G'], "got '4G'"],
		['--vcpus 0', ['demo', '--vcpus', '0'], "--vcpus: expected a number from 1 to 16, got '0'"],
		['--vcpus 17', ['demo', '--vcpus', '17'], "got '17'"],
		['--workload', ['demo', '--workload', 'sleep'], "--workload: expected one of ab, random, shared-io, got 'sleep'"],
		['--steps', ['demo', '--steps', '1.5'], "--steps: expected a number from 1 to 2147483648, got '1.5'"],
		['--hops', ['demo', '--hops', '0'], "--hops: expected a number from 1 to 16, got '0'"],
		['--policy', ['demo', '--policy', 'none'], "--policy: expected a number from 0 to 4294967295, got 'none'"],
		['--policy with ES', ['demo', '--policy', '0x4'], '--policy: SEV-ES guests'],
		['--policy with NOSEND', ['demo', '--policy', '8'], '--policy: the NOSEND bit'],
		['--helpers without mh', ['demo', '--helpers', '2'], '--helpers: needs --mode mh'],
		['--helpers 9', ['demo', '--mode', 'mh', '--helpers', '9'], "--helpers: expected a number from 1 to 8, got '9'"],
		['--profile without mh', ['demo', '--profile', 'rfc-2021'], '--profile: needs --mode mh'],
		[
			'--profile rfc-2021 alone',
			['demo', '--mode', 'mh', '--profile', 'rfc-2021'],
			"--profile: rfc-2021 encrypts nothing: whoever listens has the guest's memory",
		],
		['--insecure-plaintext alone', ['demo', '--mode', 'mh', '--insecure-plaintext'], 'needs --profile rfc-2021'],
		['--from-stream with mh', ['demo', '--mode', 'mh', '--from-stream', CAPTURE], '--from-stream: needs --mode psp'],
		['-o with mh', ['demo', '--mode', 'mh', '-o', '/nonexistent'], '-o: needs --mode plain'],
		['--bandwidth', ['demo', '--bandwidth=-1'], '--bandwidth: expected'],
		['--downtime', ['demo', '--downtime', 'soon'], "--downtime: expected a number from 1 to 2000000, got 'soon'"],
		[
			'--from-stream of nothing',
			['demo', '--from-stream', '/nonexistent'],
			"--from-stream: '/nonexistent': No such file or directory",
		],
		['--from-stream of a folder', ['demo', '--from-stream', '/'], "--from-stream: '/': not a file"],
		[
			'--from-stream without encryption',
			['demo', '--from-stream', CAPTURE, '--mode', 'plain'],
			'--from-stream: needs --mode psp',
		],
		[
			'--from-stream without debugging',
			['demo', '--from-stream', CAPTURE, '--policy', '1'],
			'--from-stream: the proof reads',
		],
		[
			'--firmware of nothing',
			['demo', '--firmware', '/nonexistent'],
			"--firmware: '/nonexistent': No such file or directory",
		],
		['-o of a sealed stream', ['demo', '-o', '/nonexistent'], '-o: needs --mode plain'],
		['-o without a name', ['demo', '--mode', 'plain', '-o', ''], "-o: expected a file name, got ''"],
		['-o with hops', ['demo', '--mode', 'plain', '--hops', '2', '-o', '/nonexistent'], '-o: a file is one hop'],
		[
			'--memory of bench',
			['bench', '--memory', 'much'],
			"--memory: expected a size such as 256M, from 40M to 2048M, got 'much'",
		],
	])('%s', async (_, argv, said) => {
		const ended = await run(...argv);
		expect(expectOneLine(ended, 2)).toContain(said);
		expect(ended.stdout).toBe('');
	});

	it.each([
		['a value that is missing', ['-m'], '-m: requires an argument'],
		['-m', ['-m', 'much'], "-m: expected a multiple of 2M from 40M to 2G, got 'much'"],
		['-smp', ['-smp', '0'], "got '0'"],
		['-machine', ['-machine', 'isapc'], "-machine: unsupported machine type 'isapc'"],
		['a missing object', ['-machine', 'q35,confidential-guest-support=sev0'], "-machine: Device 'sev0' not found"],
		['-object', ['-object', 'rng-random'], "-object: expected sev-guest, got 'rng-random'"],
		['an object without id', ['-object', 'sev-guest'], "Parameter 'id' is missing"],
		['-uuid', ['-uuid', '1'], '-uuid: failed to parse'],
		['-qmp without sense', ['-qmp', 'nowhere'], '-qmp: QMP address: expected unix:PATH or tcp:HOST:PORT'],
		['-qmp for other machines', ['-qmp', 'tcp:0.0.0.0:0,server,nowait'], 'expected a loopback address'],
		['-bios of nothing', ['-bios', '/nonexistent'], "-bios: could not open '/nonexistent': No such file or directory"],
		['-bios of a folder', ['-bios', '/'], "-bios: could not open '/': Is a directory"],
		[
			'-fw_cfg of nothing',
			['-fw_cfg', 'name=opt/a,file=/nonexistent'],
			"could not open '/nonexistent': No such file or directory",
		],
		[
			'-serial into nowhere',
			['-serial', 'file:/nonexistent/log'],
			"-serial: could not open '/nonexistent/log': No such file or directory",
		],
		[
			'-platform in nowhere',
			['-platform', '/nonexistent/chip'],
			"-platform: could not make '/nonexistent/chip': No such file or directory",
		],
		['-platform of a file', ['-platform', CAPTURE], 'File exists'],
		[
			'-from-stream of nothing',
			['-from-stream', '/nonexistent'],
			"-from-stream: could not open '/nonexistent': No such file or directory",
		],
	])('of host: %s', async (_, argv, said) => {
		const ended = await run('host', '-S', ...argv);
		expect(expectOneLine(ended, 2)).toContain(said);
		expect(ended.stdout).toBe('');
	});

	it('says everything it can say for --help, with an example', async () => {
		for (const argv of [['--help'], ['demo', '--help'], ['bench', '--help'], ['host', '--help'], ['host', '-h']]) {
			const { code, stdout, stderr } = await run(...argv);
			expect([code, stderr], argv.join(' ')).toEqual([0, '']);
			expect(stdout).toMatch(/usage:/i);
			expect(stdout).toMatch(/example:\n {2}cvm /);
		}
	});
});

describe('a stream that is none, or is broken', () => {
	const capture = readFileSync(CAPTURE);
	const sections = sectionsOf(capture);
	const [firstRam, moreRam] = sections.map((s) => s.offset);
	const broken: readonly [string, Uint8Array, RegExp][] = [
		['empty', new Uint8Array(0), /offset 0: stream: expected 4 more bytes, got 0/],
		['a text', new TextEncoder().encode('hello world\n'), /offset 0: magic: expected 0x5145564d, got 0x68656c6c/],
		...[1, 3, 4, 7, 8, 20, 27, 100, 198, 20_000, 57_000, 451_500].map((length): [string, Uint8Array, RegExp] => [
			`cut after ${length} bytes`,
			capture.subarray(0, length),
			/offset \d+.*expected \d+ more bytes, got \d+/,
		]),
		['with another magic', damaged(capture, 0, 0x52), /magic: expected 0x5145564d, got 0x5245564d/],
		['of another version', damaged(capture, 7, 9), /version/i],
		['with an unknown section type', damaged(capture, firstRam, 0x55), /section type|0x55/i],
		['with a damaged footer', damaged(capture, Number(moreRam) - 5, 0), /footer/i],
		['with a footer of another section', damaged(capture, Number(moreRam) - 1, 9), /footer/i],
		['with unknown RAM flags', damaged(capture, Number(moreRam) + 5 + 6, 0xff), /flags|offset/i],
		['with its first sections swapped', swapped(capture, sections, 0), /section/i],
		[
			'with its configuration after RAM',
			swapped(capture, [{ offset: 8, end: Number(firstRam) }, ...sections], 0),
			/configuration/i,
		],
	];
	it.each(broken)('%s, for demo', async (_, data, said) => {
		const path = file('stream', data);
		const ended = await run('demo', '--from-stream', path);
		expect(expectOneLine(ended, 1)).toMatch(said);
		expect(ended.stderr).toContain(`'${path}'`);
		expect(ended.stdout).toBe('');
	});

	it('as firmware, for demo', async () => {
		const path = file('firmware', 'hello');
		const ended = await run('demo', '--memory', '40M', '--firmware', path);
		expect(expectOneLine(ended, 1)).toContain(
			`-bios: could not load PC BIOS '${path}': expected a multiple of 4096 bytes, got 5`,
		);
	});

	it('for host', async () => {
		for (const [name, data, said] of broken.filter((_, index) => index % 5 === 0)) {
			const line = expectOneLine(await run('host', '-S', '-from-stream', file('stream', data)), 1);
			expect(line, name).toMatch(said);
		}
	});

	it('for a host that takes it as its guest', async () => {
		const whole = join(folder, 'whole');
		expect(await run('demo', '--mode', 'plain', '--memory', '40M', '--steps', '10', '-o', whole)).toMatchObject({
			code: 0,
			stderr: '',
		});
		const stream = readFileSync(whole);
		const own = sectionsOf(stream);
		expect(own.length).toBeGreaterThan(2);
		const cuts = [0, 3, 30, Number(own[1]?.offset) + 1, Math.floor(stream.length / 2), Number(own.at(-1)?.offset) + 4];
		for (const data of [
			...cuts.map((length) => stream.subarray(0, length)),
			damaged(stream, 0, 0x52),
			damaged(stream, Number(own[0]?.offset), 0x55),
			damaged(stream, Number(own[1]?.offset) - 5, 0),
			swapped(stream, own, 0),
		]) {
			const path = file('stream', data);
			for (const uri of [`exec:cat ${path}`, `file:${path}`]) {
				const ended = await run('host', '-m', '40M', '-incoming', uri);
				expect(expectOneLine(ended, 1)).toMatch(/^cvm host: load of migration failed: [A-Z][a-z/ ]+: offset \d+/);
			}
		}
		// Sealed hosts read another dialect: a plain stream is refused there as a whole.
		const sealed = ['-machine', 'q35,confidential-guest-support=s', '-object', 'sev-guest,id=s'];
		expectOneLine(await run('host', '-m', '40M', ...sealed, '-incoming', `file:${whole}`), 1);
		const small = await run('host', '-m', '64M', '-incoming', `file:${whole}`);
		expect(expectOneLine(small, 1)).toContain('pc.ram');
	});
});

describe('a file that can not be written', () => {
	const write = (path: string) => run('demo', '--mode', 'plain', '--memory', '40M', '--steps', '10', '-o', path);

	it.each([
		['on a full disk', '/dev/full', "Unable to write to '/dev/full': No space left on device"],
		['in a folder that is not there', '/nonexistent/stream', 'No such file or directory'],
		['where a folder is', '/', 'Is a directory'],
		['where nobody may write', '/proc/stream', 'No such file or directory'],
	])('%s', async (_, path, said) => {
		expect(expectOneLine(await write(path), 1)).toContain(said);
	});

	it('beyond the largest size allowed: the file that was there stays as it was', () => {
		const path = file('stream', 'precious');
		const command = `ulimit -f 256 && exec "$0" "$@"`;
		const argv = [PROGRAM, 'demo', '--mode', 'plain', '--memory', '40M', '--steps', '10', '-o', path];
		const { status, stderr } = spawnSync('/bin/sh', ['-c', command, process.execPath, ...argv], { encoding: 'utf8' });
		expect(stderr).toBe(`cvm: migration failed: Unable to write to '${path}': File too large\n`);
		expect(status).toBe(1);
		expect(readFileSync(path, 'utf8')).toBe('precious');
		expect(readdirSync(folder)).toEqual(['stream']);
	});

	it('because another is being written there: both stay as they were', async () => {
		const path = file('stream', 'precious');
		file('stream.partial', 'unfinished');
		expect(expectOneLine(await write(path), 1)).toContain(`Failed to open '${path}.partial': File exists`);
		expect(readFileSync(path, 'utf8')).toBe('precious');
		expect(readFileSync(`${path}.partial`, 'utf8')).toBe('unfinished');
	});

	it.each(['SIGINT', 'SIGTERM'] as const)(
		'because the person sends %s: the old file stays, and no process',
		async (signal) => {
			const path = file('stream', 'precious');
			const argv = ['demo', '--mode', 'plain', '--memory', '40M', '--steps', '2000000', '-o', path];
			const { pid, said, ended } = start(argv);
			await vi.waitFor(() => expect(said.stdout).toContain('the guest runs'), PATIENCE);
			process.kill(pid, signal);
			expect((await ended).code).toBe(signal === 'SIGINT' ? 130 : 143);
			expect(readFileSync(path, 'utf8')).toBe('precious');
			expect(readdirSync(folder)).toEqual(['stream']);
		},
	);
});

describe('a place to listen that is taken or can not be', () => {
	it('TCP, for QMP and for a migration', async () => {
		const other = createServer();
		try {
			const port = await new Promise<number>((resolve) => {
				other.listen(0, '127.0.0.1', () => {
					const address = other.address();
					resolve(typeof address === 'object' && address ? address.port : 0);
				});
			});
			const place = `127.0.0.1:${port}`;
			const qmp = await run('host', '-S', '-qmp', `tcp:${place},server,nowait`);
			expect(expectOneLine(qmp, 1)).toBe(`cvm host: -qmp: Failed to bind 'tcp:${place}': Address already in use`);
			const incoming = await run('host', '-incoming', `tcp:${place}`);
			expect(expectOneLine(incoming, 1)).toBe(`cvm host: Failed to bind '${place}': Address already in use`);
			expect(other.listening).toBe(true);
		} finally {
			other.close();
		}
	});

	it.each([
		['QMP', (path: string) => ['-S', '-qmp', `unix:${path},server,nowait`]],
		['a migration', (path: string) => ['-incoming', `unix:${path}`]],
	])('a path, for %s', async (_, options) => {
		const path = file('precious', 'data');
		expect(expectOneLine(await run('host', ...options(path)), 1)).toContain('Address already in use');
		expect(readFileSync(path, 'utf8')).toBe('data');
		expect(expectOneLine(await run('host', ...options('/nonexistent/socket')), 1)).toContain('Failed to bind');
		expect(existsSync('/nonexistent')).toBe(false);
	});

	it.each([
		['an address that is none', 'tcp:nowhere', "error parsing address 'nowhere'"],
		['an address of other machines', 'tcp:192.0.2.1:0', 'loopback interface only'],
		['an unknown protocol', 'rdma:127.0.0.1:1', 'unknown migration protocol: rdma:127.0.0.1:1'],
		['a file that is not there', 'file:/nonexistent', "Failed to open '/nonexistent': No such file or directory"],
		['a command that fails', 'exec:exit 3', 'load of migration failed'],
	])('-incoming of %s', async (_, uri, said) => {
		expect(expectOneLine(await run('host', '-incoming', uri), 1)).toContain(said);
	});
});
