import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { buildSevCertificate, CertAlgo, CertUsage } from '../src/certificates/sev-certificate.js';
import { PacketContext, sealPacket } from '../src/channel/packet.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import {
	ASID,
	controllerOf,
	createRig,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	peerOf,
	provider,
	type Rig,
	receiveStartFields,
} from './rig.js';

/** Fields of LAUNCH_START with the guest owner's certificate and session. */
function ownedLaunch(rig: Rig, policy: number) {
	const { pdhCertPaddr, pdhCertLen, ...rest } = receiveStartFields(rig, policy);
	return { dhCertPaddr: pdhCertPaddr, dhCertLen: pdhCertLen, ...rest };
}

const flipped = (data: Uint8Array, at: number) => data.map((b, i) => (i === at ? b ^ 1 : b));
const api = (major: number, minor: number) => ((major << 16) | (minor << 24)) >>> 0;
/** As strict about the version as the firmware of the tests can take. */
const POLICY = api(0, 24);

describe.each([
	['LAUNCH_START', 'dhCertPaddr', 'dhCertLen'],
	['RECEIVE_START', 'pdhCertPaddr', 'pdhCertLen'],
] as const)('%s with a session', (name, certPaddr, certLen) => {
	const sound = (rig: Rig, policy = POLICY) =>
		name === 'LAUNCH_START' ? ownedLaunch(rig, policy) : receiveStartFields(rig, policy);
	const cert = (usage: number, algo: number) => (rig: Rig) => {
		const key = provider.p384.publicKey(new Uint8Array(48).fill(0x11));
		return { [certPaddr]: rig.put(buildSevCertificate({ version: { major: 0, minor: 24 }, usage, algo, key })) };
	};
	const session = (at: number) => (rig: Rig) => ({ sessionPaddr: rig.put(flipped(peerOf(rig, POLICY).session, at)) });
	const cases: readonly Case[] = [
		['a session that is too short', { sessionLen: 127 }, 'INVALID_LENGTH'],
		['a session that is too long', { sessionLen: 129 }, 'INVALID_LENGTH'],
		['a certificate that is too short', { [certLen]: 2083 }, 'INVALID_LENGTH'],
		['a certificate that is too long', { [certLen]: 2085 }, 'INVALID_LENGTH'],
		['a certificate for another use', cert(CertUsage.PEK, CertAlgo.ECDH_SHA256), 'INVALID_CERTIFICATE'],
		['a certificate for another algorithm', cert(CertUsage.PDH, CertAlgo.ECDSA_SHA256), 'INVALID_CERTIFICATE'],
		[
			'a point off the curve',
			(rig) => ({ [certPaddr]: rig.put(flipped(peerOf(rig, 0).cert, 0x14)) }),
			'INVALID_CERTIFICATE',
		],
		['a nonce that was changed', session(0x00), 'BAD_MEASUREMENT'],
		['wrapped keys that were changed', session(0x10), 'BAD_MEASUREMENT'],
		['a wrapping IV that was changed: the policy MAC notices', session(0x30), 'BAD_MEASUREMENT'],
		['a MAC of the wrapped keys that was changed', session(0x40), 'BAD_MEASUREMENT'],
		['a policy MAC that was changed', session(0x60), 'BAD_MEASUREMENT'],
		['another policy than that of the session', { policy: POLICY | 1 }, 'BAD_MEASUREMENT'],
		['a policy that wants a newer minor version', (rig) => sound(rig, api(0, 25)), 'POLICY_FAILURE'],
		['a policy that wants a newer major version', (rig) => sound(rig, api(1, 0)), 'POLICY_FAILURE'],
		['a policy with the lowest reserved bit', (rig) => sound(rig, 1 << 6), 'POLICY_FAILURE'],
		['a policy with the highest reserved bit', (rig) => sound(rig, 1 << 15), 'POLICY_FAILURE'],
		['sharing with a guest that does not exist', { handle: 7 }, 'INVALID_GUEST'],
		[
			'sharing with a guest of another policy',
			(rig) => ({ handle: guestIn(rig, GuestState.LUPDATE).handle }),
			'POLICY_FAILURE',
		],
		['an ES guest on a platform without ES', (rig) => sound(rig, Policy.ES), 'UNSUPPORTED'],
		['lengths before the certificate', (rig) => ({ ...cert(0, 0)(rig), sessionLen: 0 }), 'INVALID_LENGTH'],
	];

	it.each(cases)('refuses %s', (_, change, status) => {
		const rig = initialised();
		expectRefusal(rig, name, changed(rig, sound(rig), change), status);
	});

	it.each(FORBIDDEN)('refuses addresses %s', (_, address) => {
		const rig = initialised();
		const fields = sound(rig);
		expectRefusal(rig, name, { ...fields, sessionPaddr: address }, 'INVALID_ADDRESS');
		expectRefusal(rig, name, { ...fields, [certPaddr]: address }, 'INVALID_ADDRESS');
	});

	it('refuses a session made for an earlier PDH', () => {
		const rig = initialised();
		const fields = sound(rig);
		rig.must('PDH_GEN');
		expectRefusal(rig, name, fields, 'BAD_MEASUREMENT');
	});

	it('refuses to share a key under NOKS', () => {
		const rig = initialised();
		const { handle = 0 } = rig.must(name, sound(rig, Policy.NOKS));
		expectRefusal(rig, name, { ...sound(rig, Policy.NOKS), handle }, 'POLICY_FAILURE');
	});

	it('shares the memory key with a guest of the same policy', () => {
		const rig = initialised();
		const { handle: first = 0 } = rig.must(name, sound(rig));
		const { handle: second = 0 } = rig.must(name, { ...sound(rig), handle: first });
		expect(second).not.toBe(first);
		expect(rig.platform.guests.get(second)?.vek).toEqual(rig.platform.guests.get(first)?.vek);
	});

	it('installs the keys of the session', () => {
		const rig = initialised();
		const { handle = 0 } = rig.must(name, sound(rig));
		expect(rig.platform.guests.get(handle)?.channel).toMatchObject(peerOf(rig, POLICY).keys);
	});
});

