import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { compileShim } from '../src/node/shim.js';
import { buildClient, COMPILER, startDevice, temporaryFolder, use } from './rig.js';

const folder = temporaryFolder();
const fresh = (name = 'state-') => mkdtempSync(join(folder, name));
const STATUS = /^api 0\.24 build 15 state 1 flags 0x100 guests 0 error 0\n$/;
let client = '';
beforeAll(() => {
	if (COMPILER) client = buildClient(folder);
});

/** What the kernel's driver answers: sev_ioctl of Linux drivers/crypto/ccp/sev-dev.c. 23130: `error` was not written. */
const MISUSE = [
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
	'',
].join('\n');

describe.runIf(COMPILER)('a program with the device', () => {
	it('gets what the kernel would answer, also to bad pointers', async () => {
		expect(await use(await startDevice(), client, 'checks')).toEqual({ code: 0, stdout: MISUSE, stderr: '' });
	});

	it('gets the same where process_vm_readv is forbidden', async () => {
		const device = await startDevice({ compiler: `${COMPILER} -DCVM_DEVSEV_PIPES` });
		expect(await use(device, client, 'checks')).toEqual({ code: 0, stdout: MISUSE, stderr: '' });
	});

	it('reaches it in every way, and nothing else changes', async () => {
		const { code, stdout, stderr } = await use(await startDevice(), client, 'ways');
		expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
		expect(stdout.trimEnd().split('\n')).toHaveLength(22);
		for (const line of stdout.trimEnd().split('\n')) expect(line).toMatch(/: (ok|-?\d)$/);
	});

	it('gets ENODEV when the platform has gone', async () => {
		const device = await startDevice();
		const env = { ...device.env, CVM_DEVSEV_SOCKET: join(folder, 'nobody') };
		expect((await use({ env }, client, 'status')).stdout).toBe('status: errno 19 error 23130\n');
	});

	it('reaches it also with system calls by number', async () => {
		const script = `const fs = require('fs'); fs.openSync('/dev/sev', 'r+');
			console.log(fs.statSync('/dev/sev').isCharacterDevice(), fs.existsSync('/dev/sev'));`;
		expect((await use(await startDevice(), process.execPath, '-e', script)).stdout).toBe('true true\n');
	});

	it('is left alone without the variables', async () => {
		const { LD_PRELOAD } = (await startDevice()).env;
		const env = { LD_PRELOAD } as Parameters<typeof use>[0]['env'];
		expect((await use({ env }, client, 'status')).stderr).toBe('/dev/sev: No such file or directory\n');
	});
});

