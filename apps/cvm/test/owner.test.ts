/** What a guest owner does, from a chip's certificates to a sealed secret, on a machine in this process. */
import { createDecipheriv, createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { rmSync, statSync } from 'node:fs';
import { nodeProvider } from '@cvm/crypto/node';
import { buildFirmwareImage, MIGRATION_SECRET_GUID, migrationSecret } from '@cvm/ovmf-mh';
import {
	CPU_SIGNATURES,
	checkLaunchSession,
	initialVmsa,
	kernelHashesTable,
	readSecretTable,
	readSevBlocks,
	readSevCertificate,
	SEV_CERT_SIZE,
	Status,
	sevctl,
	sevTool,
} from '@cvm/sev-hw/owner';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Folder, hex, owner } from './owner-cli.js';
import { cekOf, Host, writeCertificates } from './owner-machine.js';
import { expectOneLine } from './processes.js';

const provider = nodeProvider;
const firmware = buildFirmwareImage({ size: 0x10000 });
const host = new Host('owner tests');
const API = ['--api-major', '0', '--api-minor', '24', '--build-id', '15'];
const GUID = '736869e5-84f0-4973-92ec-06879ce3da0b';

let folder: Folder;
let files: string[];
beforeEach(() => {
	folder = new Folder();
	files = writeCertificates(host, folder);
});
afterEach(() => folder.remove());

const ok = { code: 0, stderr: '' };

describe('oca', () => {
	it.each([
		['sevctl', 'the certificate given'],
		['sev-tool', 'the certificate given'],
		['sevctl', 'a new certificate'],
		['sev-tool', 'a new certificate'],
	])('create and sign, with a key in %s’s form and %s: PEK_CERT_IMPORT takes both', async (format, which) => {
		const platform = new Host(`owned ${format} ${which}`);
		folder.write('pek_csr.cert', platform.pekCsr());
		const [cert, key] = [folder.at('my.cert'), folder.at('my.key')];
		expect(await owner('oca', 'create', '--format', format, cert, key)).toMatchObject(ok);
		const given = which === 'the certificate given' ? ['--oca', cert] : [];
		const csr = ['--csr', folder.at('pek_csr.cert'), '--key', key, ...given];
		expect(await owner('oca', 'sign', ...csr, '-d', folder.path)).toMatchObject(ok);
		const oca = folder.read(given.length > 0 ? 'my.cert' : 'oca.cert');
		expect(platform.importPek(folder.read('pek_csr.signed.cert'), oca)).toBe('SUCCESS');
		const { chain } = platform.certificates();
		expect(chain.subarray(SEV_CERT_SIZE, 2 * SEV_CERT_SIZE)).toEqual(oca);
		const paths = writeCertificates(platform, folder);
		expect(await owner('chain', 'verify', '--root', 'fake', ...paths)).toMatchObject(ok);
	});
});

describe('keys in files', () => {
	it('of `oca create` are read by sevctl’s rules and by OpenSSL, and belong to the certificate', async () => {
		for (const format of ['sevctl', 'sev-tool']) {
			const [cert, key] = [folder.at(`${format}.cert`), folder.at(`${format}.key`)];
			expect(await owner('oca', 'create', '--format', format, cert, key)).toMatchObject(ok);
			const file = Buffer.from(folder.read(`${format}.key`));
			const read =
				format === 'sevctl' ? createPrivateKey({ key: file, format: 'der', type: 'sec1' }) : createPrivateKey(file);
			const { x = '', y = '' } = read.export({ format: 'jwk' });
			expect(publicJwk(folder.read(`${format}.cert`))).toMatchObject({ x, y });
		}
		const sevctlFiles = { cert: folder.read('sevctl.cert'), key: folder.read('sevctl.key') };
		expect(() => sevctl.decodeOca(provider, sevctlFiles)).not.toThrow();
	});

	it.each([
		['SEC 1 in PEM', { format: 'pem', type: 'sec1' }],
		['PKCS #8 in PEM', { format: 'pem', type: 'pkcs8' }],
		['SEC 1 in DER', { format: 'der', type: 'sec1' }],
		['PKCS #8 in DER', { format: 'der', type: 'pkcs8' }],
	] as const)('of OpenSSL sign a PEK: %s', async (_, form) => {
		const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'secp384r1' });
		const key = form.format === 'pem' ? privateKey.export(form) : privateKey.export(form);
		const csr = folder.write('pek_csr.cert', host.pekCsr());
		const argv = ['--csr', csr, '--key', folder.write('key', key), '-d', folder.path];
		expect(await owner('oca', 'sign', ...argv)).toMatchObject(ok);
		const oca = publicJwk(folder.read('oca.cert'));
		expect(oca).toEqual(createPublicKey(privateKey).export({ format: 'jwk' }));
	});
});

