import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, scalar } from '../../test/fake-platform.js';
import { Status } from '../abi/status.js';
import { fakeArk, fakeAsk } from '../fake-amd/index.js';
import { asKey } from './amd-certificate.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	certKeyOf,
	checkDhCertificate,
	readSevCertificate,
	SEV_CERT_BODY_SIZE,
	SEV_CERT_SIZE,
	sevCertificate,
	sevEcPublicKey,
	signSevCertificate,
	verifySevCertificate,
} from './sev-certificate.js';

const provider = nodeProvider;
const platform = fakePlatform(provider);
const version = { major: 0, minor: 24 };
const unsigned = (usage: number, algo: number = CertAlgo.ECDSA_SHA256) =>
	buildSevCertificate({ version, usage, algo, key: provider.p384.publicKey(scalar(0x21)) });
const verify = (cert: Uint8Array, signer: Uint8Array) => verifySevCertificate(provider, cert, certKeyOf(signer));
const patched = (cert: Uint8Array, change: Parameters<typeof sevCertificate.patch>[1]) => {
	const out = cert.slice();
	sevCertificate.patch(out, change);
	return out;
};

describe('buildSevCertificate', () => {
	it('writes key coordinates little-endian in 72-byte fields and leaves both slots empty (SEV API App. C)', () => {
		const { x, y } = provider.p384.publicKey(scalar(0x21));
		const cert = unsigned(CertUsage.PEK);
		expect(cert).toHaveLength(2084);
		expect(toHex(cert.subarray(0, 20))).toBe('01000000 00 18 0000 02100000 02000000 02000000'.replaceAll(' ', ''));
		expect(cert.slice(20, 68).reverse()).toEqual(x);
		expect(cert.subarray(68, 92).every((b) => b === 0)).toBe(true);
		expect(cert.slice(92, 140).reverse()).toEqual(y);
		expect(cert.subarray(140, 0x414).every((b) => b === 0)).toBe(true);
		for (const at of [0x414, 0x61c]) {
			expect(toHex(cert.subarray(at, at + 8))).toBe('0010000000000000');
			expect(cert.subarray(at + 8, at + 520).every((b) => b === 0)).toBe(true);
		}
	});

	it('is read back as it was built', () => {
		expect(readSevCertificate(unsigned(CertUsage.OCA))).toMatchObject({
			version: 1,
			apiMajor: 0,
			apiMinor: 24,
			usage: CertUsage.OCA,
			algo: CertAlgo.ECDSA_SHA256,
			publicKey: provider.p384.publicKey(scalar(0x21)),
			slots: [
				{ usage: CertUsage.INVALID, algo: 0 },
				{ usage: CertUsage.INVALID, algo: 0 },
			],
		});
	});
});

describe('signing', () => {
	it('fills slot 1, then slot 2, then refuses', () => {
		const cert = unsigned(CertUsage.PEK);
		signSevCertificate(provider, cert, platform.signers.oca);
		signSevCertificate(provider, cert, platform.signers.cek);
		expect(readSevCertificate(cert).slots.map((s) => s.usage)).toEqual([CertUsage.OCA, CertUsage.CEK]);
		const full = cert.slice();
		expect(() => signSevCertificate(provider, cert, platform.signers.oca)).toThrow('expected an empty signature slot');
		expect(addSignature(cert, { usage: 1, algo: 1, signature: new Uint8Array(512) })).toBe(false);
		expect(cert).toEqual(full);
	});

	it.each([
		['usage', { sig1Usage: CertUsage.OCA }, CertUsage.OCA],
		['algorithm', { sig1Algo: CertAlgo.ECDSA_SHA256 }, CertUsage.INVALID],
	])('passes over a slot that has only an %s', (_, change, first) => {
		const cert = patched(unsigned(CertUsage.PEK), change);
		signSevCertificate(provider, cert, platform.signers.cek);
		expect(readSevCertificate(cert).slots.map((s) => s.usage)).toEqual([first, CertUsage.CEK]);
	});

	it('changes no byte of the body', () => {
		const before = unsigned(CertUsage.PDH, CertAlgo.ECDH_SHA256);
		const after = before.slice();
		signSevCertificate(provider, after, platform.signers.pek);
		expect(after.subarray(0, SEV_CERT_BODY_SIZE)).toEqual(before.subarray(0, SEV_CERT_BODY_SIZE));
	});

	it('refuses a signer whose key is for key agreement', () => {
		const signer = { usage: CertUsage.PDH, algo: CertAlgo.ECDH_SHA256, privateKey: platform.keys.pdh };
		expect(() => signSevCertificate(provider, unsigned(CertUsage.PDH), signer)).toThrow('expected an ECDSA algorithm');
	});
});

