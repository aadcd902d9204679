/** Streams that come from pipes and go into pipes: real processes. */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { StreamWriter } from '@cvm/qemu-mig';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { CAPTURE, PROGRAM } from './processes.js';
import { capture, tinyStream } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

const MIB = 2 ** 20;
/** Bytes of an END section without records, and of EOF. */
const END = 1 + 4 + 8 + 5 + 1;

/** Runs `cvm stream …` with `input` on a pipe. */
function piped(input: Uint8Array, ...argv: readonly string[]) {
	const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, 'stream', ...argv], {
		input,
		maxBuffer: 64 * MIB,
		env: { ...process.env, TMPDIR: folder.path },
	});
	return { status, stdout: new Uint8Array(stdout), text: stdout.toString(), stderr: stderr.toString() };
}

describe('from the standard input', () => {
	it('a stream is inspected, verified, salvaged and compared', () => {
		expect(piped(capture(), 'inspect', '-').text).toContain('pc-i440fx-7.2');
		expect(piped(capture(), 'verify', '-').text).toBe('valid: 548.1 KiB, 0 errors, 0 warnings\n');
		expect(piped(capture(), 'salvage', '-').text).toContain('complete: nothing is missing');
		expect(piped(capture(), 'diff', '-', CAPTURE)).toMatchObject({ status: 0, text: 'equal\n' });
		expect(folder.names(), 'temporary files left behind').toEqual([]);
	});

	it('a fault names it', () => {
		const { status, stderr } = piped(new Uint8Array(100), 'inspect', '-');
		expect([status, stderr]).toEqual([1, 'cvm: standard input: offset 0: magic: expected 0x5145564d, got 0x0\n']);
	});

	it('a stream comes out as it went in', () => {
		const { status, stdout, stderr } = piped(capture(), 'rewrite', '-', '-o', '-');
		expect([status, stderr]).toEqual([0, '']);
		expect(Buffer.compare(stdout, capture())).toBe(0);
	});

	it('memory comes out whole, zeros too', () => {
		const data = tinyStream(3, [
			[0, 0x02, 0],
			[0x1000, 0x08, 5],
			[0x2000, 0x02, 0],
		]);
		const { stdout } = piped(data, 'extract', '-', '--ram', 'sparse', '-o', '-');
		const expected = new Uint8Array(3 * 4096).fill(5, 4096, 8192);
		expect(Buffer.compare(stdout, expected)).toBe(0);
	});
});

describe('a pipe', () => {
	it('that nobody reads ends it quietly', async () => {
		const child = spawn(process.execPath, [
			PROGRAM,
			'stream',
			'extract',
			CAPTURE,
			'--ram',
			'raw',
			'--block',
			'pc.ram',
			'-o',
			'-',
		]);
		let said = '';
		child.stderr.on('data', (text) => (said += text));
		child.stdout.destroy();
		const [code] = await once(child, 'close');
		expect([code, said]).toEqual([141, '']);
	});

	it('that is slow is waited for', async () => {
		const child = spawn(process.execPath, [PROGRAM, 'stream', 'verify', '-']);
		let said = '';
		child.stdout.on('data', (text) => (said += text));
		const data = capture();
		const slow = async function* () {
			for (const [from, to] of [
				[0, 5],
				[5, 300_000],
				[300_000, data.length],
			]) {
				yield data.subarray(from, to);
				await pause(50);
			}
		};
		await pipeline(slow, child.stdin);
		const [code] = await once(child, 'close');
		expect([code, said]).toEqual([0, 'valid: 548.1 KiB, 0 errors, 0 warnings\n']);
	});

	it('of a long stream takes no more memory than one of a short', async () => {
		// Says at its end how much it had.
		const hook = 'process.on("exit", () => process.stderr.write(String(process.resourceUsage().maxRSS)))';
		const argv = ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, PROGRAM, 'stream', 'verify', '-'];
		const child = spawn(process.execPath, argv);
		const said = { stdout: '', stderr: '' };
		child.stdout.on('data', (text) => (said.stdout += text));
		child.stderr.on('data', (text) => (said.stderr += text));
		const pages = 512 * 256;
		// Everything up to the footer of START, and from END on.
		const whole = tinyStream(pages);
		const part = whole.length - END;
		const long = async function* () {
			yield whole.subarray(0, part);
			yield Uint8Array.of(2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 6, ...Buffer.from('pc.ram'), 0);
			const chunk = Buffer.alloc(64 * 4104, 7);
			for (let page = 1; page < pages; page += 64) {
				const count = Math.min(64, pages - page);
				for (let i = 0; i < count; i++) chunk.writeBigUInt64BE(BigInt((page + i) * 4096 + 0x28), i * 4104);
				yield Buffer.from(chunk.subarray(0, count * 4104));
			}
			yield Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 2);
			yield whole.subarray(part);
		};
		await pipeline(long, child.stdin);
		await once(child, 'close');
		expect(said.stdout).toContain('valid: 513.0 MiB, 0 errors, 1 warning');
		expect(Number(said.stderr) / 1024).toBeLessThan(150);
	});
});

