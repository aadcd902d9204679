import { nobleProvider, seededRandom } from '@cvm/crypto';
import { toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, join, scalar } from '../../../test/fake-platform.js';
import { createLaunchSession, createOca, type Files, privateKeyToPkcs8, sevctl, sevTool } from '../index.js';
import { fromBase64, toBase64 } from './base64.js';
import { ascii } from './files.js';

const provider = nobleProvider;
const { pdh, pek, oca, cek, unsignedCek, ask, ark, id } = fakePlatform(provider);
const platform = { pdh, pek, oca, cek };
const launch = createLaunchSession({ provider, random: seededRandom('files'), platformPdh: pdh, policy: 5 });
const stored = { dhCert: launch.dhCert, session: launch.session, keys: { tek: launch.keys.tek, tik: launch.keys.tik } };
const text = (data: Uint8Array | undefined) => String.fromCharCode(...(data ?? []));
const fileError = (message: string) =>
	expect.objectContaining({ name: 'OwnerError', code: 'file', message: expect.stringContaining(message) });
const without = (files: Files, name: string): Files =>
	Object.fromEntries(Object.entries(files).filter(([key]) => key !== name));

describe('base64', () => {
	test.prop([fc.uint8Array({ maxLength: 200 })])('is what Node makes of it', (data) => {
		expect(toBase64(data)).toBe(Buffer.from(data).toString('base64'));
		expect(fromBase64(toBase64(data), 'x')).toEqual(data);
	});

	it('takes white space, as files end with a line break', () => {
		expect(text(fromBase64(' TWF\nu\r\n', 'x'))).toBe('Man');
	});

	it.each(['TQ', 'TQ=', 'T===', 'TQ==TQ==', 'TW-u', 'TWFu\0'])('refuses %j', (bad) => {
		expect(() => fromBase64(bad, 'x')).toThrow(fileError('x: expected base64'));
	});
});

describe('sevctl session', () => {
	const files = sevctl.sessionFiles(launch, 'guest');

	it('writes certificate and session in base64 without a line break, and the keys as they are', () => {
		expect(Object.keys(files)).toEqual(['guest_godh.b64', 'guest_session.b64', 'guest_tek.bin', 'guest_tik.bin']);
		expect(text(files['guest_godh.b64'])).toBe(Buffer.from(launch.dhCert).toString('base64'));
		expect(text(files['guest_session.b64'])).toBe(Buffer.from(launch.session).toString('base64'));
		expect([files['guest_tek.bin'], files['guest_tik.bin']]).toEqual([launch.keys.tek, launch.keys.tik]);
		expect(Object.keys(sevctl.sessionFiles(launch))).toContain('vm_godh.b64');
	});

	it('reads them back', () => {
		expect(sevctl.readSessionFiles(files, 'guest')).toEqual(stored);
		expect(sevctl.readSessionFiles(sevctl.sessionFiles(launch))).toEqual(stored);
	});

	it.each(Object.keys(files))('misses %s', (name) => {
		expect(() => sevctl.readSessionFiles(without(files, name), 'guest')).toThrow(
			fileError(`${name}: expected a file, got none`),
		);
	});

	it.each([
		['guest_godh.b64', ascii('TWFu'), 'expected 2084 bytes, got 3'],
		['guest_session.b64', ascii('TWFu'), 'expected 128 bytes, got 3'],
		['guest_session.b64', ascii('TWF!'), 'expected base64'],
		['guest_session.b64', Uint8Array.of(0xff), 'expected ASCII text, got byte 0xff'],
		['guest_session.b64', new Uint8Array(16385), 'expected at most 16384 bytes, got 16385'],
		['guest_tek.bin', new Uint8Array(17), 'expected 16 bytes, got 17'],
		['guest_tik.bin', new Uint8Array(15), 'expected 16 bytes, got 15'],
	])('refuses a %s that is not one', (name, data, message) => {
		expect(() => sevctl.readSessionFiles({ ...files, [name]: data }, 'guest')).toThrow(fileError(message));
	});
});

