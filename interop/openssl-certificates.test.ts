import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { nobleProvider, seededRandom } from '@cvm/crypto';
import { createKeyServer, fakeArk, fakeAsk } from '@cvm/sev-hw/fake-amd';
import { createOca, privateKeyFromDer, privateKeyToPkcs8, privateKeyToSec1, signPekCsr } from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { amdParts, sevParts } from './certificates.js';
import { ecdsaSignature, openssl, reversed, verifies, verifiesPss } from './openssl.js';
import { sevPlatform } from './platform.js';

const PEK = 0x1002;
const flipped = (data: Uint8Array) => data.map((byte, i) => (i === 8 ? byte ^ 1 : byte));

/** Says both: that a signature is good, and that it is not one of a body with another bit. */
function expectEcdsa(signer: Uint8Array, signature: Uint8Array, body: Uint8Array): void {
	expect(verifies('sha256', signer, signature, body)).toBe(true);
	expect(verifies('sha256', signer, signature, flipped(body))).toBe(false);
}

function expectPss(hash: 'sha256' | 'sha384', signer: Uint8Array, signature: Uint8Array, body: Uint8Array): void {
	expect(verifiesPss(hash, signer, signature, body)).toBe(true);
	expect(verifiesPss(hash, signer, signature, flipped(body))).toBe(false);
}

describe("OpenSSL on this model's certificates", () => {
	const platform = sevPlatform('openssl');
	const { pdh, pek, oca, cek } = platform.certificates();
	const [pekSlot1, pekSlot2] = sevParts(pek).slots;

	it('ARK and ASK are signed by the ARK', () => {
		for (const cert of [fakeArk, fakeAsk]) {
			const { body, signature } = amdParts(cert);
			expectPss('sha256', amdParts(fakeArk).publicKey, signature, body);
		}
	});

	it('the CEK is signed by the ASK', () => {
		const { body, slots } = sevParts(createKeyServer(nobleProvider).cek(platform.chipId()));
		expectPss('sha256', amdParts(fakeAsk).publicKey, slots[0].rsa(256), body);
	});

	it('the OCA is signed by itself', () => {
		const { publicKey, slots, body } = sevParts(oca);
		expectEcdsa(publicKey, slots[0].ecdsa, body);
	});

	it('the PEK is signed by the OCA and by the CEK', () => {
		expectEcdsa(sevParts(oca).publicKey, pekSlot1.ecdsa, sevParts(pek).body);
		expectEcdsa(sevParts(cek).publicKey, pekSlot2.ecdsa, sevParts(pek).body);
	});

	it('the PDH is signed by the PEK', () => {
		expectEcdsa(sevParts(pek).publicKey, sevParts(pdh).slots[0].ecdsa, sevParts(pdh).body);
	});

	it('the signing request has the body of the PEK, and an owner signs it', () => {
		const csr = platform.csr();
		expect(sevParts(csr).body).toEqual(sevParts(pek).body);
		const owner = createOca({ provider: nobleProvider, random: seededRandom('owner') });
		const ownerKey = sevParts(owner.cert).publicKey;
		expectEcdsa(ownerKey, sevParts(owner.cert).slots[0].ecdsa, sevParts(owner.cert).body);
		const signed = sevParts(signPekCsr({ provider: nobleProvider, csr, oca: owner }));
		expectEcdsa(ownerKey, signed.slots[0].ecdsa, signed.body);
		expect(signed.slots[1]).toMatchObject({ usage: 0x1000, algo: 0 });
	});

	it('an attestation report is signed by the PEK', () => {
		const report = platform.attestation(Uint8Array.from({ length: 16 }, (_, i) => i));
		const signature = ecdsaSignature(reversed(report.subarray(0x40, 0x70)), reversed(report.subarray(0x88, 0xb8)));
		expect(new DataView(report.buffer).getUint32(0x34, true)).toBe(PEK);
		expectEcdsa(sevParts(pek).publicKey, signature, report.slice(0, 0x34));
	});
});

describe("an owner's key in OpenSSL's files", () => {
	const owner = createOca({ provider: nobleProvider, random: seededRandom('owner') });

	it.each([
		['SEC 1', privateKeyToSec1(nobleProvider, owner.privateKey)],
		['PKCS #8', privateKeyToPkcs8(nobleProvider, owner.privateKey)],
	])('is consistent in %s, and the key of the certificate', (_, key) => {
		const checked = openssl(['pkey', '-inform', 'DER', '-check', '-noout'], key);
		expect(Buffer.from(checked).toString()).toContain('Key is valid');
		const publicKey = openssl(['pkey', '-inform', 'DER', '-pubout'], key);
		expect(Buffer.from(publicKey).toString()).toBe(Buffer.from(sevParts(owner.cert).publicKey).toString());
	});

	it('is read from a key that OpenSSL made, in both forms', () => {
		const sec1 = openssl(['ecparam', '-name', 'secp384r1', '-genkey', '-noout', '-outform', 'DER']);
		const pkcs8 = openssl(['pkcs8', '-topk8', '-nocrypt', '-inform', 'DER', '-outform', 'DER'], sec1);
		const key = privateKeyFromDer(nobleProvider, sec1);
		expect(privateKeyFromDer(nobleProvider, pkcs8)).toEqual(key);
		expect(privateKeyToSec1(nobleProvider, key)).toEqual(sec1);
		expect(privateKeyToPkcs8(nobleProvider, key)).toEqual(pkcs8);
	});
});

const data = process.env['CVM_PUBLIC_DATA'] ?? '';
const read = (...path: string[]) => Uint8Array.from(readFileSync(join(data, 'sev', ...path)));

describe.runIf(existsSync(join(data, 'sev', 'roots')))("OpenSSL on AMD's certificates (needs CVM_PUBLIC_DATA)", () => {
	it.each(['naples', 'rome', 'milan', 'genoa', 'turin'])('%s: ARK and ASK are signed by the ARK', (product) => {
		const ark = amdParts(read('roots', `${product}-ark.cert`));
		const ask = amdParts(read('roots', `${product}-ask.cert`));
		expect(ark.hash).toBe(product === 'naples' ? 'sha256' : 'sha384');
		for (const { body, signature } of [ark, ask]) expectPss(ark.hash, ark.publicKey, signature, body);
	});

	it('Naples: CEK by ASK, PEK by OCA and CEK, OCA by itself, PDH by PEK', () => {
		const [cek, oca, pek, pdh] = ['cek', 'oca', 'pek', 'pdh'].map((name) => sevParts(read('naples', `${name}.cert`)));
		if (!cek || !oca || !pek || !pdh) return expect.fail('four certificates');
		expectPss('sha256', amdParts(read('roots', 'naples-ask.cert')).publicKey, cek.slots[0].rsa(256), cek.body);
		expectEcdsa(oca.publicKey, oca.slots[0].ecdsa, oca.body);
		expectEcdsa(oca.publicKey, pek.slots[0].ecdsa, pek.body);
		expectEcdsa(cek.publicKey, pek.slots[1].ecdsa, pek.body);
		expectEcdsa(pek.publicKey, pdh.slots[0].ecdsa, pdh.body);
	});
});
