import { nobleProvider, seededRandom } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { fakePlatform, fixedRandom, flipBit, join, scalar } from '../../test/fake-platform.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, publicFile } from '../../test/public-data.js';
import { checkDhCertificate } from '../certificates/sev-certificate.js';
import { openPacket, PacketContext } from '../channel/packet.js';
import { openSession, policyMac, sessionBuffer } from '../channel/session.js';
import {
	createLaunchSession,
	expectedMeasurement,
	kernelHashesTable,
	launchDigest,
	packageSecret,
	readSecretTable,
	readSevCertificate,
	Status,
	secretTable,
	verifyMeasurement,
} from './index.js';

const provider = nobleProvider;
const base64 = (text: string) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const ascii = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
const empty = new Uint8Array(0);

describe('createLaunchSession', () => {
	const { pdh, pek, keys } = fakePlatform(provider);
	const launch = () =>
		createLaunchSession({ provider, random: seededRandom('owner'), platformPdh: pdh, policy: 0x00180001 });

	it('makes a certificate and a session that the platform opens to the same keys', () => {
		const { dhCert, session, keys: mine } = launch();
		expect([dhCert.length, session.length]).toEqual([2084, 128]);
		expect(checkDhCertificate(provider, dhCert)).toBe(Status.SUCCESS);
		const { publicKey, apiMajor, apiMinor } = readSevCertificate(dhCert);
		expect([apiMajor, apiMinor]).toEqual([0, 24]);
		if (publicKey === undefined) return expect.fail('the certificate has a key');
		const opened = openSession(provider, { privateKey: keys.pdh, peer: publicKey, session });
		expect(opened).toEqual({ status: Status.SUCCESS, keys: mine });
		expect(sessionBuffer.decode(session).policyMac).toEqual(policyMac(provider, mine.tik, 0x00180001));
	});

	it('is the same for the same randomness, and another for other randomness', () => {
		expect(launch()).toEqual(launch());
		const random = seededRandom('another owner');
		const other = createLaunchSession({ provider, random, platformPdh: pdh, policy: 0x00180001 });
		expect(other.keys.tek).not.toEqual(launch().keys.tek);
		expect(other.dhCert).not.toEqual(launch().dhCert);
	});

	it.each([
		['a PEK', pek],
		['an empty blob', empty],
		['a key off the curve', flipBit(pdh, 8 * 0x14)],
	])('refuses %s for a platform', (_, platformPdh) => {
		const random = seededRandom('owner');
		expect(() => createLaunchSession({ provider, random, platformPdh, policy: 0 })).toThrow(
			expect.objectContaining({ name: 'OwnerError', code: 'platform-pdh' }),
		);
	});
});

describe('createLaunchSession with a key that exists', () => {
	const { pdh, keys } = fakePlatform(provider);
	const launch = (privateKey: Uint8Array) =>
		createLaunchSession({ provider, random: seededRandom('owner'), platformPdh: pdh, policy: 1, privateKey });

	it('certifies that key, opens under it, and leaves it intact', () => {
		const privateKey = scalar(0x41);
		const { dhCert, session, keys: mine } = launch(privateKey);
		expect(privateKey).toEqual(scalar(0x41));
		const { publicKey } = readSevCertificate(dhCert);
		expect(publicKey).toEqual(provider.p384.publicKey(privateKey));
		if (publicKey === undefined) return expect.fail('the certificate has a key');
		const opened = openSession(provider, { privateKey: keys.pdh, peer: publicKey, session });
		expect(opened).toEqual({ status: Status.SUCCESS, keys: mine });
	});

	it.each([
		['zero', new Uint8Array(48)],
		['the order or more', scalar(0xff)],
		['47 bytes', scalar(1).subarray(1)],
	])('refuses %s for a key', (_, privateKey) => {
		expect(() => launch(privateKey)).toThrow(expect.objectContaining({ name: 'OwnerError', code: 'key' }));
	});
});

describe('kernelHashesTable', () => {
	it('lays out command line, initrd and kernel as QEMU does (own computation)', () => {
		expect(kernelHashesTable(provider, { kernel: ascii('KERNEL') })).toEqual(
			fromHex(`
				06d63894224fc94cb479a793d411fd21 a800d82dd09720bd944caa78e7714d36
				ab2a32006e340b9cffb37a989ca544e6 bb780a2c78901d3fb33738768511a306
				17afa01d31f7ba442f3ad74b9af141e2 9169781d3200e3b0c44298fc1c149afb
				f4c8996fb92427ae41e4649b934ca495 991b7852b8553794e74dd2ab7f42b835
				d5b172d2045b3200a204d4ad1de3e9b0 7751899e5cf4d4a3017328c41372c70f
				dcc8db9587bb38fb0000000000000000`),
		);
	});

	it('tells an absent command line and initrd from nothing but their contents', () => {
		const kernel = ascii('KERNEL');
		const bare = kernelHashesTable(provider, { kernel });
		expect(kernelHashesTable(provider, { kernel, initrd: empty, commandLine: empty })).toEqual(bare);
		expect(kernelHashesTable(provider, { kernel, initrd: ascii('x') })).not.toEqual(bare);
		expect(kernelHashesTable(provider, { kernel, commandLine: ascii('x') })).not.toEqual(bare);
	});
});