/** The public key of a certificate as OpenSSL shows keys. */
function publicJwk(cert: Uint8Array) {
	const { x, y } = readSevCertificate(cert).publicKey ?? { x: cert, y: cert };
	const [left, right] = [x, y].map((part) => Buffer.from(part).toString('base64url'));
	return { kty: 'EC', crv: 'P-384', x: left, y: right };
}

/** Session blobs for the host, made by the command. */
async function sevctlSession(policy: number) {
	const argv = ['--root', 'fake', '--policy', `${policy}`, '--name', 'vm1', '-d', folder.path];
	expect(await owner('session', ...argv, ...files)).toMatchObject(ok);
	const names = ['vm1_godh.b64', 'vm1_session.b64', 'vm1_tek.bin', 'vm1_tik.bin'];
	const session = sevctl.readSessionFiles(Object.fromEntries(names.map((name) => [name, folder.read(name)])), 'vm1');
	expect(checkLaunchSession(provider, { ...session, policy })).toEqual({ status: Status.SUCCESS });
	return { dhCert: session.dhCert, session: session.session, policy };
}

/** What a secret packet holds: flags, IV and MAC stand in its header. */
const opened = (tek: Uint8Array, header: Uint8Array, payload: Uint8Array): Uint8Array =>
	new Uint8Array(createDecipheriv('aes-128-ctr', tek, header.subarray(4, 20)).update(payload));