describe('sevctl export', () => {
	const short = sevctl.encodeChain(platform);
	const full = sevctl.encodeChain({ ...platform, ask, ark });

	it('is PDH, PEK, OCA, CEK, and with --full ASK and ARK behind', () => {
		expect(short).toEqual(join(pdh, pek, oca, cek));
		expect(full).toEqual(join(pdh, pek, oca, cek, ask, ark));
		expect(sevctl.decodeChain(short)).toEqual(platform);
		expect(sevctl.decodeChain(full)).toEqual({ ...platform, ask, ark });
	});

	it('is refused with half of what is above it', () => {
		for (const half of [{ ask }, { ark }]) {
			expect(() => sevctl.encodeChain({ ...platform, ...half })).toThrow(fileError('both ASK and ARK or neither'));
		}
	});

	it('takes a Naples ARK without a signature, in a chain and by itself', () => {
		const bare = { ask, ark: ark.slice(0, 576) };
		expect(sevctl.decodeChain(sevctl.encodeChain({ ...platform, ...bare }))).toEqual({ ...platform, ...bare });
		expect(sevctl.decodeCaChain(sevctl.encodeCaChain(bare))).toEqual(bare);
	});

	it.each([
		['cut short', short.subarray(1), 'expected at least 8336 bytes, got 8335'],
		['in firmware order', join(pek, oca, cek, pdh), 'certificate 1: expected PDH, got usage 0x1002'],
		['with two PDHs', join(pdh, pdh, oca, cek), 'certificate 2: expected PEK, got usage 0x1003'],
		['with two PEKs', join(pdh, pek, pek, cek), 'certificate 3: expected OCA, got usage 0x1002'],
		['without a CEK', join(pdh, pek, oca, oca), 'certificate 4: expected CEK, got usage 0x1001'],
		['with a tail', join(short, Uint8Array.of(0)), 'ASK and ARK: expected 1408 to 3200 bytes, got 1'],
	])('refuses a chain %s', (_, file, message) => {
		expect(() => sevctl.decodeChain(file)).toThrow(fileError(message));
	});
});

describe('sevctl generate', () => {
	const owner = createOca({ provider, random: seededRandom('oca') });
	const files = sevctl.encodeOca(provider, owner);

	it('keeps the certificate and the key in SEC 1 DER', () => {
		expect(files.cert).toEqual(owner.cert);
		expect(toHex(files.key.subarray(0, 8))).toBe('3081a40201010430');
		expect(sevctl.decodeOca(provider, files)).toEqual(owner);
		const pkcs8 = privateKeyToPkcs8(provider, owner.privateKey);
		expect(sevctl.decodeOca(provider, { ...files, key: pkcs8 })).toEqual(owner);
	});

	it('refuses the key of another certificate', () => {
		const key = privateKeyToPkcs8(provider, scalar(0x61));
		expect(() => sevctl.decodeOca(provider, { ...files, key })).toThrow(expect.objectContaining({ code: 'key' }));
	});
});

describe('sevctl measurement', () => {
	const blob = Uint8Array.from({ length: 48 }, (_, i) => i);

	it('is a line of base64, or 48 bytes in a file', () => {
		const line = Buffer.from(blob).toString('base64');
		expect(sevctl.measurementText(blob)).toBe(line);
		for (const form of [line, `${line}\n`, ascii(line), blob]) expect(sevctl.readMeasurement(form)).toEqual(blob);
	});

	it('refuses other lengths', () => {
		expect(() => sevctl.measurementText(blob.subarray(1))).toThrow(fileError('expected 48 bytes, got 47'));
		expect(() => sevctl.readMeasurement('TWFu')).toThrow(fileError('expected 48 bytes, got 3'));
		expect(() => sevctl.readMeasurement(new Uint8Array(32))).toThrow(fileError('expected base64'));
	});
});

