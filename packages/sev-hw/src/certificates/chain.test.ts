import { nobleProvider } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit } from '../../test/fake-platform.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, PRODUCTS, publicFile } from '../../test/public-data.js';
import { Status } from '../abi/status.js';
import { FAKE_ARK_KEY_ID } from '../fake-amd/index.js';
import { asKey, readAmdCertificate, verifyArk, verifyAsk } from './amd-certificate.js';
import { verifyOwnerChain, verifyPlatformChain } from './chain.js';
import { certKeyOf, readSevCertificate, SEV_CERT_BODY_SIZE, verifySevCertificate } from './sev-certificate.js';

const provider = nodeProvider;
const platform = fakePlatform(provider);

describe('verifyPlatformChain', () => {
	it('accepts a whole chain, and with the root pinned', () => {
		expect(verifyPlatformChain(provider, platform)).toEqual({ status: Status.SUCCESS });
		expect(verifyPlatformChain(provider, platform, { keyId: FAKE_ARK_KEY_ID })).toEqual({ status: Status.SUCCESS });
	});

	it.each([
		['ark', 576 * 8],
		['ask', 576 * 8],
		['cek', 8 * 0x41c],
		['pek', 8 * 0x624],
		['pdh', 8 * 0x41c],
	] as const)('names the link that is broken: %s', (link, bit) => {
		const chain = { ...platform, [link]: flipBit(platform[link], bit) };
		expect(verifyPlatformChain(provider, chain)).toEqual({ status: Status.BAD_SIGNATURE, failed: link });
	});

	it.each(['ark', 'ask', 'cek', 'pek', 'pdh'] as const)('refuses an empty %s', (link) => {
		const chain = { ...platform, [link]: new Uint8Array(0) };
		expect(verifyPlatformChain(provider, chain)).toEqual({ status: Status.INVALID_CERTIFICATE, failed: link });
	});

	it('stops at the first broken link', () => {
		const chain = { ...platform, pdh: new Uint8Array(0), ask: new Uint8Array(0) };
		expect(verifyPlatformChain(provider, chain).failed).toBe('ask');
	});

	it('refuses another root by its key id', () => {
		const verdict = verifyPlatformChain(provider, platform, { keyId: new Uint8Array(16) });
		expect(verdict).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
	});

	it('refuses the exported chain as it is: its CEK is unsigned', () => {
		const chain = { ...platform, cek: platform.unsignedCek };
		expect(verifyPlatformChain(provider, chain)).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'cek' });
	});

	it('refuses the CEK of another chip', () => {
		const chain = { ...platform, cek: fakePlatform(provider, 'another chip').cek };
		expect(verifyPlatformChain(provider, chain)).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pek' });
	});

	it('does not look at the owner: a broken OCA signature of the PEK passes', () => {
		const chain = { ...platform, pek: flipBit(platform.pek, 8 * 0x41c) };
		expect(verifyPlatformChain(provider, chain).status).toBe(Status.SUCCESS);
		expect(verifyOwnerChain(provider, chain)).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pek' });
	});
});

describe('verifyOwnerChain', () => {
	it('accepts a whole chain without a manufacturer', () => {
		expect(verifyOwnerChain(provider, platform)).toEqual({ status: Status.SUCCESS });
	});

	it.each(['oca', 'pek', 'pdh'] as const)('names the link that is broken: %s', (link) => {
		const chain = { ...platform, [link]: flipBit(platform[link], 8 * 0x41c) };
		expect(verifyOwnerChain(provider, chain)).toEqual({ status: Status.BAD_SIGNATURE, failed: link });
	});
});

describe.runIf(hasPublicData)(`real AMD certificates ${NEEDS_PUBLIC_DATA}`, () => {
	const everywhere = [nodeProvider, nobleProvider].flatMap((p) =>
		PRODUCTS.map((product) => ({ product, name: p.name, p })),
	);

	it.each(everywhere)('$product: the ARK is self-signed and signed the ASK ($name)', ({ product, p }) => {
		const ark = publicFile('sev', 'roots', `${product}-ark.cert`);
		const ask = publicFile('sev', 'roots', `${product}-ask.cert`);
		expect(verifyArk(p, ark)).toBe(Status.SUCCESS);
		expect(verifyAsk(p, ask, ark)).toBe(Status.SUCCESS);
	});

	it.each(PRODUCTS)('%s: a flipped bit anywhere in the signed bytes of ARK or ASK is refused', (product) => {
		const ark = publicFile('sev', 'roots', `${product}-ark.cert`);
		const ask = publicFile('sev', 'roots', `${product}-ask.cert`);
		const size = readAmdCertificate(ark)?.body.length ?? 0;
		expect(size).toBe(product === 'naples' ? 576 : 1088);
		for (let byte = 0; byte < size; byte++) {
			const bit = byte * 8 + (byte % 8);
			const statuses = [verifyArk(provider, flipBit(ark, bit)), verifyAsk(provider, flipBit(ask, bit), ark)];
			if (statuses.includes(Status.SUCCESS)) expect.fail(`byte ${byte}: accepted`);
		}
	});

	it.each(PRODUCTS)('%s: the ASK is not accepted under the root of another product', (product) => {
		const ask = publicFile('sev', 'roots', `${product}-ask.cert`);
		for (const other of PRODUCTS.filter((p) => p !== product)) {
			const ark = publicFile('sev', 'roots', `${other}-ark.cert`);
			expect(verifyAsk(provider, ask, ark)).not.toBe(Status.SUCCESS);
		}
	});

	const naples = () => ({
		ark: publicFile('sev', 'roots', 'naples-ark.cert'),
		ask: publicFile('sev', 'roots', 'naples-ask.cert'),
		cek: publicFile('sev', 'naples', 'cek.cert'),
		oca: publicFile('sev', 'naples', 'oca.cert'),
		pek: publicFile('sev', 'naples', 'pek.cert'),
		pdh: publicFile('sev', 'naples', 'pdh.cert'),
	});

	it.each([nodeProvider, nobleProvider])('Naples: both chains of a whole platform verify ($name)', (p) => {
		const chain = naples();
		expect(verifyPlatformChain(p, chain)).toEqual({ status: Status.SUCCESS });
		expect(verifyOwnerChain(p, chain)).toEqual({ status: Status.SUCCESS });
		expect(readSevCertificate(chain.pdh)).toMatchObject({ version: 1, apiMajor: 0, apiMinor: 16, usage: 0x1003 });
		expect(readSevCertificate(chain.cek)).toMatchObject({ apiMajor: 0, apiMinor: 14, usage: 0x1004 });
	});

	it.each([
		['CEK', 'by the ASK'],
		['PEK', 'by the CEK'],
		['PEK', 'by the OCA'],
		['PDH', 'by the PEK'],
	])(
		'Naples: a flipped bit anywhere in the signed bytes of the %s is refused %s',
		(subject, by) => {
			const { ask, cek, oca, pek, pdh } = naples();
			const signer = { 'by the ASK': asKey(ask), 'by the CEK': certKeyOf(cek), 'by the OCA': certKeyOf(oca) }[by];
			const cert = { CEK: cek, PEK: pek }[subject] ?? pdh;
			for (let byte = 0; byte < SEV_CERT_BODY_SIZE; byte++) {
				const flipped = flipBit(cert, byte * 8 + (byte % 8));
				const status = verifySevCertificate(provider, flipped, signer ?? certKeyOf(pek));
				if (status !== Status.BAD_SIGNATURE) expect.fail(`byte ${byte}: status ${status}`);
			}
		},
		60_000,
	);
});
