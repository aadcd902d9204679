import { nodeProvider } from '@cvm/crypto/node';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { flipBit, join } from '../../test/fake-platform.js';
import { Status } from '../abi/status.js';
import { FAKE_ARK_KEY, FAKE_ARK_KEY_ID, FAKE_ASK_KEY_ID, fakeArk, fakeAsk } from '../fake-amd/index.js';
import {
	amdCertificateHeader,
	asKey,
	readAmdCertificate,
	splitAmdCertificates,
	splitAskArk,
	verifyArk,
	verifyAsk,
} from './amd-certificate.js';
import { CertAlgo, CertUsage } from './sev-certificate.js';

const provider = nodeProvider;
const BODY = 576;

/** A certificate with another header, signed anew by the fake ARK. */
function resigned(cert: Uint8Array, change: Parameters<typeof amdCertificateHeader.patch>[1]): Uint8Array {
	const out = cert.slice();
	amdCertificateHeader.patch(out, change);
	const signature = provider.rsaPss.sign(FAKE_ARK_KEY, out.subarray(0, BODY), 'sha256', new Uint8Array(32));
	out.set(signature.reverse(), BODY);
	return out;
}

describe('AMD root and signing certificates', () => {
	it('accepts a self-signed ARK and an ASK signed by it', () => {
		expect(verifyArk(provider, fakeArk)).toBe(Status.SUCCESS);
		expect(verifyAsk(provider, fakeAsk, fakeArk)).toBe(Status.SUCCESS);
	});

	it('leaves the bytes of a Node Buffer as they are, whose slices are views', () => {
		const given = Buffer.from(fakeArk);
		expect(verifyArk(provider, given)).toBe(Status.SUCCESS);
		expect(new Uint8Array(given)).toEqual(fakeArk);
	});

	it('takes a pinned key id and a pinned body into account', () => {
		const bodySha256 = provider.digest('sha256', fakeArk.subarray(0, BODY));
		expect(verifyArk(provider, fakeArk, { keyId: FAKE_ARK_KEY_ID, bodySha256 })).toBe(Status.SUCCESS);
		expect(verifyArk(provider, fakeArk, { keyId: FAKE_ASK_KEY_ID })).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyArk(provider, fakeArk, { bodySha256: new Uint8Array(32) })).toBe(Status.INVALID_CERTIFICATE);
		const sameId = resigned(fakeArk, { version: 1 });
		sameId[0x28] = 1;
		const other = resigned(sameId, {});
		expect(verifyArk(provider, other, { keyId: FAKE_ARK_KEY_ID })).toBe(Status.SUCCESS);
		expect(verifyArk(provider, other, { keyId: FAKE_ARK_KEY_ID, bodySha256 })).toBe(Status.INVALID_CERTIFICATE);
	});

	it('refuses every flipped bit of the signed body', () => {
		for (let bit = 0; bit < BODY * 8; bit++) {
			const ask = verifyAsk(provider, flipBit(fakeAsk, bit), fakeArk);
			const ark = verifyArk(provider, flipBit(fakeArk, bit));
			if (ask === Status.SUCCESS || ark === Status.SUCCESS) expect.fail(`bit ${bit}: accepted`);
		}
	});

	test.prop([fc.nat({ max: 256 * 8 - 1 })])('refuses every flipped bit of the signature', (bit) => {
		expect(verifyArk(provider, flipBit(fakeArk, BODY * 8 + bit))).toBe(Status.BAD_SIGNATURE);
		expect(verifyAsk(provider, flipBit(fakeAsk, BODY * 8 + bit), fakeArk)).toBe(Status.BAD_SIGNATURE);
	});

	it.each([
		['version', { version: 2 }],
		['usage', { usage: CertUsage.ASK }],
		['certifying id', { certifyingId: FAKE_ASK_KEY_ID }],
	])('refuses a well-signed ARK with another %s', (_, change) => {
		expect(verifyArk(provider, resigned(fakeArk, change))).toBe(Status.INVALID_CERTIFICATE);
	});

	it.each([
		['version', { version: 0 }],
		['usage', { usage: CertUsage.ARK }],
		['certifying id', { certifyingId: FAKE_ASK_KEY_ID }],
	])('refuses a well-signed ASK with another %s', (_, change) => {
		expect(verifyAsk(provider, resigned(fakeAsk, change), fakeArk)).toBe(Status.INVALID_CERTIFICATE);
	});

	it('checks the signature before the contents', () => {
		expect(verifyArk(provider, flipBit(fakeArk, 0x24 * 8))).toBe(Status.BAD_SIGNATURE);
		expect(verifyAsk(provider, flipBit(fakeAsk, 0), fakeArk)).toBe(Status.BAD_SIGNATURE);
	});

	it('refuses an ASK under another signer, and an ASK in place of the ARK', () => {
		expect(verifyArk(provider, fakeAsk)).toBe(Status.BAD_SIGNATURE);
		expect(verifyAsk(provider, fakeAsk, fakeAsk)).toBe(Status.BAD_SIGNATURE);
		expect(verifyAsk(provider, fakeArk, fakeArk)).toBe(Status.INVALID_CERTIFICATE);
	});

	it.each([
		['modulus', { modulusBits: 4096 }],
		['exponent', { exponentBits: 4096 }],
		['both', { modulusBits: 4096, exponentBits: 4096 }],
		['nothing', { modulusBits: 0, exponentBits: 0 }],
		['most', { modulusBits: 0xffffffff, exponentBits: 0xffffffff }],
	])('refuses sizes that are not those of the bytes: %s', (_, change) => {
		const cert = resigned(fakeArk, change);
		expect(verifyArk(provider, cert)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyAsk(provider, fakeAsk, cert)).toBe(Status.INVALID_CERTIFICATE);
		expect(asKey(resigned(fakeAsk, change))).toBeUndefined();
	});

	test.prop([fc.nat({ max: 1700 })])('refuses every other length', (length) => {
		const cert = new Uint8Array(length);
		cert.set(fakeArk.subarray(0, length));
		expect(verifyArk(provider, cert)).toBe(length === 832 ? Status.SUCCESS : Status.INVALID_CERTIFICATE);
	});

	test.prop([fc.uint8Array({ maxLength: 1700 })])('answers a status for any bytes', (noise) => {
		expect(verifyArk(provider, noise)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyAsk(provider, noise, fakeArk)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyAsk(provider, fakeAsk, noise)).toBe(Status.INVALID_CERTIFICATE);
		expect(asKey(noise)).toBeUndefined();
	});

	it('refuses keys that no crypto library takes', () => {
		const set = (at: number, ...values: number[]) => {
			const cert = fakeArk.slice();
			cert.set(values, at);
			return cert;
		};
		const evenModulus = set(0x40 + 256, 0);
		const shortModulus = set(0x40 + 511, 0);
		const noExponent = set(0x40, 0, 0, 0);
		const longExponent = set(0x40 + 100, 1);
		for (const cert of [evenModulus, shortModulus, noExponent, longExponent]) {
			expect(verifyArk(provider, cert)).toBe(Status.INVALID_CERTIFICATE);
			expect(verifyAsk(provider, fakeAsk, cert)).toBe(Status.INVALID_CERTIFICATE);
		}
	});
});