describe.runIf(COMPILER)('a platform', () => {
	it('lasts as long as the device, and leaves nothing', async () => {
		const device = await startDevice();
		expect(readdirSync(device.folder)).toContain('platform.json');
		await device.close();
		expect(() => readdirSync(device.folder)).toThrow('ENOENT');
	});

	it('persists in a state folder', async () => {
		const state = fresh();
		const id = join(state, 'id');
		const pdh = join(state, 'pdh');
		const read = async () => {
			const device = await startDevice({ state });
			await use(device, client, 'id', id);
			await use(device, client, 'export', pdh, join(state, 'chain'));
			await device.close();
			return [readFileSync(id), readFileSync(pdh)];
		};
		expect(await read()).toEqual(await read());
	});

	it('is the one that was asked for', async () => {
		const device = await startDevice({ generation: 'naples', version: { major: 0, minor: 17, build: 9 } });
		expect(device).toMatchObject({ generation: 'naples', version: { major: 0, minor: 17, build: 9 } });
		expect((await use(device, client, 'status')).stdout).toMatch(/^api 0\.17 build 9 /);
	});

	it('is one for all who name its folder at the same time', async () => {
		const state = fresh();
		const [a, b, c] = await Promise.all([1, 2, 3].map(() => startDevice({ state })));
		if (!a || !b || !c) throw new Error('three devices');
		expect(new Set([a.socketPath, b.socketPath, c.socketPath]).size).toBe(1);
		await use(a, client, 'reset');
		expect((await use(b, client, 'status')).stdout).toMatch(/ state 0 /);
		await a.close();
		await c.close();
		expect((await use(b, client, 'status')).stdout).toMatch(/ state 0 /);
		await b.close();
		expect((await use(b, client, 'status')).stdout).toBe('status: errno 19 error 23130\n');
	});

	it('does not become another while it runs', async () => {
		const state = fresh();
		await startDevice({ state });
		await expect(startDevice({ state, generation: 'naples' })).rejects.toMatchObject({ code: 'state' });
		await expect(startDevice({ state, chipSeed: 'another' })).rejects.toMatchObject({ code: 'state' });
	});

	it('does not become another later', async () => {
		const state = fresh();
		await (await startDevice({ state })).close();
		await expect(startDevice({ state, generation: 'naples' })).rejects.toThrow(
			`${state}: generation: expected milan, as this platform was made, got naples`,
		);
	});

	it('works in folders whose names are long or have blanks and colons', async () => {
		for (const name of ['long'.repeat(40), 'blanks and: colons']) {
			const state = join(fresh(), name);
			mkdirSync(state);
			const device = await startDevice({ state });
			expect((await use(device, client, 'status')).stdout).toMatch(STATUS);
			await device.close();
		}
	});

	it('starts over what a killed one left', async () => {
		const state = fresh();
		writeFileSync(join(state, 'endpoint'), `${join(state, 'socket')}\n`);
		writeFileSync(join(state, 'socket'), 'no socket at all');
		writeFileSync(join(state, 'spi.bin.new'), 'torn');
		expect((await use(await startDevice({ state }), client, 'status')).stdout).toMatch(STATUS);
	});

	it('never removes a file because a damaged endpoint names it', async () => {
		const state = fresh();
		const precious = join(state, 'precious');
		writeFileSync(precious, 'content');
		writeFileSync(join(state, 'endpoint'), `${precious}\n`);
		await startDevice({ state });
		expect(readFileSync(precious, 'utf8')).toBe('content');
	});

	it('says that its storage was tampered with, until a reset', async () => {
		const state = fresh();
		await (await startDevice({ state })).close();
		const spi = join(state, 'spi.bin');
		const data = readFileSync(spi);
		data.writeUInt8(data.readUInt8(1000) ^ 1, 1000);
		writeFileSync(spi, data);
		const device = await startDevice({ state });
		// SECURE_DATA_INVALID
		expect((await use(device, client, 'pdh-gen')).stdout).toBe('pdh-gen: errno 5 error 24\n');
		expect((await use(device, client, 'status')).stdout).toMatch(/ state 0 /);
		expect((await use(device, client, 'reset')).code).toBe(0);
		expect((await use(device, client, 'pdh-gen')).code).toBe(0);
	});

	it('says which file is not what it should be', async () => {
		const state = fresh();
		writeFileSync(join(state, 'platform.json'), '{}');
		await expect(startDevice({ state })).rejects.toThrow(
			`${state}/platform.json: expected format 1, got undefined; is this a state folder?`,
		);
	});

	it('wants a folder', async () => {
		const file = join(fresh(), 'file');
		writeFileSync(file, '');
		await expect(startDevice({ state: file })).rejects.toMatchObject({ code: 'state' });
	});

	it('is not impressed by what others send to its socket', async () => {
		const device = await startDevice();
		const say = (data: Uint8Array) =>
			new Promise<void>((done) => {
				const socket = createConnection(device.socketPath, () => socket.end(data));
				socket.on('error', () => undefined);
				socket.on('close', () => done());
				socket.resume();
			});
		await say(new Uint8Array(0));
		await say(new Uint8Array(23));
		await say(new Uint8Array(100_000).fill(0xa5));
		await say(Buffer.from('SEVI\x00\x53\x10\xc0'));
		await say(Buffer.concat([Buffer.from('SEVI\x00\x53\x10\xc0', 'latin1'), new Uint8Array(16)]));
		expect((await use(device, client, 'status')).stdout).toMatch(STATUS);
	});

	it('serves others while a client starts an ioctl and says no more', async () => {
		const device = await startDevice();
		const socket = createConnection(device.socketPath);
		socket.write(Buffer.from('SEVI\x00\x53\x10\xc0', 'latin1'));
		socket.write(new Uint8Array(16));
		const asked = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
		expect(asked.readUInt32LE(0)).toBe(1);
		expect((await use(device, client, 'status')).stdout).toMatch(STATUS);
		socket.destroy();
	});
});

describe.runIf(COMPILER)('the shim', () => {
	it('is compiled once for a folder', async () => {
		const place = fresh();
		const path = await compileShim(place);
		expect(await compileShim(place)).toBe(path);
		expect(readdirSync(place)).toEqual([path.slice(place.length + 1)]);
		vi.stubEnv('PATH', '');
		expect(await compileShim(place)).toBe(path);
		vi.unstubAllEnvs();
	});

	it('says in one line what the compiler did not like, and leaves nothing', async () => {
		const place = fresh();
		const failing = compileShim(place, `${COMPILER} -include nothing-there.h`);
		await expect(failing).rejects.toMatchObject({ code: 'compiler' });
		await expect(failing).rejects.toThrow(/could not compile .*devsev\.c: [^\n]*nothing-there\.h[^\n]*$/);
		expect(readdirSync(place)).toEqual([]);
	});

	it('takes $CC', async () => {
		vi.stubEnv('CC', 'no-such-cc');
		await expect(compileShim(fresh())).rejects.toThrow('no-such-cc: no such C compiler (from $CC)');
		vi.unstubAllEnvs();
	});
});

describe('without a compiler', () => {
	it('says what to install', async () => {
		vi.stubEnv('PATH', fresh());
		vi.stubEnv('CC', '');
		await expect(compileShim(fresh())).rejects.toThrow(/^no C compiler: .*apt install gcc libc6-dev/);
		vi.unstubAllEnvs();
	});
});
