import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { PacketContext, sealPacket } from '../src/channel/packet.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import {
	ASID,
	certificatesOf,
	controllerOf,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	provider,
	type Rig,
	sendStartFields,
} from './rig.js';

const flipped = (data: Uint8Array, at: number) => data.map((b, i) => (i === at ? b ^ 1 : b));

describe('SEND_START', () => {
	function setUp(policy = 0, state: GuestState = GuestState.RUNNING) {
		const rig = initialised();
		const target = initialised({ seed: 'target' });
		const { handle } = guestIn(rig, state, policy);
		const certs = certificatesOf(target);
		return { rig, certs, sound: sendStartFields(rig, handle, certs) };
	}
	const { SEV, DOMAIN } = Policy;
	const cert = (i: number, at: number) => 2084 * i + at;
	const PEK = 0;
	const OCA = 1;
	const CEK = 2;
	type Certs = ReturnType<typeof certificatesOf>;
	type SendCase = readonly [string, number, (c: Certs, rig: Rig) => Record<string, number | bigint>, string];
	const plat = (at: number) => (c: Certs, rig: Rig) => ({ platCertsPaddr: rig.put(flipped(c.platform, at)) });
	const pdh = (at: number) => (c: Certs, rig: Rig) => ({ pdhCertPaddr: rig.put(flipped(c.pdh, at)) });
	const amd = (at: number) => (c: Certs, rig: Rig) => ({ amdCertsPaddr: rig.put(flipped(c.amd, at)) });
	const cases: readonly SendCase[] = [
		['NOSEND', Policy.NOSEND, () => ({}), 'POLICY_FAILURE'],
		['a PDH that is too short', 0, () => ({ pdhCertLen: 2083 }), 'INVALID_LENGTH'],
		['a PDH for another use', 0, pdh(0x08), 'INVALID_CERTIFICATE'],
		['a PDH for another algorithm', 0, pdh(0x0c), 'INVALID_CERTIFICATE'],
		['a PDH off the curve', 0, pdh(0x14), 'INVALID_CERTIFICATE'],
		['a PDH of another certificate version', 0, pdh(0x00), 'INVALID_CERTIFICATE'],
		['SEV: a short PDH', SEV, () => ({ pdhCertLen: 2083 }), 'INVALID_LENGTH'],
		['SEV: a short platform chain', SEV, () => ({ platCertsLen: 6251 }), 'INVALID_LENGTH'],
		['SEV: an AMD chain of an impossible length', SEV, () => ({ amdCertsLen: 1663 }), 'INVALID_LENGTH'],
		['SEV: an AMD chain of another possible length', SEV, () => ({ amdCertsLen: 3200 }), 'INVALID_CERTIFICATE'],
		['SEV: an ARK whose key id was changed', SEV, amd(832 + 0x04), 'BAD_SIGNATURE'],
		['SEV: an ARK whose signature was changed', SEV, amd(1663 - 8), 'BAD_SIGNATURE'],
		['SEV: an ASK whose usage was changed', SEV, amd(0x24), 'BAD_SIGNATURE'],
		['SEV: an ASK whose signature was changed', SEV, amd(832 - 8), 'BAD_SIGNATURE'],
		['SEV: a CEK whose signature was changed', SEV, plat(cert(CEK, 0x41c)), 'BAD_SIGNATURE'],
		[
			'SEV: a CEK without its signature',
			SEV,
			(c, rig) => ({ platCertsPaddr: rig.put(c.exported) }),
			'INVALID_CERTIFICATE',
		],
		['SEV: a PEK whose signature by the CEK was changed', SEV, plat(cert(PEK, 0x624)), 'BAD_SIGNATURE'],
		['SEV: a PEK whose version was changed', SEV, plat(cert(PEK, 0x05)), 'BAD_SIGNATURE'],
		['SEV: a PDH whose signature was changed', SEV, pdh(0x41c), 'BAD_SIGNATURE'],
		['DOMAIN: a short PDH', DOMAIN, () => ({ pdhCertLen: 2083 }), 'INVALID_LENGTH'],
		['DOMAIN: a short platform chain', DOMAIN, () => ({ platCertsLen: 6251 }), 'INVALID_LENGTH'],
		['DOMAIN: an OCA whose signature was changed', DOMAIN, plat(cert(OCA, 0x41c)), 'BAD_SIGNATURE'],
		['DOMAIN: a PEK whose signature by the OCA was changed', DOMAIN, plat(cert(PEK, 0x41c)), 'BAD_SIGNATURE'],
		['DOMAIN: a PDH whose signature was changed', DOMAIN, pdh(0x41c), 'BAD_SIGNATURE'],
		['DOMAIN: another owner', DOMAIN, () => ({}), 'POLICY_FAILURE'],
		['SEV and DOMAIN: another owner', SEV | DOMAIN, () => ({}), 'POLICY_FAILURE'],
		['SEV and DOMAIN: the platform before the owner', SEV | DOMAIN, amd(0x24), 'BAD_SIGNATURE'],
	];
	it.each(cases)('refuses %s', (_, policy, change, status) => {
		const { rig, certs, sound } = setUp(policy);
		expectRefusal(rig, 'SEND_START', { ...sound, ...change(certs, rig) }, status);
	});

	it.each(FORBIDDEN)('refuses addresses %s', (_, address) => {
		const plain = setUp();
		expectRefusal(plain.rig, 'SEND_START', { ...plain.sound, pdhCertPaddr: address }, 'INVALID_ADDRESS');
		expectRefusal(plain.rig, 'SEND_START', { ...plain.sound, sessionPaddr: address }, 'INVALID_ADDRESS');
		const proven = setUp(Policy.SEV);
		expectRefusal(proven.rig, 'SEND_START', { ...proven.sound, platCertsPaddr: address }, 'INVALID_ADDRESS');
		expectRefusal(proven.rig, 'SEND_START', { ...proven.sound, amdCertsPaddr: address }, 'INVALID_ADDRESS');
		const domain = setUp(Policy.DOMAIN);
		expectRefusal(domain.rig, 'SEND_START', { ...domain.sound, platCertsPaddr: address }, 'INVALID_ADDRESS');
	});

	it('does not read chains that the policy does not ask for', () => {
		const { rig, sound } = setUp();
		const none = { platCertsPaddr: 0xa0000n, platCertsLen: 1, amdCertsPaddr: 0xa0000n, amdCertsLen: 1 };
		expect(rig.command('SEND_START', { ...sound, ...none }).status).toBe('SUCCESS');
	});

	it('refuses a target whose PEK was made by firmware older than the policy wants', () => {
		const rig = initialised({ version: { major: 0, minor: 30, build: 0 } });
		const { handle } = guestIn(rig, GuestState.RUNNING, Policy.SEV | (25 << 24));
		const old = certificatesOf(initialised({ seed: 'target' }));
		expectRefusal(rig, 'SEND_START', sendStartFields(rig, handle, old), 'POLICY_FAILURE');
		const recent = certificatesOf(initialised({ seed: 'newer', version: { major: 0, minor: 25, build: 0 } }));
		expect(rig.command('SEND_START', sendStartFields(rig, handle, recent)).status).toBe('SUCCESS');
	});

	it('trusts no other root than its own', () => {
		const rig = initialised({ trustedRoot: { keyId: new Uint8Array(16) } });
		const { handle } = guestIn(rig, GuestState.RUNNING, Policy.SEV);
		expectRefusal(rig, 'SEND_START', sendStartFields(rig, handle, certificatesOf(rig)), 'INVALID_CERTIFICATE');
	});

	it.each([0, 127, 129])(
		'answers a session of %d bytes with the length, before it looks at the state',
		(sessionLen) => {
			const { rig, sound } = setUp(0, GuestState.LUPDATE);
			expectRefusal(rig, 'SEND_START', { handle: sound.handle, sessionLen }, 'INVALID_LENGTH', { sessionLen: 128 });
			expectRefusal(rig, 'SEND_START', { handle: 99, sessionLen }, 'INVALID_GUEST');
		},
	);

	it('needs no ASID', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		rig.must('SEND_START', sound);
	});
});