/** So many MiB of pages that zlib has to work on. */
async function longStream(mib: number): Promise<Uint8Array> {
	const pages = mib * 256;
	const chunks: Uint8Array[] = [];
	const writer = new StreamWriter({ write: (chunk) => void chunks.push(chunk.slice()) });
	const ram = { type: 1, id: 2, idstr: 'ram', instanceId: 0, version: 4 } as const;
	const section = (type: 1 | 2 | 3, records: () => void): void => {
		writer.sectionBegin({ ...ram, type });
		records();
		writer.endOfRecords();
		writer.sectionEnd({ ...ram, type });
	};
	writer.header();
	writer.configuration({ machineType: 'none', subsections: [] });
	section(1, () => writer.blockList([{ idstr: 'pc.ram', usedLength: pages * 4096 }]));
	const page = randomBytes(4096);
	section(2, () => {
		for (let i = 0; i < pages; i++) writer.rawPage('pc.ram', i * 4096, page.fill(i, i % 4000, (i % 4000) + 8));
	});
	section(3, () => {});
	writer.eof();
	await writer.flush();
	return Buffer.concat(chunks);
}

describe('a signal', () => {
	it.each([
		['SIGINT', 130, 'a pipe that says nothing more'],
		['SIGTERM', 143, 'a pipe that says nothing more'],
		['SIGINT', 130, 'a named pipe'],
		['SIGINT', 130, 'a long file'],
	] as const)('%s ends with %i while it reads %s, and nothing is left behind', async (signal, status, what) => {
		const isPipe = what !== 'a long file';
		const isNamed = what === 'a named pipe';
		const fifo = folder.at('fifo');
		if (isNamed) spawnSync('sh', ['-c', 'mkfifo "$0"', fifo]);
		const file = isNamed ? fifo : isPipe ? '-' : folder.write('long', await longStream(96));
		const argv = ['rewrite', file, ...(isPipe ? [] : ['--encoding', 'zlib']), '-o', folder.at('out')];
		const child = spawn(process.execPath, [PROGRAM, 'stream', ...argv], {
			env: { ...process.env, TMPDIR: folder.path },
		});
		const closed = once(child, 'close');
		child.stdin.on('error', () => {});
		const other = isNamed ? openSync(fifo, 'w') : undefined;
		if (isPipe) child.stdin.write(capture().subarray(0, 300_000));
		while (!folder.names().includes('out.partial')) {
			if (child.exitCode !== null) throw new Error('it ended by itself');
			await pause(10);
		}
		child.kill(signal);
		expect(await closed).toEqual([status, null]);
		if (other !== undefined) closeSync(other);
		expect(folder.names().filter((name) => !['long', 'fifo'].includes(name))).toEqual([]);
	});
});