// virtee/sevctl `tests/measurement.rs`: tik1.bin, API 1.40 build 40, policy 3.
const launched = {
	tik: fromHex('3569cf61a32a602b87185ac6e0f55913'),
	version: { major: 1, minor: 40, build: 40 },
	policy: 3,
};
const nonce = base64('wxP6tRHCFrFQWxsuqZA8QA==');
const digest = base64('xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM=');
const published = base64('lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA');

describe('measurement', () => {
	it('reproduces the published value for a digest (virtee/sevctl)', () => {
		const measure = expectedMeasurement(provider, { ...launched, digest, mnonce: nonce });
		expect(join(measure, nonce)).toEqual(published);
		expect(verifyMeasurement(provider, published, { ...launched, digest })).toBe(Status.SUCCESS);
	});

	it('refuses every flipped bit of the answer', () => {
		for (let bit = 0; bit < 48 * 8; bit++) {
			const status = verifyMeasurement(provider, flipBit(published, bit), { ...launched, digest });
			if (status !== Status.BAD_MEASUREMENT) expect.fail(`bit ${bit}: status ${status}`);
		}
	});

	it.each([
		['policy', { policy: 1 }],
		['version', { version: { major: 1, minor: 40, build: 41 } }],
		['digest', { digest: new Uint8Array(32) }],
		['key', { tik: new Uint8Array(16) }],
	])('refuses the answer for another %s', (_, change) => {
		const status = verifyMeasurement(provider, published, { ...launched, digest, ...change });
		expect(status).toBe(Status.BAD_MEASUREMENT);
	});

	it('refuses an answer of another length', () => {
		for (const blob of [empty, published.subarray(0, 47), join(published, Uint8Array.of(0))]) {
			expect(verifyMeasurement(provider, blob, { ...launched, digest })).toBe(Status.INVALID_LENGTH);
		}
	});
});

describe('launchDigest', () => {
	it('does not depend on how the bytes were split, but on their order', () => {
		const whole = launchDigest(provider, [ascii('firmware hashes')]);
		expect(launchDigest(provider, [ascii('firmware '), empty, ascii('hashes')])).toEqual(whole);
		expect(launchDigest(provider, [ascii('hashes'), ascii('firmware ')])).not.toEqual(whole);
	});
});

describe.runIf(hasPublicData)(`digests of real firmware ${NEEDS_PUBLIC_DATA}`, () => {
	const measured = (parts: readonly Uint8Array[]) => {
		const mnonce = nonce;
		const measure = expectedMeasurement(provider, { ...launched, digest: launchDigest(provider, parts), mnonce });
		return join(measure, mnonce);
	};

	it('reproduces the published measurement of a firmware (virtee/sevctl)', () => {
		expect(measured([publicFile('ovmf', 'amdsev-el9-last4k.bin')])).toEqual(
			base64('oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBnDE/q1EcIWsVBbGy6pkDxA'),
		);
	});

	it('reproduces the published measurement with kernel hashes (virtee/sevctl)', () => {
		const hashes = kernelHashesTable(provider, {
			kernel: publicFile('sev', 'measurement', 'vmlinuz-fake'),
			initrd: publicFile('sev', 'measurement', 'initrd-fake'),
			commandLine: ascii('foo bar baz fake kernel=cmdline'),
		});
		expect(measured([publicFile('ovmf', 'amdsev-el9-last4k.bin'), hashes])).toEqual(
			base64('h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPwvDE/q1EcIWsVBbGy6pkDxA'),
		);
	});

	it('reproduces the published digests (virtee/sev-snp-measure)', () => {
		const commandLine = ascii('console=ttyS0 loglevel=7');
		const hashes = kernelHashesTable(provider, { kernel: empty, initrd: empty, commandLine });
		expect(toHex(launchDigest(provider, [publicFile('ovmf', 'ovmf_AmdSev_suffix.bin'), hashes]))).toBe(
			'82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff',
		);
		expect(toHex(launchDigest(provider, [publicFile('ovmf', 'ovmf_OvmfX64_suffix.bin')]))).toBe(
			'b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da',
		);
	});
});