describe('an ARK without its signature, as AMD once gave out that of Naples', () => {
	const bodyOnly = fakeArk.slice(0, BODY);
	const bodySha256 = provider.digest('sha256', bodyOnly);

	it('is read, and passes where its fingerprint is pinned', () => {
		expect(readAmdCertificate(bodyOnly)).toMatchObject({ keyId: FAKE_ARK_KEY_ID, signature: new Uint8Array(0) });
		expect(verifyArk(provider, bodyOnly, { bodySha256 })).toBe(Status.SUCCESS);
		expect(verifyArk(provider, bodyOnly, { bodySha256, keyId: FAKE_ARK_KEY_ID })).toBe(Status.SUCCESS);
		expect(verifyAsk(provider, fakeAsk, bodyOnly)).toBe(Status.SUCCESS);
	});

	it('does not pass without a fingerprint, or under another one', () => {
		expect(verifyArk(provider, bodyOnly)).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyArk(provider, bodyOnly, { keyId: FAKE_ARK_KEY_ID })).toBe(Status.INVALID_CERTIFICATE);
		expect(verifyArk(provider, bodyOnly, { bodySha256: new Uint8Array(32) })).toBe(Status.INVALID_CERTIFICATE);
	});

	it('has to be a usable root all the same', () => {
		for (const at of [0x00, 0x14, 0x24, 0x40 + 100, 0x40 + 511]) {
			const bad = bodyOnly.slice();
			bad[at] = (bad[at] ?? 0) ^ 0x80;
			const pin = { bodySha256: provider.digest('sha256', bad) };
			expect(verifyArk(provider, bad, pin)).toBe(Status.INVALID_CERTIFICATE);
		}
	});

	it('stands for no other certificate', () => {
		expect(verifyAsk(provider, fakeAsk.subarray(0, BODY), fakeArk)).toBe(Status.INVALID_CERTIFICATE);
		expect(readAmdCertificate(new Uint8Array(1088))).toBeUndefined();
	});

	it('is found behind a Naples ASK in a file, and not in what SEND_START takes', () => {
		const file = join(fakeAsk, bodyOnly);
		expect(splitAskArk(file)).toEqual({ ask: fakeAsk, ark: bodyOnly });
		expect(splitAskArk(join(fakeAsk, fakeArk))).toEqual({ ask: fakeAsk, ark: fakeArk });
		expect(splitAskArk(new Uint8Array(1407))).toBeUndefined();
		expect(splitAmdCertificates(file)).toBeUndefined();
	});
});