describe('a launch', () => {
	it('with sevctl’s files: session, measurement, secret', async () => {
		const policy = 1;
		const kernel = folder.write('kernel', 'KERNEL');
		const boot = { kernel: new TextEncoder().encode('KERNEL'), commandLine: new TextEncoder().encode('quiet') };
		const memory = [firmware, kernelHashesTable(provider, boot)];
		const guest = host.launch({ ...(await sevctlSession(policy)), asid: 100, memory });
		const answer = base64(guest.measurement);
		const what = ['--firmware', folder.write('fw', firmware), '--kernel', kernel, '--append', 'quiet'];
		const measure = ['measure', ...what, '--policy', '1', ...API, '--tik', folder.at('vm1_tik.bin')];
		expect(await owner(...measure, '--verify', answer)).toEqual({
			...ok,
			stdout: `${answer}\n✓ the measurement is that of this launch\n`,
		});
		expect(await owner(...measure, '--launch-measure-blob', answer)).toEqual({ ...ok, stdout: `${answer}\n` });
		const changed = await owner(...measure, '--cmdline', 'loud', '--verify', answer);
		expect(expectOneLine(changed, 1)).toContain('measurement: BAD_MEASUREMENT: expected ');

		const keys = ['--tek', folder.at('vm1_tek.bin'), '--tik', folder.at('vm1_tik.bin')];
		const secret = ['--secret', `${GUID}:${folder.write('disk.key', 'open sesame')}`];
		const out = [folder.at('header'), folder.at('payload')];
		expect(await owner('secret', ...keys, ...secret, '--launch-measure-blob', answer, ...out)).toMatchObject(ok);
		expect(host.injectSecret(guest, folder.read('header'), folder.read('payload'))).toBe('SUCCESS');
	});

	it('with a migration secret: made for the source, and the same for the target', async () => {
		const guestId = '00112233-4455-6677-8899-AABBCCDDEEFF';
		const tables: Uint8Array[] = [];
		for (const [asid, given] of [
			[110, ['new', '--guest-id', guestId, '--min-version', '3']],
			[111, [folder.at('migration_secret.bin'), '--secret', `${GUID}:${folder.write('disk.key', 'open sesame')}`]],
		] as const) {
			const guest = host.launch({ ...(await sevctlSession(0)), asid, memory: [firmware] });
			const blob = ['--launch-measure-blob', base64(guest.measurement)];
			const keys = ['--tek', folder.at('vm1_tek.bin'), '--tik', folder.at('vm1_tik.bin'), ...blob];
			const argv = [...keys, '--migration-secret', ...given, '-d', folder.path, '--json'];
			const { stdout, ...said } = await owner('secret', ...argv);
			expect(said).toEqual(ok);
			const shown = { 'guest-id': guestId.toLowerCase(), 'min-version': 3 };
			expect(JSON.parse(stdout)).toMatchObject(shown);
			const [header, payload] = [folder.read('secret_header.bin'), folder.read('secret_payload.bin')];
			expect(host.injectSecret(guest, header, payload)).toBe('SUCCESS');
			tables.push(opened(folder.read('vm1_tek.bin'), header, payload));
			for (const name of folder.names().filter((n) => n.startsWith('vm1_') || n.startsWith('secret_'))) {
				rmSync(folder.at(name));
			}
		}
		const file = folder.read('migration_secret.bin');
		expect(statSync(folder.at('migration_secret.bin')).mode & 0o777).toBe(0o600);
		expect(migrationSecret.decode(file)).toMatchObject({
			...{ format: 1, minVersion: 3 },
			guestId: new Uint8Array(Buffer.from(guestId.replaceAll('-', ''), 'hex')),
		});
		const entries = tables.map((table) => readSecretTable(table).map(({ guid, data }) => [guid, hex(data)]));
		expect(entries[0]).toEqual([[MIGRATION_SECRET_GUID, hex(file)]]);
		expect(entries[1]?.map(([guid]) => guid)).toEqual([GUID, MIGRATION_SECRET_GUID]);
		expect(entries[1]?.[1]).toEqual(entries[0]?.[0]);
	});

	it('with sev-tool’s files: session, measurement, secret', async () => {
		const argv = ['--root', 'fake', '--policy', '0', '--format', 'sev-tool', '-d', folder.path];
		expect(await owner('session', ...argv, ...files)).toMatchObject(ok);
		const given = Object.fromEntries(folder.names().map((name) => [name, folder.read(name)]));
		const { dhCert, session, keys } = sevTool.readLaunchFiles(given);
		const guest = host.launch({ dhCert, session, policy: 0, asid: 101, memory: [firmware] });
		const answer = folder.write('answer', guest.measurement);
		const measure = ['--firmware', folder.write('fw', firmware), '--policy', '0', ...API, '--tik', base64(keys.tik)];
		const out = ['--format', 'sev-tool', '-d', folder.path];
		expect(await owner('measure', ...measure, '--verify', answer, ...out)).toMatchObject(ok);
		expect(folder.read('calc_measurement_out.bin')).toEqual(guest.measurement.slice(0, 32));
		const secret = ['--tk', folder.at('tmp_tk.bin'), '--raw', folder.write('secret.txt', 'a raw secret')];
		expect(await owner('secret', ...secret, '--launch-measure-blob', answer, ...out)).toMatchObject(ok);
		const packet = [folder.read('packaged_secret_header.bin'), folder.read('packaged_secret.bin')] as const;
		expect(host.injectSecret(guest, ...packet)).toBe('SUCCESS');
	});

	it('of an SEV-ES guest with two virtual CPUs, by name of their model and by their save areas', async () => {
		const policy = 4;
		const { apResetVector } = readSevBlocks(firmware);
		const areas = [0, 1].map((vcpu) =>
			initialVmsa({
				vcpu,
				signature: CPU_SIGNATURES['EPYC-Milan'],
				...(apResetVector !== undefined && { apResetVector }),
			}),
		);
		const saveAreas = areas.map((area) => area.slice());
		const guest = host.launch({ ...(await sevctlSession(policy)), asid: 1, memory: [firmware], saveAreas });
		const answer = folder.write('answer', base64(guest.measurement));
		const measure = ['measure', '--firmware', folder.write('fw', firmware), '--policy', '4', ...API];
		const verify = [...measure, '--tik', folder.at('vm1_tik.bin'), '--verify', answer];
		const [first, other] = areas.map((area, i) => folder.write(`vmsa${i}`, area));
		const described = [
			['--vcpus', '2', '--vcpu-type', 'EPYC-Milan'],
			['--vcpus', '2', '--vcpu-sig', '0xa00f11'],
			['--num-cpus', '2', '--vmsa-cpu0', `${first}`, '--vmsa-cpu1', `${other}`],
		];
		for (const vcpus of described) expect(await owner(...verify, ...vcpus), vcpus.join(' ')).toMatchObject(ok);
		const wrong = [
			['--vcpus', '1', '--vcpu-type', 'EPYC-Milan'],
			['--vcpus', '2', '--vcpu-type', 'EPYC-Rome'],
			['--vcpus', '2', '--vcpu-type', 'EPYC-Milan', '--legacy-vm-type'],
			['--vcpus', '2', '--vmsa-cpu0', `${other}`, '--vmsa-cpu1', `${first}`],
		];
		for (const vcpus of wrong) expectOneLine(await owner(...verify, ...vcpus), 1);
	});

	it('for another platform, or another policy, is refused by the firmware', async () => {
		const blobs = await sevctlSession(1);
		const launch = { ...blobs, asid: 102, memory: [firmware] };
		expect(() => new Host('another chip').launch(launch)).toThrow(
			'LAUNCH_START: expected SUCCESS, got BAD_MEASUREMENT',
		);
		expect(() => host.launch({ ...launch, policy: 0 })).toThrow('LAUNCH_START: expected SUCCESS, got BAD_MEASUREMENT');
	});

	it('is not prepared for a platform that is not verified', async () => {
		folder.write('cek.cert', cekOf(new Host('another chip')));
		const argv = ['session', '--policy', '1', '-d', folder.path, ...files];
		const before = folder.names();
		expect(expectOneLine(await owner(...argv, '--root', 'fake'), 1)).toContain('expected one CEK, got two keys');
		folder.write('cert_chain.cert', folder.read('cert_chain.cert').slice(0, 2 * SEV_CERT_SIZE));
		expect(expectOneLine(await owner(...argv, '--root', 'fake'), 1)).toContain('CEK signs PEK: BAD_SIGNATURE');
		expect(expectOneLine(await owner(...argv), 2)).toContain('--root: expected one of naples, ');
		expect(folder.names()).toEqual(before);
		expect(await owner(...argv, '--unverified')).toMatchObject(ok);
	});
});