describe('LAUNCH_START', () => {
	it.each([
		['a version', { policy: api(0, 25) }],
		['reserved bits', { policy: 1 << 9 }],
	])('checks %s of the policy without an owner as well', (_, fields) => {
		expectRefusal(initialised(), 'LAUNCH_START', fields, 'POLICY_FAILURE');
	});

	it('ignores all fields of the owner when there is no certificate', () => {
		expect(initialised().command('LAUNCH_START', { sessionLen: 1, sessionPaddr: 1n, dhCertLen: 1 }).status).toBe(
			'SUCCESS',
		);
	});

	it('gives the lowest free handle, and none beyond 1024', () => {
		const rig = initialised();
		for (let i = 1; i <= 1024; i++) expect(rig.must('LAUNCH_START').handle).toBe(i);
		expectRefusal(rig, 'LAUNCH_START', {}, 'RESOURCE_LIMIT');
		rig.must('DECOMMISSION', { handle: 77 });
		rig.must('DECOMMISSION', { handle: 700 });
		expect(rig.must('LAUNCH_START').handle).toBe(77);
	});

	it('takes an ES guest when INIT had the ES flag', () => {
		const rig = createRig();
		rig.must('INIT', { flags: 1, tmrPaddr: 0x200000n, tmrLength: 0x100000 });
		rig.machine.wbinvd();
		rig.must('DF_FLUSH');
		const { handle = 0 } = rig.must('LAUNCH_START', { policy: Policy.ES });
		expectRefusal(rig, 'ACTIVATE', { handle, asid: 100 }, 'INVALID_ASID');
		rig.must('ACTIVATE', { handle, asid: 99 });
	});
});

describe('LAUNCH_UPDATE_DATA', () => {
	const cases: readonly Case[] = [
		['an address that is not 16-aligned', { paddr: 0x200008n }, 'INVALID_ADDRESS'],
		['no length', { length: 0 }, 'INVALID_LENGTH'],
		['a length that is no multiple of 16', { length: 24 }, 'INVALID_LENGTH'],
		['alignment before length', { paddr: 0x200008n, length: 0 }, 'INVALID_ADDRESS'],
		['length before range', { paddr: 0xa0000n, length: 8 }, 'INVALID_LENGTH'],
		...FORBIDDEN.map(([where, paddr]): Case => [`an address ${where}`, { paddr }, 'INVALID_ADDRESS']),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		expectRefusal(rig, 'LAUNCH_UPDATE_DATA', changed(rig, { handle, paddr: 0x300000n, length: 32 }, change), status);
	});
	it('refuses a guest without ASID', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'LAUNCH_UPDATE_DATA', { handle, paddr: 0x300000n, length: 32 }, 'INACTIVE');
	});
	it('encrypts in place, also more than its scratch memory holds', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		const plain = Uint8Array.from({ length: 0x40010 }, (_, i) => i % 251);
		rig.machine.dram.set(plain, 0x300000);
		rig.must('LAUNCH_UPDATE_DATA', { handle, paddr: 0x300000n, length: plain.length });
		const back = new Uint8Array(plain.length);
		controllerOf(rig).read(ASID, 0x300000, back);
		expect(Buffer.compare(back, plain)).toBe(0);
		expect(Buffer.from(rig.at(0x300000, plain.length)).includes(Buffer.from(plain.subarray(0, 16)))).toBe(false);
	});
});

