/** A C program written against the kernel's public header, under `cvm devsev`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { createOca, readSevCertificate, Status, signPekCsr, verifyPlatform } from '@cvm/sev-hw/owner';
import { beforeAll, describe, expect, it } from 'vitest';
import { cvm, cvmProgram, run, temporaryFolder } from './programs.js';

const folder = temporaryFolder();
const client = join(folder, 'devsev-client');
const CERT = 2084;
beforeAll(() => {
	const source = fileURLToPath(new URL('c/devsev-client.c', import.meta.url));
	run('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', client, source]);
});

const fresh = () => mkdtempSync(join(folder, 'state-'));
const read = (path: string) => new Uint8Array(readFileSync(path));
/** The client's command line with the platform of a folder. */
const withDevice = (state: string, ...argv: string[]) => ['devsev', '--state', state, '--', client, ...argv];
const use = (state: string, ...argv: string[]) => cvm(...withDevice(state, ...argv));

async function expectDone(state: string, ...argv: string[]): Promise<string> {
	const { code, stdout, stderr } = await use(state, ...argv);
	expect({ argv, code, stderr, said: code === 0 ? '' : stdout }).toEqual({ argv, code: 0, stderr: '', said: '' });
	return stdout;
}

const server = createKeyServer(nodeProvider);
/** Whether an export belongs to the chip, and is signed all the way up to AMD's (fake) root and the owner. */
function verify(id: Uint8Array, pdh: Uint8Array, chain: Uint8Array) {
	const askArk = server.askArk();
	return verifyPlatform(nodeProvider, { pdh, chain, cek: server.cek(id), askArk, trust: 'fake' });
}

/** Exports, and expects that all is well signed. */
async function exported(state: string) {
	const [pdhFile, chainFile, idFile] = [join(state, 'pdh.cert'), join(state, 'chain.cert'), join(state, 'id.bin')];
	await expectDone(state, 'export', pdhFile, chainFile);
	await expectDone(state, 'id', idFile);
	const [pdh, chain, id] = [read(pdhFile), read(chainFile), read(idFile)];
	expect(verify(id, pdh, chain)).toEqual({ status: Status.SUCCESS });
	const [pek, oca, cek] = [0, 1, 2].map((i) => chain.slice(i * CERT, (i + 1) * CERT)) as [
		Uint8Array,
		Uint8Array,
		Uint8Array,
	];
	return { pdh, pek, oca, cek, id };
}

