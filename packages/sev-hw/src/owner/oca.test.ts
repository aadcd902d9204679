import { nobleProvider, seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, scalar } from '../../test/fake-platform.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	certKeyOf,
	readSevCertificate,
	sevCertificate,
	signSevCertificate,
	verifySevCertificate,
} from '../certificates/sev-certificate.js';
import { createOca, type Oca, ocaFromPrivateKey, Status, signPekCsr } from './index.js';

const provider = nobleProvider;
const { pek } = fakePlatform(provider);
const empty = new Uint8Array(512);
const patched = (cert: Uint8Array, change: Parameters<typeof sevCertificate.patch>[1]) => {
	const out = cert.slice();
	sevCertificate.patch(out, change);
	return out;
};
/** What PEK_CSR writes: the body of the PEK certificate, both slots empty. */
const csr = patched(pek, { sig1Usage: 0x1000, sig1Algo: 0, sig1: empty, sig2Usage: 0x1000, sig2Algo: 0, sig2: empty });
const oca = createOca({ provider, random: seededRandom('owner') });
const refusal = (code: string, message: string) =>
	expect.objectContaining({ name: 'OwnerError', code, message: expect.stringContaining(message) });

describe('createOca', () => {
	it('makes a key and a certificate that signed itself, as every firmware would check it', () => {
		expect(verifySevCertificate(nodeProvider, oca.cert, certKeyOf(oca.cert))).toBe(Status.SUCCESS);
		expect(readSevCertificate(oca.cert)).toMatchObject({
			version: 1,
			apiMajor: 0,
			apiMinor: 0,
			usage: CertUsage.OCA,
			algo: CertAlgo.ECDSA_SHA256,
			publicKey: provider.p384.publicKey(oca.privateKey),
			slots: [{ usage: CertUsage.OCA }, { usage: CertUsage.INVALID, algo: 0 }],
		});
	});

	it('gives another owner for other randomness, and the version that was asked for', () => {
		const other = createOca({ provider, random: seededRandom('another'), version: { major: 1, minor: 55 } });
		expect(other.privateKey).not.toEqual(oca.privateKey);
		expect(readSevCertificate(other.cert)).toMatchObject({ apiMajor: 1, apiMinor: 55 });
	});
});

describe('ocaFromPrivateKey', () => {
	it('makes the certificate of a key that exists, and keeps a copy of the key', () => {
		const privateKey = scalar(0x31);
		const made = ocaFromPrivateKey(provider, privateKey);
		privateKey.fill(0);
		expect(made.privateKey).toEqual(scalar(0x31));
		expect(readSevCertificate(made.cert).publicKey).toEqual(provider.p384.publicKey(scalar(0x31)));
	});

	it.each([
		['zero', new Uint8Array(48)],
		['more than the order', scalar(0xff)],
		['47 bytes', scalar(1).subarray(1)],
		['49 bytes', new Uint8Array(49).fill(1)],
	])('refuses a key of %s', (_, key) => {
		expect(() => ocaFromPrivateKey(provider, key)).toThrow(refusal('key', 'OCA key: expected a P-384 scalar'));
	});
});

describe('signPekCsr', () => {
	it('signs a copy in slot 1 and leaves slot 2 for the CEK', () => {
		const before = csr.slice();
		const signed = signPekCsr({ provider, csr, oca });
		expect(csr).toEqual(before);
		expect(signed.subarray(0, 0x414)).toEqual(csr.subarray(0, 0x414));
		expect(signed.subarray(0x61c)).toEqual(csr.subarray(0x61c));
		expect(readSevCertificate(signed).slots[0]).toMatchObject({ usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA256 });
		expect(verifySevCertificate(nodeProvider, signed, certKeyOf(oca.cert))).toBe(Status.SUCCESS);
	});

	it('signs with SHA-384 for an owner whose certificate says so', () => {
		const privateKey = scalar(0x32);
		const algo = CertAlgo.ECDSA_SHA384;
		const key = provider.p384.publicKey(privateKey);
		const cert = buildSevCertificate({ version: { major: 0, minor: 0 }, usage: CertUsage.OCA, algo, key });
		signSevCertificate(provider, cert, { usage: CertUsage.OCA, algo, privateKey });
		const signed = signPekCsr({ provider, csr, oca: { cert, privateKey } });
		expect(verifySevCertificate(nodeProvider, signed, certKeyOf(cert))).toBe(Status.SUCCESS);
	});

	it.each([
		['another length', csr.subarray(1), 'expected 2084 bytes, got 2083'],
		['another version', patched(csr, { version: 2 }), 'expected version 1'],
		['another role', patched(csr, { usage: CertUsage.PDH }), 'expected version 1'],
		['another algorithm', patched(csr, { algo: CertAlgo.ECDSA_SHA384 }), 'expected version 1'],
		['a point off the curve', flipBit(csr, 8 * 0x14), 'expected version 1'],
		['a taken slot 1', patched(csr, { sig1Usage: CertUsage.OCA, sig1Algo: 2 }), 'two empty signature slots'],
		['a taken slot 2', patched(csr, { sig2Usage: CertUsage.CEK, sig2Algo: 2 }), 'two empty signature slots'],
		['a half empty slot', patched(csr, { sig2Algo: 2 }), 'two empty signature slots'],
		['bytes in an empty slot', flipBit(csr, 8 * 0x700), 'two empty signature slots'],
	])('refuses a request with %s', (_, bad, message) => {
		expect(() => signPekCsr({ provider, csr: bad, oca })).toThrow(refusal('csr', message));
	});

	const mirrored = (): Oca => {
		// n − 1 and 1 share an x: only y tells them apart.
		const one = new Uint8Array(48);
		one[47] = 1;
		const order = 'ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52972';
		const privateKey = Uint8Array.from({ length: 48 }, (_, i) => Number.parseInt(order.slice(2 * i, 2 * i + 2), 16));
		return { cert: ocaFromPrivateKey(provider, one).cert, privateKey };
	};
	it.each<[string, () => Oca, string]>([
		['another key', () => ({ ...oca, privateKey: scalar(0x33) }), 'got another one'],
		['the negative of its key', mirrored, 'got another one'],
		['no key', () => ({ ...oca, privateKey: new Uint8Array(48) }), 'got another one'],
		['a short key', () => ({ ...oca, privateKey: scalar(1).subarray(1) }), 'got another one'],
		['a PEK for a certificate', () => ({ ...oca, cert: pek }), 'expected a self-signed OCA'],
		['a broken signature', () => ({ ...oca, cert: flipBit(oca.cert, 8 * 0x41c) }), 'got BAD_SIGNATURE'],
		['a short certificate', () => ({ ...oca, cert: oca.cert.subarray(1) }), 'got INVALID_CERTIFICATE'],
	])('refuses an owner with %s', (_, bad, message) => {
		expect(() => signPekCsr({ provider, csr, oca: bad() })).toThrow(refusal('key', message));
	});

	it('gives what the firmware needs: its CEK signature still fits', () => {
		const signed = signPekCsr({ provider, csr, oca });
		const cekSlot = readSevCertificate(pek).slots[1];
		expect(addSignature(signed, cekSlot)).toBe(true);
		expect(readSevCertificate(signed).slots.map((s) => s.usage)).toEqual([CertUsage.OCA, CertUsage.CEK]);
		const { cek } = fakePlatform(provider);
		expect(verifySevCertificate(provider, signed, certKeyOf(cek))).toBe(Status.SUCCESS);
	});
});