describe('sevtool', () => {
	const header = new Uint8Array(52).fill(1);
	const payload = new Uint8Array(16).fill(2);
	const certificates = { ...platform, ask, ark };
	const chain = join(pek, oca, unsignedCek);
	const signed = { signed: pek, oca };
	const cases: readonly (readonly [string, Files, (files: Files) => unknown, unknown, readonly string[]])[] = [
		[
			'launch',
			sevTool.launchFiles(stored),
			sevTool.readLaunchFiles,
			stored,
			['launch_blob.bin', 'godh.cert', 'tmp_tk.bin'],
		],
		[
			'certificates',
			sevTool.certificateFiles(certificates),
			sevTool.readCertificateFiles,
			certificates,
			['pdh.cert', 'pek.cert', 'oca.cert', 'cek.cert', 'ask.cert', 'ark.cert'],
		],
		[
			'export',
			sevTool.exportFiles({ pdh, chain }),
			sevTool.readExportFiles,
			{ pdh, chain },
			['pdh.cert', 'cert_chain.cert'],
		],
		[
			'signed request',
			sevTool.signedCsrFiles(signed),
			sevTool.readSignedCsrFiles,
			signed,
			['pek_csr.signed.cert', 'oca.cert'],
		],
		[
			'secret',
			sevTool.secretFiles({ header, payload }),
			sevTool.readSecretFiles,
			{ header, payload },
			['packaged_secret_header.bin', 'packaged_secret.bin'],
		],
	];

	it.each(cases)('%s: has the files by the names of the tool, and reads them back', (_, files, read, value, names) => {
		expect(Object.keys(files)).toEqual(names);
		expect(read(files)).toEqual(value);
	});

	it.each(cases.flatMap(([what, files, read, , names]) => names.map((name) => ({ what, files, read, name }))))(
		'$what: misses $name',
		({ files, read, name }) => {
			expect(() => read(without(files, name))).toThrow(fileError(`${name}: expected a file, got none`));
		},
	);

	it.each([
		['tmp_tk.bin', sevTool.readLaunchFiles, sevTool.launchFiles(stored), 32],
		['godh.cert', sevTool.readLaunchFiles, sevTool.launchFiles(stored), 2084],
		['launch_blob.bin', sevTool.readLaunchFiles, sevTool.launchFiles(stored), 128],
		['cek.cert', sevTool.readCertificateFiles, sevTool.certificateFiles(certificates), 2084],
		['cert_chain.cert', sevTool.readExportFiles, sevTool.exportFiles({ pdh, chain }), 6252],
		['oca.cert', sevTool.readSignedCsrFiles, sevTool.signedCsrFiles(signed), 2084],
		['packaged_secret_header.bin', sevTool.readSecretFiles, sevTool.secretFiles({ header, payload }), 52],
	])('refuses a %s of another length', (name, read, files, size) => {
		expect(() => read({ ...files, [name]: new Uint8Array(size - 1) })).toThrow(
			fileError(`${name}: expected ${size} bytes, got ${size - 1}`),
		);
	});

	it('puts TEK before TIK', () => {
		expect(sevTool.launchFiles(stored)['tmp_tk.bin']).toEqual(join(stored.keys.tek, stored.keys.tik));
	});

	it('takes names for names, not for what objects have', () => {
		expect(() => sevctl.readSessionFiles({}, '__proto__')).toThrow(fileError('expected a file, got none'));
	});

	it('writes the request as it is', () => {
		expect(sevTool.csrFiles(pek)).toEqual({ 'pek_csr.cert': pek });
		expect(() => sevTool.csrFiles(pek.subarray(1))).toThrow(fileError('expected 2084 bytes'));
	});

	it('writes ids as hex, zeros for a socket that is not there', () => {
		const files = sevTool.idFiles(id);
		expect(text(files['getid_s0_out.txt'])).toBe(toHex(id));
		expect(text(files['getid_s1_out.txt'])).toBe('00'.repeat(64));
		expect(sevTool.readIdFile(files)).toEqual(id);
		const second = id.slice().reverse();
		expect(text(sevTool.idFiles(join(id, second))['getid_s1_out.txt'])).toBe(toHex(second));
		expect(() => sevTool.idFiles(id.subarray(1))).toThrow(fileError('chip id: expected 64 bytes, got 63'));
		expect(() => sevTool.readIdFile({ 'getid_s0_out.txt': ascii('abcd') })).toThrow(fileError('expected 128 hex'));
	});

	it('writes a measurement as bytes and as hex', () => {
		const measure = new Uint8Array(32).fill(0xab);
		const files = sevTool.measurementFiles(measure);
		expect(text(files['calc_measurement_out.txt'])).toBe('ab'.repeat(32));
		expect(sevTool.readMeasurementFile(files)).toEqual(measure);
		expect(() => sevTool.measurementFiles(new Uint8Array(48))).toThrow(fileError('expected 32 bytes, got 48'));
	});
});

describe('the arguments of --calc_measurement', () => {
	// The example of AMDESE/sev-tool `readme.md`.
	const args = [
		...['04', '00', '12', '0f', '0'],
		'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
		'4fbe0bedbad6c86ae8f68971d103e554',
		'66320db73158a35a255d051758e95ed4',
	];
	const changed = (index: number, value: string) => args.map((arg, i) => (i === index ? value : arg));

	it('are hex numbers and bytes in the order of the tool', () => {
		const input = sevTool.parseMeasurementArguments(args);
		expect(input).toMatchObject({ version: { major: 0, minor: 18, build: 15 }, policy: 0 });
		expect(toHex(input.tik)).toBe(args[7]);
		expect(sevTool.measurementArguments(input)).toEqual(args);
		expect(sevTool.parseMeasurementArguments(changed(4, '0xFF000001')).policy).toBe(0xff000001);
	});

	it.each([
		[args.slice(1), 'expected 8 arguments, got 7'],
		[[...args, '0'], 'expected 8 arguments, got 9'],
		[changed(0, '01'), 'context: expected 04, got 01'],
		[changed(1, '100'), 'API major: expected hex up to ff, got 100'],
		[changed(2, '-1'), 'API minor: expected hex up to ff, got -1'],
		[changed(3, ''), 'build: expected hex up to ff, got '],
		[changed(4, '100000000'), 'policy: expected hex up to ffffffff, got 100000000'],
		[changed(5, 'e3'), 'digest: expected 64 hex digits, got 2 characters'],
		[changed(6, 'zz'.repeat(16)), 'nonce: expected 32 hex digits, got 32 characters'],
		[changed(7, '66'), 'TIK: expected 32 hex digits, got 2 characters'],
	])('are refused if one does not fit (%#)', (bad, message) => {
		expect(() => sevTool.parseMeasurementArguments(bad)).toThrow(fileError(message));
	});
});
