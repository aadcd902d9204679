/** A launch as libvirt does it: the guest owner has files, and the host has QMP. */
import { join } from 'node:path';
import { nodeProvider } from '@cvm/crypto/node';
import { buildFirmwareImage } from '@cvm/ovmf-mh';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { HostProcess } from '../src/demo/host-process.js';
import { Folder, fromBase64, owner } from './owner-cli.js';
import { PROGRAM } from './processes.js';

// A host is a process of the program that is running: here that is the bundle, not the test runner.
process.argv[1] = PROGRAM;

let folder: Folder;
const hosts: HostProcess[] = [];
beforeEach(() => {
	folder = new Folder();
});
afterEach(async () => {
	await Promise.all(hosts.splice(0).map((host) => host.quit()));
	folder.remove();
});

async function start(name: string, ...options: string[]): Promise<HostProcess> {
	const chip = ['-platform', folder.at('chip'), '-S'];
	const host = await HostProcess.start(name, join(folder.path, `${name}.qmp`), [...options, ...chip]);
	hosts.push(host);
	return host;
}

it('verifies, launches, measures and injects over files that QEMU’s options name', async () => {
	const ok = { code: 0, stderr: '' };
	const probe = await start('probe', '-machine', 'none');
	const shown = await probe.monitor.execute('query-sev-capabilities');
	const keyServer = createKeyServer(nodeProvider);
	const certificates = [
		folder.write('pdh.b64', shown.pdh),
		folder.write('cert_chain.b64', shown['cert-chain']),
		folder.write('cek.cert', keyServer.cek(fromBase64(shown['cpu0-id']))),
		folder.write('ask_ark.cert', keyServer.askArk()),
	];
	await hosts.pop()?.quit();
	const session = ['session', '--root', 'fake', '--policy', '0x20', '-d', folder.path];
	expect(await owner(...session, ...certificates)).toMatchObject(ok);

	const blobs = `dh-cert-file=${folder.at('vm_godh.b64')},session-file=${folder.at('vm_session.b64')}`;
	const object = ['-object', `sev-guest,id=sev0,policy=0x20,${blobs}`];
	const { monitor } = await start('guest', '-machine', 'q35,confidential-guest-support=sev0', '-m', '64M', ...object);
	const { data: answer } = await monitor.execute('query-sev-launch-measure');
	const info = await monitor.execute('query-sev');
	const api = ['--api-major', `${info['api-major']}`, '--api-minor', `${info['api-minor']}`];
	const firmware = ['--firmware', folder.write('fw', buildFirmwareImage()), '--policy', '0x20'];
	const measure = [
		'measure',
		...firmware,
		...api,
		'--build-id',
		`${info['build-id']}`,
		'--tik',
		folder.at('vm_tik.bin'),
	];
	expect(await owner(...measure, '--verify', answer)).toMatchObject(ok);

	const keys = ['--tek', folder.at('vm_tek.bin'), '--tik', folder.at('vm_tik.bin'), '--launch-measure-blob', answer];
	const secret = `736869e5-84f0-4973-92ec-06879ce3da0b:${folder.write('disk.key', 'open sesame')}`;
	expect(await owner('secret', ...keys, '--secret', secret, '-d', folder.path)).toMatchObject(ok);
	const packet = ['secret_header.bin', 'secret_payload.bin'].map((name) =>
		Buffer.from(folder.read(name)).toString('base64'),
	);
	const [header = '', payload = ''] = packet;
	await monitor.execute('sev-inject-launch-secret', { 'packet-header': header, secret: payload });
	await monitor.execute('cont');
	expect((await monitor.execute('query-status')).status).toBe('running');
});
