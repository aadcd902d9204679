import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, join } from '../../test/fake-platform.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, PRODUCTS, publicFile } from '../../test/public-data.js';
import { Status } from '../abi/status.js';
import {
	asKey,
	readAmdCertificate,
	splitAmdCertificates,
	verifyArk,
	verifyAsk,
} from '../certificates/amd-certificate.js';
import { verifyPlatformChain } from '../certificates/chain.js';
import { CertAlgo, CertUsage, readSevCertificate, verifySevCertificate } from '../certificates/sev-certificate.js';
import { AMD_ROOTS } from '../owner/amd-roots.js';
import { chipIdentity } from './chip.js';
import { createKeyServer, signCek } from './key-server.js';
import { FAKE_ARK_KEY, FAKE_ASK_KEY } from './published-keys.js';
import { fakeArk, fakeAsk } from './roots.js';

const provider = nodeProvider;
const ascii = (data: Uint8Array) => String.fromCharCode(...data);
const fakeChain = fakePlatform(provider);
const fakeFingerprint = provider.digest('sha256', fakeArk.subarray(0, 576));

describe('the fake root', () => {
	it('has the size of a Naples chain and says what it is in its key ids', () => {
		expect([fakeAsk.length, fakeArk.length]).toEqual([832, 832]);
		const [ask, ark] = [readAmdCertificate(fakeAsk), readAmdCertificate(fakeArk)];
		if (ask === undefined || ark === undefined) return expect.fail('both can be read');
		expect(ascii(ark.keyId)).toBe('CVM-FAKE-ARK-001');
		expect(ascii(ark.certifyingId)).toBe('CVM-FAKE-ARK-001');
		expect(ascii(ask.keyId)).toBe('CVM-FAKE-ASK-001');
		expect(ascii(ask.certifyingId)).toBe('CVM-FAKE-ARK-001');
		expect(ark.key.modulus).toEqual(FAKE_ARK_KEY.modulus);
		expect(ask.key.modulus).toEqual(FAKE_ASK_KEY.modulus);
	});

	it('is signed by the published key: anybody can make these very bytes', () => {
		for (const cert of [fakeArk, fakeAsk]) {
			const body = cert.subarray(0, 576);
			const signature = provider.rsaPss.sign(FAKE_ARK_KEY, body, 'sha256', provider.digest('sha256', body));
			expect(signature.reverse()).toEqual(cert.slice(576));
		}
	});

	it('never has the key id or the fingerprint of a real root', () => {
		for (const product of PRODUCTS) {
			const { keyId, bodySha256 } = AMD_ROOTS[product];
			expect(readAmdCertificate(fakeArk)?.keyId).not.toEqual(keyId);
			expect(readAmdCertificate(fakeAsk)?.keyId).not.toEqual(keyId);
			expect(fakeFingerprint).not.toEqual(bodySha256);
		}
	});

	it.each(PRODUCTS)('never verifies as %s, by key id alone or by fingerprint alone', (product) => {
		const { keyId, bodySha256 } = AMD_ROOTS[product];
		for (const pin of [{ keyId }, { bodySha256 }, AMD_ROOTS[product]]) {
			expect(verifyPlatformChain(provider, fakeChain, pin)).toEqual({
				status: Status.INVALID_CERTIFICATE,
				failed: 'ark',
			});
		}
	});

	it('pins the five real key ids (AMD certificates in virtee/sev)', () => {
		expect(PRODUCTS.map((product) => toHex(AMD_ROOTS[product].keyId))).toEqual([
			'1bb987c359494606b174945601c9ea5b',
			'e6002122fb58419399d15fee7b131351',
			'94c38e4177d0479292a7ae671d083fb6',
			'9f9d4a8fe761456599f6946c4c010f3a',
			'd05c3a8bde484904b49552422ceb3942',
		]);
	});
});