describe('a C program with the software /dev/sev', () => {
	it('sees a platform that the driver initialised with SEV-ES', async () => {
		expect(await expectDone(fresh(), 'status')).toBe('api 0.24 build 15 state 1 flags 0x100 guests 0 error 0\n');
	});

	it('gets errno and firmware error as from the kernel’s driver', async () => {
		const { code, stdout } = await use(fresh(), 'checks');
		expect(code).toBe(0);
		// errno: EPERM 1, EIO 5, EFAULT 14, EINVAL 22. error 4: INVALID_LENGTH. 23130: what the client had put there.
		expect(stdout.trimEnd().split('\n')).toEqual([
			'unknown ioctl: ret -1 errno 22 error 0',
			'null argument: ret -1 errno 14 error 0',
			'wild argument: ret -1 errno 14 error 0',
			'argument ends outside: ret -1 errno 14 error 0',
			'command SEV_MAX: ret -1 errno 22 error 23130',
			'command SEV_MAX + 1: ret -1 errno 22 error 23130',
			'status to nowhere: ret -1 errno 14 error 0',
			'status to read-only memory: ret -1 errno 14 error 0',
			'status across the end: ret -1 errno 14 error 0',
			'status, read-only: ret 0 errno 0 error 0',
			'reset, read-only: ret -1 errno 1 error 23130',
			'pek-gen, read-only: ret -1 errno 1 error 23130',
			'pdh-gen, read-only: ret -1 errno 1 error 23130',
			'csr, read-only: ret -1 errno 1 error 23130',
			'import, read-only: ret -1 errno 1 error 23130',
			'csr, short: ret -1 errno 5 error 4',
			'csr, length: 2084',
			'csr, too long: ret -1 errno 14 error 23130',
			'export, query: ret -1 errno 5 error 4',
			'export, lengths: 2084 6252',
			'id, short: ret -1 errno 5 error 4',
			'id, length: 64',
			'import, too long: ret -1 errno 22 error 23130',
			'import, short: ret -1 errno 5 error 4',
		]);
	});

	it('reaches it through every way to open, look at and hand on a file', async () => {
		const lines = (await expectDone(fresh(), 'ways')).trimEnd().split('\n');
		expect(lines).toHaveLength(22);
		for (const line of lines) expect(line).toMatch(/: (ok|-?\d)$/);
	});

	it('generates, exports and resets identities', async () => {
		const state = fresh();
		const first = await exported(state);
		await expectDone(state, 'old-id', join(state, 'old-id.bin'));
		expect(read(join(state, 'old-id.bin'))).toEqual(first.id);

		await expectDone(state, 'pdh-gen');
		const second = await exported(state);
		expect(second.pdh).not.toEqual(first.pdh);
		expect(second).toMatchObject({ pek: first.pek, oca: first.oca, id: first.id });

		await expectDone(state, 'pek-gen');
		const third = await exported(state);
		expect(third.pek).not.toEqual(second.pek);
		expect(third.oca).not.toEqual(second.oca);
		expect(third.id).toEqual(first.id);

		await expectDone(state, 'reset');
		const fourth = await exported(state);
		expect(fourth.oca).not.toEqual(third.oca);
		expect(fourth).toMatchObject({ id: first.id, cek: first.cek });
	});

	it('is down after a reset, until a command needs it', async () => {
		const state = fresh();
		const script = '"$0" reset && "$0" status && "$0" pdh-gen && "$0" status';
		const { code, stdout } = await cvm('devsev', '--state', state, '--', 'sh', '-c', script, client);
		expect(code).toBe(0);
		expect(stdout).toBe(
			'api 0.24 build 15 state 0 flags 0x0 guests 0 error 0\napi 0.24 build 15 state 1 flags 0x100 guests 0 error 0\n',
		);
	});

	it('is taken over by an owner, once', async () => {
		const state = fresh();
		const [csr, pek, oca] = [join(state, 'csr'), join(state, 'pek'), join(state, 'oca')];
		const before = await exported(state);
		await expectDone(state, 'csr', csr);
		expect(read(csr).slice(0, 1044)).toEqual(before.pek.slice(0, 1044));

		const owner = createOca({ provider: nodeProvider, random: systemRandom() });
		writeFileSync(pek, signPekCsr({ provider: nodeProvider, csr: read(csr), oca: owner }));
		writeFileSync(oca, owner.cert);
		const stranger = createOca({ provider: nodeProvider, random: systemRandom() });
		const strange = join(state, 'strange');
		writeFileSync(strange, stranger.cert);
		const refused = await use(state, 'import', pek, strange);
		expect(refused).toMatchObject({ code: 1, stdout: `import: errno 5 error ${Status.BAD_SIGNATURE}\n` });

		await expectDone(state, 'import', pek, oca);
		expect(await expectDone(state, 'status')).toMatch(/ flags 0x101 /);
		const after = await exported(state);
		expect(after.oca).toEqual(owner.cert);
		expect(after.pdh).not.toEqual(before.pdh);
		expect(readSevCertificate(after.pek).slots.map(({ usage }) => usage)).toEqual([0x1001, 0x1004]);

		const again = await use(state, 'import', pek, oca);
		expect(again).toMatchObject({ code: 1, stdout: `import: errno 5 error ${Status.ALREADY_OWNED}\n` });
		await expectDone(state, 'pek-gen');
		expect(await expectDone(state, 'status')).toMatch(/ flags 0x100 /);
	});
});

describe('two programs at once', () => {
	it('share one platform: every chain that either exports holds', async () => {
		const state = fresh();
		const rounds = 15;
		const names = ['a', 'b'];
		const results = await Promise.all(names.map((name) => use(state, 'hammer', `${rounds}`, join(state, name))));
		for (const result of results) expect(result).toEqual({ code: 0, stdout: '', stderr: '' });
		const { id } = await exported(state);
		for (const name of names) {
			for (let i = 0; i < rounds; i++) {
				const at = (what: string) => read(join(state, `${name}.${i}.${what}`));
				expect(verify(id, at('pdh'), at('chain'))).toEqual({ status: Status.SUCCESS });
			}
		}
	});
});

const ended = (child: ChildProcess) => new Promise((resolve) => child.once('close', resolve));

describe('kill -9', () => {
	it.each([
		['the platform', 'pek-gen'],
		['the platform', 'pdh-gen'],
		['the runner', 'pek-gen'],
		['the runner', 'pdh-gen'],
	])('of %s during %s costs no identity', async (victim, what) => {
		const state = fresh();
		const said = join(state, 'said');
		const { id } = await exported(state);
		for (let round = 0; round < 4; round++) {
			rmSync(said, { force: true });
			const loop = `while "$0" ${what} > "$1"; do :; done`;
			const argv = ['devsev', '--state', state, '--', 'sh', '-c', loop, client, said];
			const runner = spawn(process.execPath, [cvmProgram, ...argv], { stdio: 'ignore' });
			const closed = ended(runner);
			const pid = await serverOf(state);
			// A runner that is not connected yet would start another platform, and its loop would never end.
			while (!existsSync(said)) await delay(5);
			await delay(Math.random() * 100);
			process.kill(victim === 'the platform' ? pid : (runner.pid ?? -1), 'SIGKILL');
			await closed;
			expect(await expectDone(state, 'status')).toMatch(/^api 0\.24 build 15 state 1 flags 0x100 guests 0 error 0\n$/);
			expect((await exported(state)).id).toEqual(id);
		}
	});

	/** The process id of the platform, when it listens. */
	async function serverOf(state: string): Promise<number> {
		for (;;) {
			try {
				const pid = Number(readFileSync(join(state, 'endpoint'), 'utf8').split('\n')[1]);
				process.kill(pid, 0);
				return pid;
			} catch {
				await delay(5);
			}
		}
	}
});
