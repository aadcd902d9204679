import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findInPath } from '@cvm/devsev';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { expectOneLine, PATIENCE, run, start } from './processes.js';

/** What runs programs is skipped, and says so, where nothing compiles the shim. What they do is in packages/devsev/test. */
const COMPILER = ['cc', 'gcc', 'clang'].find((name) => findInPath(name) !== undefined);

const folder = mkdtempSync(join(tmpdir(), 'cvm-devsev-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.unstubAllEnvs());

function file(name: string, content: Uint8Array | string, mode: number): string {
	const path = join(folder, name);
	writeFileSync(path, content);
	chmodSync(path, mode);
	return path;
}

/** Runs a shell script with a device. */
const shell = (script: string) => run('devsev', '--', 'sh', '-c', script);

describe.runIf(COMPILER)('cvm devsev', () => {
	it('runs a program that finds the device, and exits as it does', async () => {
		const { code, stdout, stderr } = await shell('test -c /dev/sev && test -w /dev/sev && echo found "$0"; exit 7');
		expect({ code, stdout, stderr }).toEqual({ code: 7, stdout: 'found sh\n', stderr: '' });
	});

	it('exits as a shell does for a program that a signal ended', async () => {
		expect((await shell('kill -TERM $$')).code).toBe(128 + 15);
	});

	it('forwards signals', async () => {
		const script = 'trap "exit 9" TERM; echo ready; while :; do sleep 0.05; done';
		const running = start(['devsev', '--', 'sh', '-c', script]);
		await vi.waitFor(() => expect(running.said.stdout).toBe('ready\n'), PATIENCE);
		process.kill(running.pid, 'SIGTERM');
		expect((await running.ended).code).toBe(9);
	});

	it('takes the platform down with it when it is killed', async () => {
		const state = join(folder, 'killed');
		const running = start(['devsev', '--state', state, '--', 'sleep', '1']);
		const endpoint = join(state, 'endpoint');
		await vi.waitFor(() => expect(readFileSync(endpoint, 'utf8')).toMatch(/\n\d+\n$/), PATIENCE);
		process.kill(running.pid, 'SIGKILL');
		await vi.waitFor(() => expect(existsSync(endpoint)).toBe(false), PATIENCE);
		await running.ended;
	});

	it('says what the system does not run', async () => {
		const path = file('script', '#!/no/such/interpreter\n', 0o755);
		const { code, stderr } = await run('devsev', '--', path);
		expect({ code, stderr }).toEqual({ code: 126, stderr: `cvm: ${path}: spawn ${path} ENOENT\n` });
	});

	it('does not take another platform for the wanted one', async () => {
		const state = join(folder, 'milan');
		expect(await run('devsev', '--state', state, '--generation', 'milan', '--', 'true')).toMatchObject({ code: 0 });
		const other = await run('devsev', '--state', state, '--generation', 'naples', '--', 'true');
		expect(expectOneLine(other, 2)).toMatch(/generation: expected milan, as this platform was made, got naples$/);
	});
});

describe('cvm devsev refuses', () => {
	it('a program that is not there, as a shell does', async () => {
		const { code, stderr } = await run('devsev', '--', 'no-such-program');
		expect({ code, stderr }).toEqual({ code: 127, stderr: 'cvm: no-such-program: command not found\n' });
	});

	it('one that must not be run, as a shell does', async () => {
		const path = file('plain', 'text', 0o644);
		const { code, stderr } = await run('devsev', '--', path);
		expect({ code, stderr }).toEqual({ code: 126, stderr: `cvm: ${path}: not executable\n` });
		expect((await run('devsev', '--', folder)).stderr).toBe(`cvm: ${folder}: not a program\n`);
	});

	it('one that is statically linked', async () => {
		const elf = new Uint8Array(64);
		elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
		const line = expectOneLine(await run('devsev', '--', file('static', elf, 0o755)), 2);
		expect(line).toMatch(/static is statically linked: a preloaded library \(LD_PRELOAD\) cannot reach it$/);
	});

	it('to work without a compiler, and says what is missing', async () => {
		vi.stubEnv('CC', 'no-such-cc');
		expect(expectOneLine(await run('devsev', '--', 'true'), 1)).toBe('cvm: no-such-cc: no such C compiler (from $CC)');
	});

	it('a state folder that is none', async () => {
		const line = expectOneLine(await run('devsev', '--state', file('file', '', 0o644), '--', 'true'), 2);
		expect(line).toMatch(/file: cannot be used as a state folder: /);
	});

	it.each([
		[['--generation', 'vax', '--', 'true'], /^cvm: --generation: expected one of .*\bmilan\b.*, got vax$/],
		[[], /^cvm: missing required argument 'command'$/],
	])('%j', async (argv, expected) => {
		expect(expectOneLine(await run('devsev', ...argv), 2)).toMatch(expected);
	});
});