describe('LAUNCH_MEASURE', () => {
	it.each([0, 47])('answers %d bytes with the length', (length) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		expectRefusal(rig, 'LAUNCH_MEASURE', { handle, paddr: 0xa0000n, length }, 'INVALID_LENGTH', { length: 48 });
	});
	it.each(FORBIDDEN)('refuses an address %s', (_, paddr) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		expectRefusal(rig, 'LAUNCH_MEASURE', { handle, paddr, length: 48 }, 'INVALID_ADDRESS');
	});
	it('leaves the length of a longer buffer as it was', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		expect(rig.must('LAUNCH_MEASURE', { handle, paddr: 0x300000n, length: 64 })).toMatchObject({ length: 64 });
	});
});

describe('LAUNCH_SECRET', () => {
	const secret = patternPage().subarray(0, 64);
	/** A guest in LSECRET and a good packet for it. */
	function setUp(context: number = PacketContext.secret) {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LSECRET);
		const guest = rig.platform.guests.get(handle);
		if (guest === undefined) throw new Error('guest');
		const iv = new Uint8Array(16).fill(9);
		const { header, payload } = sealPacket(provider, guest.channel, {
			context,
			iv,
			plaintext: secret,
			measure: guest.measure,
		});
		const [hdrPaddr, transPaddr] = [rig.put(header), rig.put(payload)];
		const sound = { handle, hdrPaddr, hdrLen: 52, guestPaddr: 0x300000n, guestLen: 64, transPaddr, transLen: 64 };
		return { rig, sound, header, payload };
	}
	const cases: readonly Case[] = [
		['a guest address that is not 16-aligned', { guestPaddr: 0x300008n }, 'INVALID_ADDRESS'],
		['a header of 51 bytes', { hdrLen: 51 }, 'INVALID_LENGTH'],
		['a header of 53 bytes', { hdrLen: 53 }, 'INVALID_LENGTH'],
		['no data', { guestLen: 0, transLen: 0 }, 'INVALID_LENGTH'],
		['data that is no multiple of 16', { guestLen: 56, transLen: 56 }, 'INVALID_LENGTH'],
		['more than 16 KiB', { guestLen: 0x4010, transLen: 0x4010 }, 'INVALID_LENGTH'],
		['lengths that differ', { transLen: 80 }, 'INVALID_LENGTH'],
		['alignment before lengths', { guestPaddr: 1n, hdrLen: 0 }, 'INVALID_ADDRESS'],
		['a length that the MAC does not cover', { guestLen: 48, transLen: 48 }, 'BAD_MEASUREMENT'],
		...FORBIDDEN.flatMap(([where, address]): Case[] => [
			[`a header ${where}`, { hdrPaddr: address }, 'INVALID_ADDRESS'],
			[`a payload ${where}`, { transPaddr: address }, 'INVALID_ADDRESS'],
			[`guest memory ${where}`, { guestPaddr: address }, 'INVALID_ADDRESS'],
		]),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'LAUNCH_SECRET', changed(rig, sound, change), status);
	});
	it.each([0, 4, 20, 51])('refuses a header whose byte %d was changed', (at) => {
		const { rig, sound, header } = setUp();
		expectRefusal(rig, 'LAUNCH_SECRET', { ...sound, hdrPaddr: rig.put(flipped(header, at)) }, 'BAD_MEASUREMENT');
	});
	it('refuses a payload that was changed', () => {
		const { rig, sound, payload } = setUp();
		expectRefusal(rig, 'LAUNCH_SECRET', { ...sound, transPaddr: rig.put(flipped(payload, 63)) }, 'BAD_MEASUREMENT');
	});
	it('refuses a packet made as a page of a migration', () => {
		const { rig, sound } = setUp(PacketContext.data);
		expectRefusal(rig, 'LAUNCH_SECRET', sound, 'BAD_MEASUREMENT');
	});
	it('refuses a guest without ASID', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'LAUNCH_SECRET', sound, 'INACTIVE');
	});
	it('checks address and lengths before the state', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		expectRefusal(rig, 'LAUNCH_SECRET', { handle, guestPaddr: 8n }, 'INVALID_ADDRESS');
		expectRefusal(rig, 'LAUNCH_SECRET', { handle }, 'INVALID_LENGTH');
	});
	it('puts the secret into guest memory, again and again', () => {
		const { rig, sound } = setUp();
		rig.must('LAUNCH_SECRET', sound);
		rig.must('LAUNCH_SECRET', { ...sound, guestPaddr: 0x301000n });
		const out = new Uint8Array(64);
		controllerOf(rig).read(ASID, 0x301000, out);
		expect(out).toEqual(secret);
		expect(rig.at(0x301000, 64)).not.toEqual(secret);
	});
});
