/** `cvm demo` as people run it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readCapture, sha256 } from '../src/demo/capture.js';
import type { DemoResult } from '../src/demo/report.js';
import { CAPTURE, expectOneLine, PATIENCE, run, start } from './processes.js';

/** A guest that is done soon. */
const SHORT = ['demo', '--memory', '64M', '--steps', '1500'];

let folder = '';
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-test-'));
});
afterEach(() => {
	rmSync(folder, { recursive: true, force: true });
});

/** Runs the demonstration with `--json`. */
async function result(...argv: readonly string[]): Promise<DemoResult> {
	const { code, stdout, stderr } = await run(...argv, '--json');
	expect(stderr).toBe('');
	expect(code).toBe(0);
	return JSON.parse(stdout) as DemoResult;
}

function expectVerified({ checks, verified }: DemoResult, ...expected: readonly RegExp[]): void {
	expect(verified).toBe(true);
	expect(checks.filter((c) => !c.ok)).toEqual([]);
	for (const wanted of expected) expect(checks.map((c) => c.check)).toContainEqual(expect.stringMatching(wanted));
}

const REFERENCE = [
	/^memory of pc\.ram equals/,
	/^memory of pc\.bios equals/,
	/^registers are equal/,
	/^page status/,
	/consent/,
];

describe('cvm demo', () => {
	it('tells its course in text, without colours or bars when piped, and is verified', async () => {
		const { code, stdout, stderr } = await run(...SHORT);
		expect([code, stderr]).toEqual([0, '']);
		expect(stdout).not.toContain('\u001b');
		expect(stdout).not.toContain('\r');
		expect(stdout).toContain('source → target: migrating');
		expect(stdout).toMatch(/^ {4}passes +\d+$/m);
		expect(stdout).toMatch(/^ {4}downtime +\d+ ms$/m);
		expect(stdout).toMatch(/^✓ memory of pc\.ram equals that of a guest that never moved/m);
		expect(stdout).not.toContain('✗');
		expect(stdout.endsWith('\nverified\n')).toBe(true);
	});

	it('tells programs one JSON document', async () => {
		const told = await result(...SHORT);
		expectVerified(told, ...REFERENCE);
		expect(told).toMatchObject({ mode: 'psp', workload: 'random', memory: 64 * 2 ** 20, vcpus: 2, policy: 0x20 });
		expect(told['launch-digest']).toMatch(/^[0-9a-f]{64}$/);
		expect(told.hops).toMatchObject([{ from: 'source', to: 'target', info: { status: 'completed' } }]);
		const ram = told.hops[0]?.info.ram;
		expect(Number(ram?.normal) + Number(ram?.duplicate)).toBeGreaterThanOrEqual((64 * 2 ** 20) / 4096);
	});

	it.each([
		['ab', '2000'],
		['shared-io', '100'],
	])('moves a guest that runs %s', async (workload, steps) => {
		const told = await result('demo', '--memory', '64M', '--workload', workload, '--steps', steps);
		expectVerified(told, ...REFERENCE);
		expect(told.workload).toBe(workload);
	});

	it('moves a plain guest, of one vCPU', async () => {
		const told = await result(...SHORT, '--mode', 'plain', '--vcpus', '1');
		expectVerified(told, ...REFERENCE);
		expect(told).toMatchObject({ mode: 'plain', vcpus: 1 });
		expect(told['launch-digest']).toBeUndefined();
	});

	it.each([
		['one', '1'],
		['three', '3'],
	])('moves a guest by its own migration helpers: %s', async (_, helpers) => {
		const told = await result(...SHORT, '--steps', '6000', '--mode', 'mh', '--helpers', helpers);
		expectVerified(told, ...REFERENCE);
		expect(told).toMatchObject({ mode: 'mh', helper: { profile: 'hardened', count: Number(helpers) } });
		const figures = told.hops[0]?.info['x-helper'];
		// Every private page at least once, up to 64 of them in a record.
		expect(figures).toMatchObject({ helpers: Number(helpers) });
		expect(figures?.pages).toBeGreaterThan(12_000);
		expect(figures?.['zero-pages']).toBeGreaterThan(1000);
		expect(figures?.records).toBeGreaterThanOrEqual(Math.ceil(Number(figures?.pages) / 64));
		expect(figures?.records).toBeLessThan(Number(figures?.pages) / 8);
		expect(told.travelled?.map(({ what }) => what)).toContain('manifest');
	});

	it('moves a guest by its helpers twice', async () => {
		const told = await result(...SHORT, '--steps', '12000', '--mode', 'mh', '--hops', '2', '--policy', '0x8');
		expectVerified(told, ...REFERENCE);
		expect(told.hops.map(({ from, to }) => [from, to])).toEqual([
			['source', 'target'],
			['target', 'target-2'],
		]);
	});

	it('moves a guest by the helper as posted in 2021 after a warning, and says that it went in the clear', async () => {
		const argv = ['--mode', 'mh', '--profile', 'rfc-2021', '--insecure-plaintext'];
		const { code, stdout, stderr } = await run(...SHORT, '--steps', '3000', ...argv);
		expect(stderr).toMatch(/^cvm: warning: --insecure-plaintext: [^\n]+\n$/);
		expect(code).toBe(0);
		expect(stdout).toMatch(/^ {4}private pages +read out by the guest's helper and sent AS THEY ARE/m);
		expect(stdout).toMatch(/^✓ memory of pc\.ram equals/m);
		expect(stdout.endsWith('\nverified\n')).toBe(true);
	});

	it('moves a guest twice', async () => {
		const told = await result(...SHORT, '--steps', '4000', '--hops', '2');
		expectVerified(told, ...REFERENCE);
		expect(told.hops.map(({ from, to }) => [from, to])).toEqual([
			['source', 'target'],
			['target', 'target-2'],
		]);
	});

	it('keeps to limits of bandwidth and downtime', async () => {
		expectVerified(
			await result(...SHORT, '--bandwidth', '64M', '--downtime', '500', '--seed', 'some words'),
			...REFERENCE,
		);
	});

	it('verifies a guest that may not be debugged by its own work alone, and says so', async () => {
		const told = await result(...SHORT, '--policy', '0x21');
		expectVerified(told, /^the guest finished its work/, /not compared/);
		expect(told.checks.some((c) => c.check.startsWith('memory of'))).toBe(false);
	});

	it('moves the RAM that a real QEMU wrote, byte for byte', async () => {
		const told = await result('demo', '--from-stream', CAPTURE);
		const blocks = await readCapture(CAPTURE);
		expect(blocks.length).toBeGreaterThan(3);
		expect(told.checks.map((c) => c.check)).toEqual(blocks.map((b) => `${b.idstr} on the target equals the capture`));
		expect(told.checks.map((c) => c.detail)).toEqual(blocks.map((b) => `${b.memory.length} bytes`));
		expectVerified(told);
	});

	it('writes a stream that our reader reads, over the file that was there', async () => {
		const path = join(folder, 'stream');
		const told = await result(...SHORT, '--mode', 'plain', '-o', path);
		expectVerified(told);
		expect(told.output).toBe(path);
		expect(told['accept-with']).toContain(`-m 64 `);
		expect(told['accept-with']).toContain(path);
		const first = await readCapture(path);
		expect(first.map((b) => [b.idstr, b.memory.length])).toEqual([['pc.ram', 64 * 2 ** 20]]);
		expect(told.checks[0]?.detail).toBe(`sha256 ${sha256(first[0]?.memory ?? new Uint8Array())}`);
		// The same work again: the guest, and so its RAM, is the same.
		expect(await result(...SHORT, '--mode', 'plain', '-o', path)).toMatchObject({ checks: told.checks });
		expect(readdirSync(folder)).toEqual(['stream']);
		expect(readFileSync(path).subarray(0, 4).toString()).toBe('QEVM');
		expect(statSync(path).size).toBeLessThan(64 * 2 ** 20);
	});

	it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('ends all that it started on %s', async (signal) => {
		const { pid, said, ended } = start(['demo', '--memory', '64M', '--steps', '2000000']);
		await vi.waitFor(() => expect(said.stdout).toContain('the guest runs'), PATIENCE);
		process.kill(pid, signal);
		expect((await ended).code).toBe({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }[signal]);
	});

	it('leaves no host behind when it is killed itself', async () => {
		const { pid, said, ended } = start(['demo', '--memory', '64M', '--steps', '2000000'], undefined, 'files may stay');
		await vi.waitFor(() => expect(said.stdout).toContain('the guest runs'), PATIENCE);
		process.kill(pid, 'SIGKILL');
		expect((await ended).code).toBe('SIGKILL');
	});

	it('ends quietly when nobody reads on', async () => {
		const { reader, said, ended } = start(['demo', '--memory', '64M', '--steps', '2000000']);
		await vi.waitFor(() => expect(said.stdout).toContain('verified'), PATIENCE);
		reader.destroy();
		expect(await ended).toMatchObject({ code: 141, stderr: '' });
	});

	it.each(['psp', 'mh'])('fails in one line when somebody ends a host of it, with mode %s', async (mode) => {
		const slowly = ['--memory', '64M', '--steps', '40000', '--bandwidth', '4M'];
		const { pid, said, ended } = start(['demo', '--mode', mode, ...slowly]);
		await vi.waitFor(() => expect(said.stdout).toContain('migrating'), PATIENCE);
		const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
		const children = stdout.split('\n').map((line) => line.trim().split(/\s+/).map(Number));
		const victim = children.find(([, parent]) => parent === pid)?.[0];
		if (victim === undefined) throw new Error('expected a host');
		process.kill(victim, 'SIGKILL');
		expectOneLine(await ended, 1);
	});
});