describe.runIf(hasPublicData)(`the fake root beside real ones ${NEEDS_PUBLIC_DATA}`, () => {
	it.each(PRODUCTS)('%s: the pinned key id and fingerprint are those of the real root', (product) => {
		const ark = publicFile('sev', 'roots', `${product}-ark.cert`);
		expect(verifyArk(provider, ark, AMD_ROOTS[product])).toBe(Status.SUCCESS);
		for (const other of PRODUCTS.filter((p) => p !== product)) {
			expect(verifyArk(provider, ark, AMD_ROOTS[other])).toBe(Status.INVALID_CERTIFICATE);
		}
	});

	it.each(PRODUCTS)('%s: neither signs for the other, and neither passes for the other', (product) => {
		const ark = publicFile('sev', 'roots', `${product}-ark.cert`);
		const ask = publicFile('sev', 'roots', `${product}-ask.cert`);
		expect(verifyAsk(provider, fakeAsk, ark)).not.toBe(Status.SUCCESS);
		expect(verifyAsk(provider, ask, fakeArk)).not.toBe(Status.SUCCESS);
		expect(verifyArk(provider, ark, { bodySha256: fakeFingerprint })).toBe(Status.INVALID_CERTIFICATE);
		expect(verifySevCertificate(provider, fakeChain.cek, asKey(ask))).not.toBe(Status.SUCCESS);
		expect(verifyPlatformChain(provider, { ...fakeChain, ask, ark }).failed).toBe('cek');
	});

	it('a real Naples CEK does not verify under the fake signing key', () => {
		const cek = publicFile('sev', 'naples', 'cek.cert');
		expect(verifySevCertificate(provider, cek, asKey(fakeAsk))).toBe(Status.BAD_SIGNATURE);
	});
});

describe('chipIdentity', () => {
	it('gives a chip its id and key for good (own computation, pinned so that stored chips stay valid)', () => {
		const { id, cekPrivateKey } = chipIdentity(provider, 'chip');
		expect(id).toHaveLength(64);
		expect(toHex(provider.digest('sha256', id, cekPrivateKey))).toBe(
			'179db36488cebba47de0e913cae8a841fb99ed8a116012f6a53ff9303c0d95f4',
		);
	});

	test.prop([fc.string(), fc.string()], { numRuns: 30 })('gives distinct chips to distinct seeds', (a, b) => {
		fc.pre(a !== b);
		expect(chipIdentity(provider, a).id).not.toEqual(chipIdentity(provider, b).id);
		expect(provider.p384.isValidPrivateKey(chipIdentity(provider, a).cekPrivateKey)).toBe(true);
	});

	it('tells texts apart that differ above the low byte', () => {
		expect(chipIdentity(provider, '\u0141').id).not.toEqual(chipIdentity(provider, 'A').id);
		expect(chipIdentity(provider, 'A').id).not.toEqual(chipIdentity(provider, 'A\0').id);
	});
});

describe('the key server', () => {
	const server = createKeyServer(provider);
	const chip = chipIdentity(provider, 'chip');

	it('knows the chip that answers with an id', () => {
		const cek = server.cek(chip.id);
		expect(verifySevCertificate(provider, cek, asKey(fakeAsk))).toBe(Status.SUCCESS);
		expect(readSevCertificate(cek)).toMatchObject({
			apiMajor: 0,
			apiMinor: 14,
			usage: CertUsage.CEK,
			algo: CertAlgo.ECDSA_SHA256,
			publicKey: provider.p384.publicKey(chip.cekPrivateKey),
			slots: [
				{ usage: CertUsage.ASK, algo: CertAlgo.RSA_SHA256 },
				{ usage: CertUsage.INVALID, algo: CertAlgo.INVALID },
			],
		});
	});

	it('writes the version that it is asked for', () => {
		expect(readSevCertificate(server.cek(chip.id, { version: { major: 1, minor: 55 } }))).toMatchObject({
			apiMajor: 1,
			apiMinor: 55,
		});
	});

	it('answers the same question with the same bytes', () => {
		expect(server.cek(chip.id)).toEqual(server.cek(chip.id));
	});

	it('gives out ASK ‖ ARK', () => {
		expect(server.askArk()).toEqual(join(fakeAsk, fakeArk));
		expect(splitAmdCertificates(server.askArk())).toEqual({ ask: fakeAsk, ark: fakeArk });
	});

	it('refuses an id of another length', () => {
		expect(() => server.cek(chip.id.subarray(1))).toThrow('chip id: expected 64 bytes, got 63');
	});
});

describe('signCek', () => {
	it('signs a copy, in the first slot', () => {
		const before = fakeChain.unsignedCek.slice();
		const signed = signCek(provider, fakeChain.unsignedCek);
		expect(fakeChain.unsignedCek).toEqual(before);
		expect(signed).toEqual(fakeChain.cek);
	});

	it('refuses a certificate with both slots taken', () => {
		const twice = signCek(provider, fakeChain.cek);
		expect(() => signCek(provider, twice)).toThrow('expected an empty signature slot');
	});
});
