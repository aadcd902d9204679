/** Two things wrong at once: which one is answered is the firmware's order, wherever the statuses tell them apart. */
import { nodeProvider } from '@cvm/crypto/node';
import { fromHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, scalar } from '../../test/fake-platform.js';
import { Status } from '../abi/status.js';
import { FAKE_ASK_KEY, fakeAsk } from '../fake-amd/index.js';
import { asKey } from './amd-certificate.js';
import { toLittleEndian } from './byte-order.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	certKeyOf,
	SEV_CERT_BODY_SIZE,
	sevCertificate,
	signSevCertificate,
	verifySevCertificate,
} from './sev-certificate.js';

const provider = nodeProvider;
const { pek, pdh, signers, keys } = fakePlatform(provider);
const patched = (cert: Uint8Array, change: Parameters<typeof sevCertificate.patch>[1]) => {
	const out = cert.slice();
	sevCertificate.patch(out, change);
	return out;
};
const signer = certKeyOf(pek);
const verify = (cert: Uint8Array, key = signer) => verifySevCertificate(provider, cert, key);
const halfEmpty = { sig2Usage: CertUsage.PEK, sig2Algo: CertAlgo.INVALID };
const badSignature = flipBit(pdh, 8 * 0x41c);
const pdhOf = (change: Parameters<typeof sevCertificate.patch>[1]) => {
	const cert = buildSevCertificate({
		version: { major: 0, minor: 24 },
		usage: CertUsage.PDH,
		algo: CertAlgo.ECDH_SHA256,
		key: provider.p384.publicKey(keys.pdh),
	});
	sevCertificate.patch(cert, change);
	signSevCertificate(provider, cert, signers.pek);
	return cert;
};

describe('the order of the checks on a SEV certificate', () => {
	it('asks first whether the signer has a key: then a bad signature or slot is not seen', () => {
		for (const cert of [badSignature, patched(pdh, halfEmpty), pdh]) {
			expect(verifySevCertificate(provider, cert, undefined)).toBe(Status.INVALID_CERTIFICATE);
		}
	});

	it('refuses a half empty slot before it knows whether any slot is the signer’s', () => {
		const noneFits = { sig1Usage: CertUsage.OCA, ...halfEmpty };
		expect(verify(patched(pdh, { sig1Usage: CertUsage.OCA }))).toBe(Status.INVALID_CERTIFICATE);
		expect(verify(patched(pdh, noneFits))).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses a half empty first slot although the second is good', () => {
		const { sig1 } = sevCertificate.decode(pdh);
		const second = { sig2Usage: CertUsage.PEK, sig2Algo: CertAlgo.ECDSA_SHA256, sig2: sig1 };
		const none = { sig1Usage: CertUsage.INVALID, sig1Algo: CertAlgo.INVALID };
		expect(verify(patched(pdh, { ...second, ...none }))).toBe(Status.SUCCESS);
		expect(verify(patched(pdh, { ...second, sig1Usage: CertUsage.INVALID }))).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses a half empty second slot before a Diffie-Hellman signer', () => {
		const claimed = patched(pdh, { sig1Usage: CertUsage.PDH, sig1Algo: CertAlgo.ECDH_SHA256 });
		expect(verify(claimed, certKeyOf(pdh))).toBe(Status.UNSUPPORTED);
		expect(verify(patched(claimed, halfEmpty), certKeyOf(pdh))).toBe(Status.BAD_SIGNATURE);
	});

	it.each([
		['version', { version: 2 }],
		['role', { usage: CertUsage.CEK }],
		['algorithm', { algo: CertAlgo.INVALID }],
	])('looks at the signature before the %s', (_, change) => {
		const cert = pdhOf(change);
		expect(verify(cert)).toBe(Status.INVALID_CERTIFICATE);
		expect(verify(flipBit(cert, 8 * 0x41c))).toBe(Status.BAD_SIGNATURE);
	});
});

describe('what a signature may be', () => {
	const order = fromHex(
		'ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973',
	);
	const signature = sevCertificate.decode(pdh).sig1;
	const withInteger = (at: number, integer: Uint8Array) => {
		const sig1 = signature.slice();
		sig1.set(toLittleEndian(integer, 72), at);
		return patched(pdh, { sig1 });
	};

	it.each([
		['r = 0', withInteger(0, new Uint8Array(48))],
		['s = 0', withInteger(72, new Uint8Array(48))],
		['r = n', withInteger(0, order)],
		['s = n', withInteger(72, order)],
		['r of more than 48 bytes', withInteger(0, new Uint8Array(49).fill(1))],
		['s of more than 48 bytes', withInteger(72, new Uint8Array(49).fill(1))],
	])('answers BAD_SIGNATURE for %s', (_, cert) => {
		expect(verify(cert)).toBe(Status.BAD_SIGNATURE);
	});

	it.each(['OCA', 'PEK', 'PDH', 'ASK', 'ARK'] as const)('the manufacturer’s signing key signs no %s', (role) => {
		const certified = (usage: number) => {
			const key = provider.p384.publicKey(scalar(0x21));
			const version = { major: 0, minor: 24 };
			const cert = buildSevCertificate({ version, usage, algo: CertAlgo.ECDSA_SHA256, key });
			const body = cert.subarray(0, SEV_CERT_BODY_SIZE);
			const made = provider.rsaPss.sign(FAKE_ASK_KEY, body, 'sha256', new Uint8Array(32));
			const slot = { usage: CertUsage.ASK, algo: CertAlgo.RSA_SHA256, signature: toLittleEndian(made, 512) };
			expect(addSignature(cert, slot)).toBe(true);
			return verifySevCertificate(provider, cert, asKey(fakeAsk));
		};
		expect(certified(CertUsage.CEK)).toBe(Status.SUCCESS);
		expect(certified(CertUsage[role])).toBe(Status.INVALID_CERTIFICATE);
	});
});
