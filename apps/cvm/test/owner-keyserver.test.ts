/** The stand-in for the manufacturer's key server, as a process. */
import { nodeProvider } from '@cvm/crypto/node';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { expect, it, vi } from 'vitest';
import { Folder, hex, owner } from './owner-cli.js';
import { Host } from './owner-machine.js';
import { PATIENCE, start } from './processes.js';

it.each(['SIGINT', 'SIGTERM'] as const)('gives what verifies a chip, until %s', async (signal) => {
	const host = new Host('key server');
	const folder = new Folder();
	const { pid, said, ended } = start(['owner', 'keyserver', '--json']);
	try {
		await vi.waitFor(() => expect(said.stdout).toContain('}\n'), PATIENCE);
		const { url } = JSON.parse(said.stdout) as { url: string };
		expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
		const get = async (path: string) => new Uint8Array(await (await fetch(`${url}${path}`)).arrayBuffer());
		const { pdh, chain } = host.certificates();
		const cek = await get(`/cek/id/${hex(host.chipId())}`);
		expect(cek).toEqual(createKeyServer(nodeProvider).cek(host.chipId()));
		const files = Object.entries({ pdh, chain, cek, askArk: await get('/developer/eula/sev/ask_ark_milan.cert') });
		const paths = files.map(([name, data]) => folder.write(name, data));
		expect(await owner('chain', 'verify', '--root', 'fake', ...paths)).toMatchObject({ code: 0, stderr: '' });
	} finally {
		process.kill(pid, signal);
		folder.remove();
	}
	expect(await ended).toMatchObject({ code: signal === 'SIGINT' ? 130 : 143, stderr: '' });
});

it('ends by itself when its time is over', async () => {
	expect(await owner('keyserver', '--for', '1')).toEqual({
		...{ code: 0, stderr: '' },
		stdout: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\n$/),
	});
});