describe('secret', () => {
	it('makes one table of several', async () => {
		const tek = base64(new Uint8Array(16));
		const [one, two] = [folder.write('one', 'first'), folder.write('two', 'second')];
		const other = GUID.replace('7', '8');
		const keys = ['--tek', tek, '--tik', tek, '--launch-measure-blob', base64(new Uint8Array(48))];
		const iv = ['--iv', base64(new Uint8Array(16))];
		const out = [folder.at('h'), folder.at('p')];
		const secrets = ['--secret', `${GUID}:${one}`, '--secret', `${other}:${two}`];
		expect(await owner('secret', ...keys, ...iv, ...secrets, ...out)).toMatchObject(ok);
		const plain = createDecipheriv('aes-128-ctr', new Uint8Array(16), new Uint8Array(16)).update(folder.read('p'));
		expect(readSecretTable(new Uint8Array(plain))).toEqual([
			{ guid: GUID, data: folder.read('one') },
			{ guid: other, data: folder.read('two') },
		]);
	});
});

describe('report verify', () => {
	it('believes the report of a verified platform that says what is expected, and no other', async () => {
		const guest = host.launch({ ...(await sevctlSession(1)), asid: 103, memory: [firmware] });
		const nonce = new Uint8Array(16).fill(7);
		const report = host.attest(guest, nonce);
		const path = folder.write('report.bin', report);
		const digest = hex(provider.digest('sha256', firmware));
		const verify = (...argv: string[]) => owner('report', 'verify', '--root', 'fake', path, ...files, ...argv);
		const expected = ['--nonce', base64(nonce), '--launch-digest', digest, '--policy', '1'];
		const { stdout, ...rest } = await verify(...expected, '--json');
		expect(rest).toEqual(ok);
		expect(JSON.parse(stdout)).toEqual({
			...{ verified: true, status: 'SUCCESS', nonce: hex(nonce), 'launch-digest': digest, policy: 1 },
		});
		expect(await verify('--any-nonce')).toMatchObject(ok);
		for (const [argv, failed] of [
			[['--nonce', base64(new Uint8Array(16))], 'mnonce'],
			[['--any-nonce', '--launch-digest', '00'.repeat(32)], 'digest'],
			[['--any-nonce', '--policy', '0'], 'policy'],
		] as const) {
			expect(expectOneLine(await verify(...argv), 1)).toContain(`: ${failed}: `);
		}
		report.set([2], 0x30);
		folder.write('report.bin', report);
		expect(expectOneLine(await verify('--any-nonce'), 1)).toContain(': signature: BAD_SIGNATURE');
	});

	it('does not believe another platform', async () => {
		const guest = host.launch({ ...(await sevctlSession(1)), asid: 104, memory: [firmware] });
		const path = folder.write('report.bin', host.attest(guest, new Uint8Array(16)));
		const pek = folder.write('pek', new Host('another chip').certificates().chain.slice(0, SEV_CERT_SIZE));
		const refused = await owner('report', 'verify', '--unverified', '--any-nonce', path, pek);
		expect(expectOneLine(refused, 1)).toContain(': signature: BAD_SIGNATURE');
		const unverified = await owner('report', 'verify', '--any-nonce', path, pek);
		expect(expectOneLine(unverified, 2)).toContain('certificates: expected PDH, PEK, OCA, CEK, ASK, ARK, got no PDH');
	});
});