describe('secrets', () => {
	const guid = '736869e5-84f0-4973-92ec-06879ce3da0b';
	// virtee/sevctl `tests/secret.rs`: secret1.txt, tek1.bin, tik1.bin.
	const data = ascii('MY-LUKS-PASSPHRASE');
	const keys = { tek: fromHex('52a869b79ab9c13bb6a92b0561619cb3'), tik: fromHex('c6d5a9956133050912b24bbe5c372686') };
	const measure = base64('TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS').subarray(0, 32);
	const iv = base64('rFR07U3TLH2YnsUj2SVZ7A==');

	it('reproduces the published packet (virtee/sevctl)', () => {
		const secret = secretTable([{ guid, data }]);
		const { header, payload } = packageSecret({ provider, random: fixedRandom(iv), keys, measure, secret });
		expect(header).toEqual(base64('AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q=='));
		expect(payload).toEqual(
			base64('0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=='),
		);
	});

	it('counts header and entries in the lengths, and pads only the whole', () => {
		const other = { guid: '00112233-4455-6677-8899-aabbccddeeff', data: ascii('abc') };
		expect(toHex(secretTable([other, { ...other, data: empty }]))).toBe(
			toHex(
				fromHex(`42f5741edd71664d963eef4287ff173b 3f000000
					33221100554477668899aabbccddeeff 17000000 616263
					33221100554477668899aabbccddeeff 14000000 00`),
			),
		);
		expect(secretTable([])).toHaveLength(32);
	});

	it('is opened with the keys and the measurement of that launch only', () => {
		const random = seededRandom('secret');
		const secret = ascii('seventeen bytes!!');
		const { header, payload } = packageSecret({ provider, random, keys, measure, secret });
		const packet = { context: PacketContext.secret, header, guestLength: 32, payload };
		const plaintext = join(secret, new Uint8Array(15));
		expect(openPacket(provider, keys, { ...packet, measure })).toEqual({ status: Status.SUCCESS, plaintext });
		expect(openPacket(provider, keys, { ...packet, measure: flipBit(measure, 0) })).toEqual({
			status: Status.BAD_MEASUREMENT,
		});
	});

	it('is bound to no measurement before API 0.17', () => {
		const version = { major: 0, minor: 16 };
		const random = seededRandom('secret');
		const { header, payload } = packageSecret({ provider, random, keys, secret: data, version });
		const packet = { context: PacketContext.secret, header, guestLength: 32, payload };
		expect(openPacket(provider, keys, packet)).toEqual({
			status: Status.SUCCESS,
			plaintext: join(data, new Uint8Array(14)),
		});
		expect(openPacket(provider, keys, { ...packet, measure }).status).toBe(Status.BAD_MEASUREMENT);
		const given = packageSecret({ provider, random: seededRandom('secret'), keys, measure, secret: data, version });
		expect(given.header).toEqual(header);
		const bound = { provider, random, keys, secret: data, version: { major: 0, minor: 17 } };
		expect(() => packageSecret(bound)).toThrow(expect.objectContaining({ name: 'OwnerError', code: 'measure' }));
	});

	it('reads a table of secrets back, without its padding', () => {
		const entries = [
			{ guid, data },
			{ guid: '00112233-4455-6677-8899-aabbccddeeff', data: empty },
		];
		expect(readSecretTable(secretTable(entries))).toEqual(entries);
		expect(readSecretTable(secretTable([]))).toEqual([]);
	});

	const table = secretTable([{ guid, data }]);
	const withByte = (at: number, value: number) => {
		const out = table.slice();
		out[at] = value;
		return out;
	};
	it.each([
		['nothing', empty, 'length at 16: expected 20 to 0, got 0'],
		['less than a header', table.subarray(0, 19), 'length at 16: expected 20 to 19, got 0'],
		['another GUID', withByte(0, 0), 'expected GUID 1e74f542'],
		['a length beyond the bytes', withByte(16, 65), 'length at 16: expected 20 to 64, got 65'],
		['a length below its header', withByte(16, 19), 'length at 16: expected 20 to 64, got 19'],
		['an entry beyond the table', withByte(36, 39), 'length at 36: expected 20 to 38, got 39'],
		['an entry shorter than its header', withByte(36, 19), 'length at 36: expected 20 to 38, got 19'],
		['a rest that holds no entry', withByte(36, 37), 'length at 73: expected 20 to 1, got 0'],
	])('refuses %s for a table of secrets', (_, bad, message) => {
		expect(() => readSecretTable(bad)).toThrow(
			expect.objectContaining({ name: 'OwnerError', code: 'secret', message: expect.stringContaining(message) }),
		);
	});

	it('uses another IV each time', () => {
		const random = seededRandom('secret');
		const seal = () => packageSecret({ provider, random, keys, measure, secret: data });
		expect(seal().payload).not.toEqual(seal().payload);
	});

	it('refuses nothing as a secret, and the 48-byte answer as a measurement', () => {
		const random = seededRandom('secret');
		const seal = (change: object) => () => packageSecret({ provider, random, keys, measure, secret: data, ...change });
		expect(seal({ secret: empty })).toThrow(expect.objectContaining({ name: 'OwnerError', code: 'secret' }));
		expect(seal({ measure: new Uint8Array(48) })).toThrow(
			expect.objectContaining({ name: 'OwnerError', code: 'measure' }),
		);
	});
});