describe('asKey', () => {
	it('is an RSA-SHA256 signer for 2048 bits, and nothing for an ARK', () => {
		expect(asKey(fakeAsk)).toMatchObject({ usage: CertUsage.ASK, algo: CertAlgo.RSA_SHA256 });
		expect(asKey(fakeArk)).toBeUndefined();
	});
});

describe('splitAmdCertificates', () => {
	it('finds the ASK in front', () => {
		expect(splitAmdCertificates(join(fakeAsk, fakeArk))).toEqual({ ask: fakeAsk, ark: fakeArk });
	});

	it.each([
		[1664, 832],
		[2176, 1344],
		[2688, 1088],
		[3200, 1600],
	])('takes %i bytes with %i of ASK: keys of 2048 and 4096 bits in any combination', (total, ask) => {
		const parts = splitAmdCertificates(new Uint8Array(total));
		expect(parts?.ask.length).toBe(ask);
		expect(parts?.ark.length).toBe(total - ask);
	});

	test.prop([fc.nat({ max: 4000 })])('refuses other lengths', (length) => {
		fc.pre(![1664, 2176, 2688, 3200].includes(length));
		expect(splitAmdCertificates(new Uint8Array(length))).toBeUndefined();
	});

	it.each([
		['4096-bit ASK under a 2048-bit ARK', 4096, 256],
		['2048-bit ASK under a 4096-bit ARK', 2048, 512],
	])('reads the parts of a mixed pair: %s', (_, bits, signature) => {
		const size = bits / 8;
		const cert = new Uint8Array(64 + 2 * size + signature);
		amdCertificateHeader.encodeInto(cert, { version: 1, exponentBits: bits, modulusBits: bits });
		const read = readAmdCertificate(cert);
		expect(read?.key.modulus.length).toBe(size);
		expect(read?.signature.length).toBe(signature);
	});
});