describe('verifySevCertificate', () => {
	it('accepts each certificate under each of its signers', () => {
		const { oca, pek, pdh, cek } = platform;
		expect(verify(oca, oca)).toBe(Status.SUCCESS);
		expect(verify(pek, oca)).toBe(Status.SUCCESS);
		expect(verify(pek, cek)).toBe(Status.SUCCESS);
		expect(verify(pdh, pek)).toBe(Status.SUCCESS);
		expect(verifySevCertificate(provider, cek, asKey(fakeAsk))).toBe(Status.SUCCESS);
	});

	it('takes the hash from the signer: SHA-384 under an ECDSA-SHA384 key', () => {
		const owner = { usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA384, privateKey: scalar(0x21) };
		const oca = unsigned(CertUsage.OCA, CertAlgo.ECDSA_SHA384);
		signSevCertificate(provider, oca, owner);
		expect(verify(oca, oca)).toBe(Status.SUCCESS);
		const lying = patched(oca, { algo: CertAlgo.ECDSA_SHA256, sig1Algo: CertAlgo.ECDSA_SHA256 });
		expect(verify(lying, lying)).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses with BAD_SIGNATURE whichever byte of the signed body has a bit flipped', () => {
		const signer = certKeyOf(platform.pek);
		for (let byte = 0; byte < SEV_CERT_BODY_SIZE; byte++) {
			const status = verifySevCertificate(provider, flipBit(platform.pdh, byte * 8 + (byte % 8)), signer);
			if (status !== Status.BAD_SIGNATURE) expect.fail(`byte ${byte}: status ${status}`);
		}
	}, 60_000);

	test.prop([fc.nat({ max: 2 * 72 * 8 - 1 })])('refuses any flipped bit of an ECDSA signature', (bit) => {
		expect(verify(flipBit(platform.pdh, 0x41c * 8 + bit), platform.pek)).toBe(Status.BAD_SIGNATURE);
	});

	test.prop([fc.nat({ max: 256 * 8 - 1 })])('refuses any flipped bit of an RSA signature', (bit) => {
		const cek = flipBit(platform.cek, 0x41c * 8 + bit);
		expect(verifySevCertificate(provider, cek, asKey(fakeAsk))).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses an ECDSA signature of zeros, which lies outside [1, n − 1]', () => {
		expect(verify(patched(platform.pdh, { sig1: new Uint8Array(512) }), platform.pek)).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses a certificate that carries no signature of the signer', () => {
		expect(verify(platform.unsignedCek, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifySevCertificate(provider, platform.unsignedCek, asKey(fakeAsk))).toBe(Status.INVALID_CERTIFICATE);
		expect(verify(platform.pdh, platform.oca)).toBe(Status.INVALID_CERTIFICATE);
	});

	it('skips a slot whose usage fits and whose algorithm does not', () => {
		const pdh = patched(platform.pdh, { sig1Algo: CertAlgo.ECDSA_SHA384 });
		expect(verify(pdh, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
	});

	it.each([
		['usage', { sig1Usage: CertUsage.INVALID }],
		['algorithm', { sig1Algo: CertAlgo.INVALID }],
		['usage of slot 2', { sig2Algo: CertAlgo.ECDSA_SHA256 }],
		['algorithm of slot 2', { sig2Usage: CertUsage.PEK }],
	])('answers BAD_SIGNATURE for a slot that is half empty: %s', (_, change) => {
		expect(verify(patched(platform.pdh, change), platform.pek)).toBe(Status.BAD_SIGNATURE);
	});

	it('lets the last matching slot decide, in both directions', () => {
		const { sig1, sig1Usage, sig1Algo } = sevCertificate.decode(platform.pdh);
		const bad = new Uint8Array(512).fill(1);
		const both = { sig1Usage, sig1Algo, sig2Usage: sig1Usage, sig2Algo: sig1Algo };
		expect(verify(patched(platform.pdh, { ...both, sig1: bad, sig2: sig1 }), platform.pek)).toBe(Status.SUCCESS);
		expect(verify(patched(platform.pdh, { ...both, sig1, sig2: bad }), platform.pek)).toBe(Status.BAD_SIGNATURE);
	});

	it('answers UNSUPPORTED for a signature said to be made by a Diffie-Hellman key', () => {
		const pdh = patched(platform.pdh, { sig1Usage: CertUsage.PDH, sig1Algo: CertAlgo.ECDH_SHA256 });
		expect(verify(pdh, platform.pdh)).toBe(Status.UNSUPPORTED);
	});

	it('looks at the body only after the signature', () => {
		const cert = patched(unsigned(CertUsage.PDH), { version: 2 });
		signSevCertificate(provider, cert, platform.signers.pek);
		expect(verify(cert, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
		const andBadlySigned = flipBit(cert, 0x41c * 8);
		expect(verify(andBadlySigned, platform.pek)).toBe(Status.BAD_SIGNATURE);
	});

	it.each([
		['P-256', { curve: 1 }],
		['a point off the curve', { qx: new Uint8Array(72).fill(5, 0, 48) }],
		['the point (0, 0)', { qx: new Uint8Array(72), qy: new Uint8Array(72) }],
		['a coordinate of more than 48 bytes', { qy: new Uint8Array(72).fill(1) }],
	])('refuses a well-signed certificate whose own key is malformed: %s', (_, change) => {
		const cert = unsigned(CertUsage.PDH);
		const area = cert.slice(0x10, 0x414);
		sevEcPublicKey.patch(area, change);
		cert.set(area, 0x10);
		signSevCertificate(provider, cert, platform.signers.pek);
		expect(verify(cert, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifySevCertificate(provider, platform.pdh, certKeyOf(cert))).toBe(Status.INVALID_CERTIFICATE);
	});

	it.each([
		['unknown usage', { usage: 0x1005 }],
		['no usage', { usage: CertUsage.INVALID }],
		['no algorithm', { algo: CertAlgo.INVALID }],
		['an RSA algorithm', { algo: CertAlgo.RSA_SHA256 }],
	])('refuses a well-signed certificate with %s', (_, change) => {
		const cert = patched(unsigned(CertUsage.PDH), change);
		signSevCertificate(provider, cert, platform.signers.pek);
		expect(verify(cert, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
	});

	const roles = Object.entries({ OCA: CertUsage.OCA, PEK: CertUsage.PEK, PDH: CertUsage.PDH, CEK: CertUsage.CEK });
	const allowed = ['OCA by OCA', 'PEK by OCA', 'PEK by CEK', 'PDH by PEK'];
	it.each(
		roles.flatMap(([subject, usage]) =>
			roles.map(([signer, signerUsage]) => ({ title: `${subject} by ${signer}`, usage, signerUsage })),
		),
	)('knows whether a role may sign another: $title', ({ title, usage, signerUsage }) => {
		const cert = unsigned(usage);
		signSevCertificate(provider, cert, { ...platform.signers.pek, usage: signerUsage });
		const signer = { usage: signerUsage, algo: CertAlgo.ECDSA_SHA256, key: provider.p384.publicKey(platform.keys.pek) };
		const expected = allowed.includes(title) ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
		expect(verifySevCertificate(provider, cert, signer)).toBe(expected);
	});

	it('refuses a signer that is missing, of unknown usage, off the curve, or no possible RSA key', () => {
		const signer = certKeyOf(platform.pek);
		if (signer === undefined) return expect.fail('the PEK has a key');
		const off = { ...signer, key: { ...signer.key, y: scalar(1) } };
		const ask = asKey(fakeAsk);
		if (ask === undefined) return expect.fail('the ASK has a key');
		const even = { ...ask, key: { ...ask.key, modulus: flipBit(ask.key.modulus, 255 * 8) } };
		const zero = { ...ask, key: { ...ask.key, modulus: new Uint8Array(256) } };
		const huge = { ...ask, key: { ...ask.key, modulus: new Uint8Array(1024).fill(255) } };
		const mistyped = { ...ask, algo: CertAlgo.ECDSA_SHA256 };
		for (const bad of [undefined, { ...signer, usage: 0x2000 }, off]) {
			expect(verifySevCertificate(provider, platform.pdh, bad)).toBe(Status.INVALID_CERTIFICATE);
		}
		for (const exponent of [[], [0], [1], [2], new Array(9).fill(255)]) {
			const bad = { ...ask, key: { ...ask.key, exponent: Uint8Array.from(exponent) } };
			expect(verifySevCertificate(provider, platform.cek, bad)).toBe(Status.INVALID_CERTIFICATE);
		}
		for (const bad of [even, zero, huge]) {
			expect(verifySevCertificate(provider, platform.cek, bad)).toBe(Status.INVALID_CERTIFICATE);
		}
		const cek = patched(platform.cek, { sig1Algo: CertAlgo.ECDSA_SHA256 });
		expect(verifySevCertificate(provider, cek, mistyped)).toBe(Status.INVALID_CERTIFICATE);
	});

	test.prop([fc.nat({ max: 2 * SEV_CERT_SIZE })])('refuses a certificate of another length', (length) => {
		const cert = new Uint8Array(length);
		cert.set(platform.pdh.subarray(0, length));
		const expected = length === SEV_CERT_SIZE ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
		expect(verify(cert, platform.pek)).toBe(expected);
	});

	test.prop([fc.uint8Array({ minLength: SEV_CERT_SIZE, maxLength: SEV_CERT_SIZE })])(
		'answers a status for any bytes, as certificate and as signer',
		(noise) => {
			expect(verify(noise, platform.pek)).not.toBe(Status.SUCCESS);
			expect(verify(platform.pdh, noise)).toBe(Status.INVALID_CERTIFICATE);
			expect(checkDhCertificate(provider, noise)).toBe(Status.INVALID_CERTIFICATE);
		},
	);
});

describe('checkDhCertificate', () => {
	it('accepts a PDH, signed or not, whoever signed it', () => {
		expect(checkDhCertificate(provider, platform.pdh)).toBe(Status.SUCCESS);
		expect(checkDhCertificate(provider, unsigned(CertUsage.PDH, CertAlgo.ECDH_SHA256))).toBe(Status.SUCCESS);
		expect(checkDhCertificate(provider, flipBit(platform.pdh, 0x41c * 8))).toBe(Status.SUCCESS);
	});

	it.each([
		['another version', { version: 2 }],
		['another usage', { usage: CertUsage.PEK }],
		['an algorithm for signing', { algo: CertAlgo.ECDSA_SHA256 }],
		['ECDH with SHA-384', { algo: CertAlgo.ECDH_SHA384 }],
		['no key', { publicKey: new Uint8Array(1028) }],
	])('refuses %s', (_, change) => {
		expect(checkDhCertificate(provider, patched(platform.pdh, change))).toBe(Status.INVALID_CERTIFICATE);
	});

	it('refuses other lengths and other certificates', () => {
		expect(checkDhCertificate(provider, platform.pdh.subarray(1))).toBe(Status.INVALID_CERTIFICATE);
		expect(checkDhCertificate(provider, platform.pek)).toBe(Status.INVALID_CERTIFICATE);
		expect(checkDhCertificate(provider, fakeArk)).toBe(Status.INVALID_CERTIFICATE);
	});
});
