import { nodeProvider } from '@cvm/crypto/node';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, join } from '../../test/fake-platform.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, PRODUCTS, publicFile } from '../../test/public-data.js';
import { AMD_ROOTS, type PlatformEvidence, Status, verifyPlatform } from './index.js';

const provider = nodeProvider;
const { pdh, pek, oca, unsignedCek, cek, ask, ark } = fakePlatform(provider);
const evidence: PlatformEvidence = {
	pdh,
	chain: join(pek, oca, unsignedCek),
	cek,
	askArk: join(ask, ark),
	trust: 'fake',
};
const verdict = (change: Partial<PlatformEvidence>) => verifyPlatform(provider, { ...evidence, ...change });

describe('verifyPlatform', () => {
	it('accepts a platform of this model when the fake root is trusted', () => {
		expect(verdict({})).toEqual({ status: Status.SUCCESS });
	});

	it.each(PRODUCTS)('refuses it when the root of %s is trusted', (product) => {
		expect(verdict({ trust: AMD_ROOTS[product] })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
	});

	it('refuses the unsigned CEK, another chip, and another platform', () => {
		const other = fakePlatform(provider, 'another chip');
		expect(verdict({ cek: unsignedCek })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'cek' });
		expect(verdict({ cek: other.cek })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pek' });
		expect(verdict({ pdh: pek })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'pdh' });
	});

	it('refuses an owner that did not sign', () => {
		expect(verdict({ chain: join(flipBit(pek, 8 * 0x41c), oca, unsignedCek) })).toEqual({
			status: Status.BAD_SIGNATURE,
			failed: 'pek',
		});
		expect(verdict({ chain: join(pek, flipBit(oca, 8 * 0x41c), unsignedCek) })).toEqual({
			status: Status.BAD_SIGNATURE,
			failed: 'oca',
		});
	});

	it('does not look at the CEK inside the exported chain', () => {
		expect(verdict({ chain: join(pek, oca, new Uint8Array(2084)) })).toEqual({ status: Status.SUCCESS });
	});

	test.prop([fc.constantFrom('pdh', 'chain', 'cek', 'askArk'), fc.nat({ max: 7000 })], { numRuns: 50 })(
		'answers INVALID_LENGTH for a blob of another length',
		(blob, length) => {
			fc.pre(length !== evidence[blob].length);
			fc.pre(blob !== 'askArk' || ![1408, 1664, 2176, 2688, 3200].includes(length));
			expect(verdict({ [blob]: new Uint8Array(length) }).status).toBe(Status.INVALID_LENGTH);
		},
	);

	it('answers a status for a blob of a possible length that holds nothing', () => {
		expect(verdict({ askArk: new Uint8Array(2176) })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
		// Zeros are usage ARK without an algorithm: a slot that is half empty.
		expect(verdict({ cek: new Uint8Array(2084) })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'cek' });
		expect(verdict({ chain: new Uint8Array(6252) })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pek' });
		expect(verdict({ pdh: new Uint8Array(2084) })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pdh' });
	});
});

describe.runIf(hasPublicData)(`a real Naples platform ${NEEDS_PUBLIC_DATA}`, () => {
	const real = (): PlatformEvidence => {
		const [realPek, realOca, realCek, realPdh] = ['pek', 'oca', 'cek', 'pdh'].map((n) =>
			publicFile('sev', 'naples', `${n}.cert`),
		);
		const amd = ['ask', 'ark'].map((name) => publicFile('sev', 'roots', `naples-${name}.cert`));
		if (!realPek || !realOca || !realCek || !realPdh) return expect.fail('four certificates');
		return {
			pdh: realPdh,
			chain: join(realPek, realOca, realCek),
			cek: realCek,
			askArk: join(...amd),
			trust: AMD_ROOTS.naples,
		};
	};

	it('is accepted under the Naples root only', () => {
		expect(verifyPlatform(provider, real())).toEqual({ status: Status.SUCCESS });
		for (const trust of ['fake', AMD_ROOTS.rome] as const) {
			expect(verifyPlatform(provider, { ...real(), trust })).toEqual({
				status: Status.INVALID_CERTIFICATE,
				failed: 'ark',
			});
		}
	});

	it('is accepted with the root as AMD once gave it out: without its signature', () => {
		const askArk = real().askArk.subarray(0, 832 + 576);
		expect(verifyPlatform(provider, { ...real(), askArk })).toEqual({ status: Status.SUCCESS });
		for (const trust of ['fake', AMD_ROOTS.rome] as const) {
			const verdict = verifyPlatform(provider, { ...real(), askArk, trust });
			expect(verdict).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
		}
	});

	it('is not accepted under the fake manufacturer, whichever of its certificates are replaced', () => {
		const refused = (change: Partial<PlatformEvidence>) => verifyPlatform(provider, { ...real(), ...change });
		const askArk = join(ask, ark);
		expect(refused({ askArk, trust: 'fake' })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'cek' });
		expect(refused({ askArk, cek, trust: 'fake' })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pek' });
		expect(refused({ askArk })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
		const realArk = publicFile('sev', 'roots', 'naples-ark.cert');
		expect(refused({ askArk: join(ask, realArk) })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'ask' });
	});

	it.each(PRODUCTS)('lends its root to no platform of this model: %s', (product) => {
		const amd = ['ask', 'ark'].map((name) => publicFile('sev', 'roots', `${product}-${name}.cert`));
		const change = { askArk: join(...amd), trust: AMD_ROOTS[product] };
		// 4096-bit keys sign with another algorithm, so the CEK carries no signature of theirs.
		const status = product === 'naples' ? Status.BAD_SIGNATURE : Status.INVALID_CERTIFICATE;
		expect(verdict(change)).toEqual({ status, failed: 'cek' });
		expect(verdict({ ...change, trust: 'fake' })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'ark' });
	});

	it('does not vouch for a PDH of another platform', () => {
		expect(verifyPlatform(provider, { ...real(), pdh })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'pdh' });
	});
});
