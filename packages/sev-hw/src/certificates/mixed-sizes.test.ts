import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, join } from '../../test/fake-platform.js';
import { RSA_4096 } from '../../test/rsa-4096.js';
import { Status } from '../abi/status.js';
import { FAKE_ARK_KEY, FAKE_ASK_KEY } from '../fake-amd/index.js';
import { amdCertificateHeader, asKey, splitAmdCertificates, verifyArk, verifyAsk } from './amd-certificate.js';
import { toLittleEndian } from './byte-order.js';
import { verifyPlatformChain } from './chain.js';
import { addSignature, CertAlgo, CertUsage, SEV_CERT_BODY_SIZE } from './sev-certificate.js';

const provider = nodeProvider;
const platform = fakePlatform(provider);
const [arkId, askId] = [new Uint8Array(16).fill(0xaa), new Uint8Array(16).fill(0xbb)];
const keys = { 2048: { ark: FAKE_ARK_KEY, ask: FAKE_ASK_KEY }, 4096: { ark: RSA_4096, ask: RSA_4096 } };
type Bits = keyof typeof keys;
const schemeOf = (bits: Bits) =>
	bits === 2048
		? { hash: 'sha256' as const, salt: new Uint8Array(32) }
		: { hash: 'sha384' as const, salt: new Uint8Array(48) };

function certificate(role: 'ark' | 'ask', bits: Bits, signerBits: Bits): Uint8Array {
	const header = amdCertificateHeader.encode({
		version: 1,
		keyId: role === 'ark' ? arkId : askId,
		certifyingId: arkId,
		usage: role === 'ark' ? CertUsage.ARK : CertUsage.ASK,
		exponentBits: bits,
		modulusBits: bits,
	});
	const { exponent, modulus } = keys[bits][role];
	const body = join(header, toLittleEndian(exponent, bits / 8), toLittleEndian(modulus, bits / 8));
	const { hash, salt } = schemeOf(signerBits);
	return join(body, provider.rsaPss.sign(keys[signerBits].ark, body, hash, salt).reverse());
}

describe.each([
	[2048, 2048, 1664],
	[4096, 2048, 2176],
	[2048, 4096, 2688],
	[4096, 4096, 3200],
] as const)('an ASK of %i bits under an ARK of %i bits', (askBits, arkBits, total) => {
	const ark = certificate('ark', arkBits, arkBits);
	const ask = certificate('ask', askBits, arkBits);

	it('verifies out of the joined blob', () => {
		const blob = join(ask, ark);
		expect(blob).toHaveLength(total);
		const parts = splitAmdCertificates(blob);
		expect(parts).toEqual({ ask, ark });
		expect(verifyArk(provider, ark)).toBe(Status.SUCCESS);
		expect(verifyAsk(provider, ask, ark)).toBe(Status.SUCCESS);
	});

	it('is refused with a bit flipped in either', () => {
		expect(verifyAsk(provider, flipBit(ask, 8 * (ask.length - 1)), ark)).toBe(Status.BAD_SIGNATURE);
		expect(verifyAsk(provider, flipBit(ask, 8 * 0x50), ark)).toBe(Status.BAD_SIGNATURE);
		expect(verifyArk(provider, flipBit(ark, 8 * (ark.length - 1)))).toBe(Status.BAD_SIGNATURE);
	});

	it('is refused under a root of the other size', () => {
		const other = arkBits === 2048 ? 4096 : 2048;
		expect(verifyAsk(provider, ask, certificate('ark', other, other))).toBe(Status.INVALID_CERTIFICATE);
	});

	it('takes the hash of the CEK signature from the ASK', () => {
		const { hash, salt } = schemeOf(askBits);
		const algo = askBits === 2048 ? CertAlgo.RSA_SHA256 : CertAlgo.RSA_SHA384;
		expect(asKey(ask)?.algo).toBe(algo);
		const sign = (slotAlgo: number) => {
			const cek = platform.unsignedCek.slice();
			const made = provider.rsaPss.sign(keys[askBits].ask, cek.subarray(0, SEV_CERT_BODY_SIZE), hash, salt);
			addSignature(cek, { usage: CertUsage.ASK, algo: slotAlgo, signature: toLittleEndian(made, 512) });
			return verifyPlatformChain(provider, { ...platform, cek, ask, ark });
		};
		expect(sign(algo)).toEqual({ status: Status.SUCCESS });
		const otherAlgo = askBits === 2048 ? CertAlgo.RSA_SHA384 : CertAlgo.RSA_SHA256;
		expect(sign(otherAlgo)).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'cek' });
	});
});
