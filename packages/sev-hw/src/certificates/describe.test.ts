import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { fakePlatform } from '../../test/fake-platform.js';
import { fakeArk, fakeAsk } from '../fake-amd/index.js';
import { describeCertificate } from './describe.js';
import { sevCertificate } from './sev-certificate.js';

const { pek, unsignedCek } = fakePlatform(nodeProvider);
const lines = (cert: Uint8Array) => describeCertificate(cert).split('\n');
const ARK_ID = '43564d2d46414b452d41524b2d303031';
const ASK_ID = '43564d2d46414b452d41534b2d303031';

describe('describeCertificate', () => {
	it('names role, version, key and both signers of a SEV certificate', () => {
		const [usage, version, key, x, y, first, second, ...rest] = lines(pek);
		expect([usage, version, key]).toEqual(['usage: PEK', 'version: 1, API 0.24', 'key: ECDSA_SHA256, P-384']);
		expect(x).toMatch(/^x: [0-9a-f]{96}$/);
		expect(y).toMatch(/^y: [0-9a-f]{96}$/);
		expect([first, second]).toEqual(['signature 1: by OCA, ECDSA_SHA256', 'signature 2: by CEK, ECDSA_SHA256']);
		expect(rest).toEqual([]);
		expect(lines(unsignedCek).slice(-2)).toEqual(['signature 1: empty', 'signature 2: empty']);
	});

	it('gives numbers without a name in hex, a slot that is half empty as it is, and no point off the curve', () => {
		const odd = pek.slice();
		sevCertificate.patch(odd, { usage: 0x77, algo: 0x88, sig1Usage: 0x1000, sig1Algo: 2 });
		expect(lines(odd)).toEqual([
			'usage: unknown (0x77)',
			'version: 1, API 0.24',
			'key: unknown (0x88), not on P-384',
			'signature 1: by INVALID, ECDSA_SHA256',
			'signature 2: by CEK, ECDSA_SHA256',
		]);
	});

	it('names key, ids and signer of an ARK and an ASK', () => {
		const key = 'key: RSA, 2048 bits, exponent 0x010001';
		const ark = ['usage: ARK', 'version: 1', key, `key id: ${ARK_ID}`];
		expect(lines(fakeArk)).toEqual([...ark, `signature: by ${ARK_ID} (itself)`]);
		expect(lines(fakeArk.subarray(0, 576))).toEqual([...ark, 'signature: missing']);
		expect(lines(fakeAsk)).toEqual(['usage: ASK', 'version: 1', key, `key id: ${ASK_ID}`, `signature: by ${ARK_ID}`]);
	});

	it.each([0, 64, 575, 2083, 2085])('refuses %i bytes that are no certificate', (length) => {
		expect(() => describeCertificate(new Uint8Array(length))).toThrow(
			`certificate: expected 2084 bytes, or an ARK or ASK, got ${length} bytes`,
		);
	});
});