/** Fields that both page commands of a migration refuse; 0x300000 is the sound guest address of the tests. */
const COMMON: readonly Case[] = [
	['no data', { guestLen: 0, transLen: 0 }, 'INVALID_LENGTH'],
	['data that is no multiple of 16', { guestLen: 56, transLen: 56 }, 'INVALID_LENGTH'],
	['more than 16 KiB', { guestLen: 0x4010, transLen: 0x4010 }, 'INVALID_LENGTH'],
	['a payload shorter than the data', { transLen: 48 }, 'INVALID_LENGTH'],
	['a guest address that is not 16-aligned', { guestPaddr: 0x300008n }, 'INVALID_ADDRESS'],
	['lengths before alignment', { guestPaddr: 0x300008n, guestLen: 0 }, 'INVALID_LENGTH'],
	...FORBIDDEN.flatMap(([where, address]): Case[] => [
		[`a header ${where}`, { hdrPaddr: address }, 'INVALID_ADDRESS'],
		[`a payload ${where}`, { transPaddr: address }, 'INVALID_ADDRESS'],
		[`guest memory ${where}`, { guestPaddr: address }, 'INVALID_ADDRESS'],
	]),
];

describe('SEND_UPDATE_DATA', () => {
	function setUp() {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.SUPDATE);
		const [hdrPaddr, transPaddr] = [BigInt(rig.allocate(52)), BigInt(rig.allocate(4096))];
		return {
			rig,
			page,
			sound: { handle, hdrPaddr, hdrLen: 52, guestPaddr: page, guestLen: 64, transPaddr, transLen: 64 },
		};
	}
	it.each(COMMON)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'SEND_UPDATE_DATA', changed(rig, sound, change), status);
	});
	it('refuses a guest without ASID', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'SEND_UPDATE_DATA', { ...sound, guestLen: 0 }, 'INACTIVE');
	});
	it.each([0, 51])('answers a header of %d bytes with the length, before it looks for the guest', (hdrLen) => {
		const { rig } = setUp();
		expectRefusal(rig, 'SEND_UPDATE_DATA', { handle: 99, hdrLen }, 'INVALID_LENGTH', { hdrLen: 52 });
	});
	it('writes only as much as there is data, and says how long the header is', () => {
		const { rig, sound } = setUp();
		rig.machine.dram.fill(0xee, Number(sound.transPaddr), Number(sound.transPaddr) + 4096);
		expect(rig.must('SEND_UPDATE_DATA', { ...sound, hdrLen: 4096, transLen: 4096 })).toMatchObject({
			hdrLen: 52,
			transLen: 4096,
		});
		expect(rig.at(sound.transPaddr + 64n, 4032)).toEqual(new Uint8Array(4032).fill(0xee));
		expect(rig.at(sound.hdrPaddr, 4)).toEqual(new Uint8Array(4));
	});
	it('sends a page as often as it is asked to, never with the same IV', () => {
		const { rig, sound } = setUp();
		const ivs = new Set<string>();
		for (let i = 0; i < 8; i++) {
			rig.must('SEND_UPDATE_DATA', sound);
			ivs.add(rig.at(sound.hdrPaddr + 4n, 16).toString());
		}
		expect(ivs.size).toBe(8);
	});
});

