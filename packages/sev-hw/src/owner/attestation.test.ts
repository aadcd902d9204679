import { nobleProvider } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, scalar } from '../../test/fake-platform.js';
import { toLittleEndian } from '../certificates/byte-order.js';
import { CertUsage, sevCertificate } from '../certificates/sev-certificate.js';
import { readAttestationReport, Status, verifyAttestation } from './index.js';

const provider = nodeProvider;
const { pek, oca, pdh, keys } = fakePlatform(provider);
const mnonce = new Uint8Array(16).fill(0x0a);
const digest = new Uint8Array(32).fill(0x0b);
const policy = 0x00180005;

/** A report put together by hand, at the offsets of AMDESE/sev-tool `sevapi.h`. */
function reportBy(privateKey: Uint8Array, change: { usage?: number; algo?: number } = {}): Uint8Array {
	const out = new Uint8Array(208);
	const view = new DataView(out.buffer);
	out.set(mnonce, 0x00);
	out.set(digest, 0x10);
	view.setUint32(0x30, policy, true);
	view.setUint32(0x34, change.usage ?? 0x1002, true);
	view.setUint32(0x38, change.algo ?? 2, true);
	const { r, s } = nobleProvider.p384.sign(privateKey, out.slice(0, 0x34), 'sha256');
	out.set(toLittleEndian(r, 72), 0x40);
	out.set(toLittleEndian(s, 72), 0x88);
	return out;
}

const report = reportBy(keys.pek);
const verdict = (o: Partial<Parameters<typeof verifyAttestation>[1]>) =>
	verifyAttestation(provider, { report, pek, ...o });

describe('readAttestationReport', () => {
	it('reads nonce, digest, policy and signature', () => {
		const read = readAttestationReport(report);
		expect(read).toMatchObject({ mnonce, digest, policy, sigUsage: 0x1002, sigAlgo: 2 });
		expect(read.signature?.r).toEqual(report.slice(0x40, 0x70).reverse());
		expect(read.signature?.s).toEqual(report.slice(0x88, 0xb8).reverse());
	});

	it('has no signature where an integer is longer than 48 bytes', () => {
		expect(readAttestationReport(flipBit(report, 8 * 0x70)).signature).toBeUndefined();
		expect(readAttestationReport(flipBit(report, 8 * 0xcf)).signature).toBeUndefined();
	});

	it.each([0, 207, 209])('refuses %i bytes', (length) => {
		expect(() => readAttestationReport(new Uint8Array(length))).toThrow(
			expect.objectContaining({ name: 'OwnerError', code: 'report' }),
		);
	});
});

describe('verifyAttestation', () => {
	it.each([nodeProvider, nobleProvider])('accepts a report of that platform and guest ($name)', (p) => {
		const expected = { mnonce, digest, policy };
		expect(verifyAttestation(p, { report, pek })).toEqual({ status: Status.SUCCESS });
		expect(verifyAttestation(p, { report, pek, expected })).toEqual({ status: Status.SUCCESS });
	});

	test.prop([fc.nat({ max: 52 * 8 - 1 })])('refuses any flipped bit of what is signed', (bit) => {
		expect(verdict({ report: flipBit(report, bit) })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'signature' });
	});

	test.prop([fc.nat({ max: 144 * 8 - 1 })])('refuses any flipped bit of the signature', (bit) => {
		const flipped = flipBit(report, 8 * 0x40 + bit);
		expect(verdict({ report: flipped })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'signature' });
	});

	it.each([
		['another key', reportBy(scalar(0x51))],
		['the role of an OCA', reportBy(keys.pek, { usage: CertUsage.OCA })],
		['another algorithm', reportBy(keys.pek, { algo: 0x102 })],
	])('refuses a report signed with %s', (_, bad) => {
		expect(verdict({ report: bad })).toEqual({ status: Status.BAD_SIGNATURE, failed: 'signature' });
	});

	it('refuses a report of another length', () => {
		expect(verdict({ report: report.subarray(1) })).toEqual({ status: Status.INVALID_LENGTH, failed: 'report' });
	});

	const lying = pek.slice();
	sevCertificate.patch(lying, { algo: 0x102 });
	it.each([
		['an OCA', oca],
		['a PDH', pdh],
		['nothing', new Uint8Array(0)],
		['a PEK of another algorithm', lying],
	])('refuses %s for a PEK', (_, cert) => {
		expect(verdict({ pek: cert })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'pek' });
	});

	it('refuses a PEK whose key is off the curve', () => {
		const off = flipBit(pek, 8 * 0x14);
		expect(verdict({ pek: off })).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'pek' });
	});

	it.each([
		['mnonce', { mnonce: new Uint8Array(16) }, Status.BAD_MEASUREMENT],
		['mnonce', { mnonce: new Uint8Array(0) }, Status.BAD_MEASUREMENT],
		['digest', { digest: new Uint8Array(32) }, Status.BAD_MEASUREMENT],
		['policy', { policy: 0 }, Status.POLICY_FAILURE],
	])('refuses another %s than expected', (failed, change, status) => {
		expect(verdict({ expected: { mnonce, digest, policy, ...change } })).toEqual({ status, failed });
		expect(verdict({ expected: change })).toEqual({ status, failed });
	});
});
