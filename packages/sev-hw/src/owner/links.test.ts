import { nodeProvider } from '@cvm/crypto/node';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, join } from '../../test/fake-platform.js';
import { AMD_ROOTS, type ChainLink, checkLinks, readAmdCertificate, Status, verifyPlatform } from './index.js';

const provider = nodeProvider;
const { pdh, pek, oca, cek, ask, ark } = fakePlatform(provider);
const chain: Readonly<Record<ChainLink, Uint8Array>> = { pdh, pek, oca, cek, ask, ark };
const { keyId, body } = readAmdCertificate(ark) ?? { keyId: ark, body: ark };
const pin = { keyId, bodySha256: provider.digest('sha256', body) };

const NAMES = ['pdh', 'pek', 'oca', 'cek', 'ask', 'ark'] as const;

/** The links that fail, as `signer>certificate`. */
const broken = (changed: Partial<typeof chain>, root = pin): string[] =>
	checkLinks(provider, { ...chain, ...changed }, root)
		.filter(({ status }) => status !== Status.SUCCESS)
		.map(({ signer, certificate }) => `${signer}>${certificate}`);

/** A copy with one byte changed. */
function changed(cert: Uint8Array, at: number): Uint8Array {
	const out = cert.slice();
	out.set([(out[at] ?? 0) ^ 1], at);
	return out;
}

describe('checkLinks', () => {
	it('finds every link of a sound platform, from the root down', () => {
		const links = checkLinks(provider, chain, pin);
		expect(links.map(({ signer, certificate }) => `${signer}>${certificate}`)).toEqual([
			...['ark>ark', 'ark>ask', 'ask>cek', 'cek>pek', 'oca>oca', 'oca>pek', 'pek>pdh'],
		]);
		expect(links.every(({ status }) => status === Status.SUCCESS)).toBe(true);
	});

	it('goes on behind a link that fails', () => {
		expect(broken({}, AMD_ROOTS.milan)).toEqual(['ark>ark']);
		expect(broken({ pek: changed(pek, 5) })).toEqual(['cek>pek', 'oca>pek']);
		expect(broken({ oca: changed(oca, 5) })).toEqual(['oca>oca']);
		expect(broken({ cek: new Uint8Array(2084) })).toEqual(['ask>cek', 'cek>pek']);
		expect(broken({ ask: new Uint8Array(0) })).toEqual(['ark>ask', 'ask>cek']);
	});

	test.prop([fc.constantFrom(...NAMES), fc.nat({ max: 2083 })], { numRuns: 60 })(
		'says of a changed byte anywhere what verifyPlatform says',
		(name, at) => {
			fc.pre(at < chain[name].length);
			const set = { ...chain, [name]: changed(chain[name], at) };
			const whole = verifyPlatform(provider, {
				...{ pdh: set.pdh, cek: set.cek, trust: pin },
				chain: join(set.pek, set.oca, set.cek),
				askArk: join(set.ask, set.ark),
			});
			const links = checkLinks(provider, set, pin);
			expect(links.every(({ status }) => status === Status.SUCCESS)).toBe(whole.status === Status.SUCCESS);
			expect(links.find(({ status }) => status !== Status.SUCCESS)?.certificate).toBe(whole.failed);
		},
	);
});