describe('RECEIVE_UPDATE_DATA', () => {
	const data = patternPage().subarray(0, 64);
	function setUp(context: number = PacketContext.data) {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUPDATE);
		const guest = rig.platform.guests.get(handle);
		if (guest === undefined) throw new Error('guest');
		const { header, payload } = sealPacket(provider, guest.channel, {
			context,
			iv: new Uint8Array(16).fill(7),
			plaintext: data,
		});
		const [hdrPaddr, transPaddr] = [rig.put(header), rig.put(payload)];
		const sound = { handle, hdrPaddr, hdrLen: 52, guestPaddr: 0x300000n, guestLen: 64, transPaddr, transLen: 64 };
		return { rig, sound, header, payload };
	}
	it.each([
		...COMMON,
		['a header that is too short', { hdrLen: 51 }, 'INVALID_LENGTH'],
		['a payload longer than the data', { transLen: 80 }, 'INVALID_LENGTH'],
		['a length that the MAC does not cover', { guestLen: 48, transLen: 48 }, 'BAD_MEASUREMENT'],
	] as Case[])('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'RECEIVE_UPDATE_DATA', changed(rig, sound, change), status);
	});
	it('refuses a guest without ASID', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'RECEIVE_UPDATE_DATA', { ...sound, guestLen: 0 }, 'INACTIVE');
	});
	it('refuses a compressed packet before it looks at the MAC', () => {
		const { rig, sound, header } = setUp();
		expectRefusal(rig, 'RECEIVE_UPDATE_DATA', { ...sound, hdrPaddr: rig.put(flipped(header, 0)) }, 'UNSUPPORTED');
	});
	it.each([1, 3, 4, 19, 20, 51])('refuses a header whose byte %d was changed', (at) => {
		const { rig, sound, header } = setUp();
		expectRefusal(rig, 'RECEIVE_UPDATE_DATA', { ...sound, hdrPaddr: rig.put(flipped(header, at)) }, 'BAD_MEASUREMENT');
	});
	it.each([0, 63])('refuses a payload whose byte %d was changed', (at) => {
		const { rig, sound, payload } = setUp();
		expectRefusal(
			rig,
			'RECEIVE_UPDATE_DATA',
			{ ...sound, transPaddr: rig.put(flipped(payload, at)) },
			'BAD_MEASUREMENT',
		);
	});
	it('refuses a packet made as a launch secret', () => {
		const { rig, sound } = setUp(PacketContext.secret);
		expectRefusal(rig, 'RECEIVE_UPDATE_DATA', sound, 'BAD_MEASUREMENT');
	});
	it('takes a packet twice, as it remembers none', () => {
		const { rig, sound } = setUp();
		rig.must('RECEIVE_UPDATE_DATA', { ...sound, hdrLen: 60 });
		rig.must('RECEIVE_UPDATE_DATA', { ...sound, guestPaddr: 0x301010n });
		const out = new Uint8Array(64);
		controllerOf(rig).read(ASID, 0x301010, out);
		expect(out).toEqual(data);
	});
});
