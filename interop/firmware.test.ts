import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import type { hostSchema } from '@cvm/host';
import { fromHex, toHex } from '@cvm/layout';
import { readFirmwareBlocks } from '@cvm/ovmf-mh';
import { connectQmpSocket } from '@cvm/qmp/node';
import { createLaunchSession } from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { cvm, hostProgram, run, temporaryFolder } from './programs.js';

const folder = temporaryFolder();
const OVMF = '/usr/share/OVMF';
const POLICY = 0x20;

/** A host's QMP connection, for the length of `work`. */
async function withHost<T>(
	options: readonly string[],
	work: (monitor: Awaited<ReturnType<typeof connectQmpSocket<typeof hostSchema>>>) => Promise<T>,
): Promise<T> {
	const socket = join(folder, 'host.qmp');
	const child = spawn(process.execPath, [...hostProgram, ...options, '-qmp', `unix:${socket},server,nowait`], {
		stdio: ['ignore', 'ignore', 'inherit'],
	});
	const ended = new Promise((done) => child.once('close', done));
	try {
		for (let tries = 0; ; tries++) {
			try {
				const monitor = await connectQmpSocket<typeof hostSchema>(`unix:${socket}`);
				const result = await work(monitor);
				await monitor.execute('quit');
				monitor.close();
				return result;
			} catch (error) {
				if (tries > 400 || (error as Error).name !== 'QmpConnectionError') throw error;
				await new Promise((done) => setTimeout(done, 50));
			}
		}
	} finally {
		child.kill();
		await ended;
	}
}

describe('a real OVMF image', () => {
	it('is measured as OpenSSL measures it', async () => {
		const firmware = join(OVMF, 'OVMF_CODE.fd');
		const platform = join(folder, 'platform');
		const pdh = await withHost(['-machine', 'none', '-S', '-platform', platform], async (monitor) =>
			Buffer.from((await monitor.execute('query-sev-capabilities')).pdh, 'base64'),
		);
		const { dhCert, session, keys } = createLaunchSession({
			provider: nodeProvider,
			random: systemRandom(),
			platformPdh: Uint8Array.from(pdh),
			policy: POLICY,
		});
		// Bytes here, where the demonstration writes base64: both forms are read.
		writeFileSync(join(folder, 'godh.cert'), dhCert);
		writeFileSync(join(folder, 'session.bin'), session);
		const object = `sev-guest,id=sev0,policy=${POLICY},dh-cert-file=${join(folder, 'godh.cert')},session-file=${join(folder, 'session.bin')}`;
		const options = [
			'-machine',
			'q35,confidential-guest-support=sev0',
			'-object',
			object,
			'-bios',
			firmware,
			'-m',
			'64',
			'-S',
		];
		const { blob, sev } = await withHost([...options, '-platform', platform], async (monitor) => ({
			blob: Buffer.from((await monitor.execute('query-sev-launch-measure')).data, 'base64'),
			sev: await monitor.execute('query-sev'),
		}));
		const digest = run('openssl', ['dgst', '-sha256', '-r', firmware]).slice(0, 64);
		const version = Uint8Array.of(4, sev['api-major'], sev['api-minor'], sev['build-id']);
		const message = Buffer.concat([version, Uint8Array.of(POLICY, 0, 0, 0), fromHex(digest), blob.subarray(32)]);
		writeFileSync(join(folder, 'measured.bin'), message);
		const key = `hexkey:${toHex(keys.tik)}`;
		const mac = run('openssl', ['dgst', '-sha256', '-mac', 'HMAC', '-macopt', key, '-r', join(folder, 'measured.bin')]);
		expect(message.length).toBe(56);
		expect(blob.subarray(0, 32).toString('hex')).toBe(mac.slice(0, 64));
	});

	it('launches, is measured, and its guest migrates', async () => {
		const firmware = join(OVMF, 'OVMF_CODE.fd');
		const { code, stdout, stderr } = await cvm(
			'demo',
			'--firmware',
			firmware,
			'--memory',
			'64M',
			'--steps',
			'4000',
			'--json',
		);
		expect(stderr).toBe('');
		expect(code).toBe(0);
		expect(JSON.parse(stdout)['launch-digest']).toBe(run('openssl', ['dgst', '-sha256', '-r', firmware]).slice(0, 64));
	});

	it.each([
		['OVMF_CODE.fd', 0x80b004],
		['OVMF_CODE.secboot.fd', 0x80b004],
		['OVMF_CODE_4M.fd', 0x808004],
		['OVMF_CODE_4M.secboot.fd', 0x808004],
	])('%s has the table that was read from it byte by byte', (name, reset) => {
		const blocks = readFirmwareBlocks(new Uint8Array(readFileSync(join(OVMF, name))));
		expect(blocks.resetBlock?.address).toBe(reset);
		// Generic builds: present, with base 0, which means unsupported.
		expect(blocks.secretBlock).toEqual({ base: 0, size: 0 });
		expect(blocks.hashBlock).toEqual({ base: 0, size: 0 });
	});
});
