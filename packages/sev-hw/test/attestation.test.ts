import { describe, expect, it } from 'vitest';
import { ATTESTATION_SIGNED_SIZE, attestationReport } from '../src/abi/attestation.js';
import { fromLittleEndian } from '../src/certificates/byte-order.js';
import { readSevCertificate } from '../src/certificates/sev-certificate.js';
import { expectRefusal, FORBIDDEN } from './refusal.js';
import { GuestState, guestIn, initialised, patternPage, provider, type Rig } from './rig.js';

const SIZE = 208;
const MNONCE = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i);
const POLICY = 0x0f000002;

function setUp(state: GuestState = GuestState.RUNNING) {
	const rig = initialised();
	const { handle } = guestIn(rig, state, POLICY);
	return { rig, sound: { handle, paddr: 0x300000n, mnonce: MNONCE, length: SIZE } };
}

/** Whether a report is signed by the PEK of the rig's platform, as anybody with its certificate checks it. */
function isGenuine(rig: Rig, report: Uint8Array): boolean {
	const pek = readSevCertificate(rig.platform.identity?.pek.certificate ?? new Uint8Array(0)).publicKey;
	const { sigR, sigS } = attestationReport.decode(report);
	const [r, s] = [fromLittleEndian(sigR, 48), fromLittleEndian(sigS, 48)];
	if (pek === undefined || r === undefined || s === undefined) throw new Error('report: expected P-384');
	return provider.p384.verify(pek, report.subarray(0, ATTESTATION_SIGNED_SIZE), { r, s }, 'sha256');
}

describe('ATTESTATION', () => {
	it.each([0, 207])('answers %d bytes with the length', (length) => {
		const { rig, sound } = setUp();
		const query = { ...sound, paddr: 0xa0000n, length };
		expectRefusal(rig, 'ATTESTATION', query, 'INVALID_LENGTH', { length: SIZE });
	});
	it.each(FORBIDDEN)('refuses an address %s', (_, paddr) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'ATTESTATION', { ...sound, paddr }, 'INVALID_ADDRESS');
	});
	it('refuses a handle that nobody has', () => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'ATTESTATION', { ...sound, handle: 99 }, 'INVALID_GUEST');
	});
	it.each([GuestState.LUPDATE, GuestState.RUPDATE])('refuses a guest in state %d, before the length', (state) => {
		const { rig, sound } = setUp(state);
		expectRefusal(rig, 'ATTESTATION', { ...sound, length: 0 }, 'INVALID_GUEST_STATE');
	});

	it.each([GuestState.LSECRET, GuestState.RUNNING, GuestState.SUPDATE, GuestState.SENT])(
		'reports the launch of a guest in state %d',
		(state) => {
			const { rig, sound } = setUp(state);
			expect(rig.must('ATTESTATION', { ...sound, length: 4096 })).toMatchObject({ length: SIZE });
			const report = rig.at(sound.paddr, SIZE);
			expect(attestationReport.decode(report)).toMatchObject({
				mnonce: MNONCE,
				launchDigest: provider.digest('sha256', patternPage()),
				policy: POLICY,
				sigUsage: 0x1002,
				sigAlgo: 0x002,
			});
			expect(report.subarray(0x3c, 0x40)).toEqual(new Uint8Array(4));
			expect(isGenuine(rig, report)).toBe(true);
			expect(rig.at(sound.paddr + 208n, 16)).toEqual(new Uint8Array(16));
		},
	);

	it('needs no ASID', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		rig.must('ATTESTATION', sound);
	});

	it.each([0x00, 0x0f, 0x10, 0x2f, 0x30, 0x33])('signs byte %d', (at) => {
		const { rig, sound } = setUp();
		rig.must('ATTESTATION', sound);
		const report = rig.at(sound.paddr, SIZE);
		report[at] = (report[at] ?? 0) ^ 1;
		expect(isGenuine(rig, report)).toBe(false);
	});

	it('makes a report that answers to no other nonce and to no other platform', () => {
		const { rig, sound } = setUp();
		rig.must('ATTESTATION', sound);
		const first = rig.at(sound.paddr, SIZE);
		rig.must('ATTESTATION', { ...sound, mnonce: new Uint8Array(16) });
		const second = rig.at(sound.paddr, SIZE);
		expect(second.subarray(0, 16)).not.toEqual(first.subarray(0, 16));
		const mixed = attestationReport.decode(first);
		const swapped = second.slice();
		attestationReport.patch(swapped, { sigR: mixed.sigR, sigS: mixed.sigS });
		expect([isGenuine(rig, second), isGenuine(rig, swapped)]).toEqual([true, false]);
		expect(isGenuine(initialised({ seed: 'other' }), first)).toBe(false);
	});

	it('says nothing of the launch of a received guest', () => {
		const { rig, sound } = setUp(GuestState.RUPDATE);
		rig.must('RECEIVE_FINISH', { handle: sound.handle });
		rig.must('ATTESTATION', sound);
		const report = rig.at(sound.paddr, SIZE);
		expect(attestationReport.decode(report).launchDigest).toEqual(new Uint8Array(32));
		expect(isGenuine(rig, report)).toBe(true);
	});
});
