/** Nothing that is killed, at any moment, costs a platform its identity. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import type { SevDevice } from '../src/node/index.js';
import { verdict } from './certificates.js';
import { buildClient, COMPILER, startDevice, temporaryFolder, use } from './rig.js';

const folder = temporaryFolder();
const fresh = () => mkdtempSync(join(folder, 'state-'));
let client = '';
beforeAll(() => {
	if (COMPILER) client = buildClient(folder);
});

const PATIENCE = { timeout: 30_000, interval: 20 };

/** The platform's process. */
const serverOf = ({ folder: state }: SevDevice) => Number(readFileSync(join(state, 'endpoint'), 'utf8').split('\n')[1]);

function isAlive(pid: number): boolean {
	try {
		process.kill(pid, 0);
		return true;
	} catch {
		return false;
	}
}

/** Generates keys without a break until stopped or refused. */
function generate(device: SevDevice, what: string): ChildProcess {
	const loop = `while "$0" ${what}; do :; done`;
	return spawn('sh', ['-c', loop, client], { env: { ...process.env, ...device.env }, stdio: 'ignore' });
}

const ended = (child: ChildProcess) =>
	new Promise<void>((resolve) => {
		if (child.exitCode !== null || child.signalCode !== null) resolve();
		else child.once('close', () => resolve());
	});

/** The chip's id and whether everything that it exports is signed by whom it has to be. */
async function examine(device: SevDevice): Promise<{ id: string; verdict: string }> {
	const [id, pdh, chain] = ['id', 'pdh', 'chain'].map((name) => join(folder, `examined-${name}`)) as [
		string,
		string,
		string,
	];
	expect(await use(device, client, 'export', pdh, chain)).toMatchObject({ code: 0, stdout: '' });
	expect(await use(device, client, 'id', id)).toMatchObject({ code: 0, stdout: '' });
	return { id: readFileSync(id, 'hex'), verdict: verdict(id, pdh, chain) };
}

describe.runIf(COMPILER)('a platform survives', () => {
	it.each(['pek-gen', 'pdh-gen'])('its process being killed during %s, again and again', async (what) => {
		const state = fresh();
		let device = await startDevice({ state });
		const { id } = await examine(device);
		for (let round = 0; round < 6; round++) {
			const loop = generate(device, what);
			// Not at a moment of our choosing: key generation takes a few milliseconds, starting a program about as long.
			await delay(30 + Math.random() * 60);
			process.kill(serverOf(device), 'SIGKILL');
			await ended(loop);
			expect((await use(device, client, 'status')).stdout).toBe('status: errno 19 error 23130\n');
			await device.close();
			device = await startDevice({ state });
			expect((await use(device, client, 'status')).stdout).toMatch(/ state 1 /);
			expect(await examine(device)).toEqual({ id, verdict: 'SUCCESS' });
		}
	});

	it('being used again while the runner of the killed process is still there', async () => {
		const state = fresh();
		const first = await startDevice({ state });
		const { id } = await examine(first);
		process.kill(serverOf(first), 'SIGKILL');
		const second = await startDevice({ state });
		expect((await examine(second)).id).toBe(id);
		expect((await use(first, client, 'status')).code).toBe(0);
	});

	it('a client that is killed in the middle of an ioctl', async () => {
		const device = await startDevice();
		for (let round = 0; round < 10; round++) {
			const loop = spawn(client, ['hammer', '1000', join(folder, 'killed')], {
				env: { ...process.env, ...device.env },
				stdio: 'ignore',
			});
			await delay(Math.random() * 40);
			loop.kill('SIGKILL');
			await ended(loop);
		}
		expect((await examine(device)).verdict).toBe('SUCCESS');
	});

	it('two programs that hammer it: every chain that either exports holds', async () => {
		const device = await startDevice();
		const rounds = 12;
		const results = await Promise.all(
			['a', 'b'].map((name) => use(device, client, 'hammer', `${rounds}`, join(folder, name))),
		);
		for (const result of results) expect(result).toEqual({ code: 0, stdout: '', stderr: '' });
		const id = join(folder, 'id');
		await use(device, client, 'id', id);
		const pdhs = new Set<string>();
		for (const name of ['a', 'b']) {
			for (let i = 0; i < rounds; i++) {
				const pdh = join(folder, `${name}.${i}.pdh`);
				pdhs.add(readFileSync(pdh, 'hex'));
				expect(verdict(id, pdh, join(folder, `${name}.${i}.chain`))).toBe('SUCCESS');
			}
		}
		expect(pdhs.size).toBeGreaterThanOrEqual(rounds);
	});
});

describe.runIf(COMPILER)('the platform’s process', () => {
	it('ends when the last runner has gone', async () => {
		const state = fresh();
		const device = await startDevice({ state });
		const pid = serverOf(device);
		await device.close();
		await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE);
	});

	it('does not mind signals of the terminal, and ends in good order on SIGTERM', async () => {
		const device = await startDevice({ state: fresh() });
		const pid = serverOf(device);
		for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.kill(pid, signal);
		expect((await use(device, client, 'status')).code).toBe(0);
		process.kill(pid, 'SIGTERM');
		await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE);
		expect((await use(device, client, 'status')).stdout).toBe('status: errno 19 error 23130\n');
	});
});
