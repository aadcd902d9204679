import { describe, expect, it } from 'vitest';
import { PacketContext, packetHeader, packetMac, sealPacket } from '../src/channel/packet.js';
import { expectRefusal } from './refusal.js';
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
	receiveStartFields,
} from './rig.js';

const NEWER = 25 << 24;
const RESERVED_BIT = 1 << 9;
const LIMIT = 0x5000;

describe('a firmware that leaves the policy unchecked without an owner', () => {
	const rig = () => initialised({ options: { checkPolicyWithoutOwner: false } });

	it.each([
		['version', NEWER],
		['reserved bits', RESERVED_BIT],
	])('takes any %s in LAUNCH_START without a certificate', (_, policy) => {
		const { handle = 0 } = rig().must('LAUNCH_START', { policy });
		expect(handle).toBe(1);
	});

	it.each([
		['version', NEWER],
		['reserved bits', RESERVED_BIT],
	])('still checks the %s with one, and in RECEIVE_START', (_, policy) => {
		const host = rig();
		const { pdhCertPaddr, pdhCertLen, ...session } = receiveStartFields(host, policy, peerOf(host, policy));
		const owned = { ...session, dhCertPaddr: pdhCertPaddr, dhCertLen: pdhCertLen };
		expectRefusal(host, 'LAUNCH_START', owned, 'POLICY_FAILURE');
		expectRefusal(host, 'RECEIVE_START', { ...session, pdhCertPaddr, pdhCertLen }, 'POLICY_FAILURE');
	});

	it('still refuses an ES guest on a platform without ES', () => {
		expectRefusal(rig(), 'LAUNCH_START', { policy: 4 }, 'UNSUPPORTED');
	});
});

describe('a firmware that takes packets of 20 KiB', () => {
	const options = { packetLimit: LIMIT };
	const large = Uint8Array.from({ length: LIMIT }, (_, i) => (i * 13) % 251);
	const lengths = (length: number) => ({ hdrLen: 52, guestLen: length, transLen: length });

	it('sends and receives them, and no more', () => {
		const source = initialised({ options });
		const { handle } = guestIn(source, GuestState.SUPDATE);
		controllerOf(source).write(ASID, 0x300000, large);
		const packet = { hdrPaddr: 0x310000n, guestPaddr: 0x300000n, transPaddr: 0x320000n };
		source.must('SEND_UPDATE_DATA', { handle, ...packet, ...lengths(LIMIT) });
		expectRefusal(source, 'SEND_UPDATE_DATA', { handle, ...packet, ...lengths(LIMIT + 16) }, 'INVALID_LENGTH');

		const target = initialised({ options });
		const { handle: received } = guestIn(target, GuestState.RUPDATE);
		const { tek, tik } = peerOf(target, 0).keys;
		const sealed = sealPacket(
			provider,
			{ tek, tik },
			{ context: PacketContext.data, iv: new Uint8Array(16), plaintext: large },
		);
		target.machine.dram.set(sealed.header, Number(packet.hdrPaddr));
		target.machine.dram.set(sealed.payload, Number(packet.transPaddr));
		target.must('RECEIVE_UPDATE_DATA', { handle: received, ...packet, ...lengths(LIMIT) });
		const longer = { handle: received, ...packet, ...lengths(LIMIT + 16) };
		expectRefusal(target, 'RECEIVE_UPDATE_DATA', longer, 'INVALID_LENGTH');
		const out = new Uint8Array(LIMIT);
		controllerOf(target).read(ASID, 0x300000, out);
		expect(Buffer.compare(out, large)).toBe(0);
	});

	it('takes launch secrets of that size, and no more', () => {
		const rig = initialised({ options });
		const { handle } = guestIn(rig, GuestState.LSECRET);
		const fields = { handle, hdrPaddr: 0x310000n, guestPaddr: 0x300000n, transPaddr: 0x320000n };
		expectRefusal(rig, 'LAUNCH_SECRET', { ...fields, ...lengths(LIMIT) }, 'BAD_MEASUREMENT');
		expectRefusal(rig, 'LAUNCH_SECRET', { ...fields, ...lengths(LIMIT + 16) }, 'INVALID_LENGTH');
	});

	it.each([0, 15, 0x10010, 1.5])('is not made for %d bytes', (packetLimit) => {
		expect(() => createRig({ options: { packetLimit } })).toThrow('options.packetLimit: expected 16 … 65536');
	});
});

describe('a firmware that fills in TRANS_LEN', () => {
	it('answers the length query of SEND_UPDATE_DATA with both lengths', () => {
		const rig = initialised({ options: { fillTransLenOnQuery: true } });
		const { handle } = guestIn(rig, GuestState.SUPDATE);
		const answers = { hdrLen: 52, transLen: 0x1230 };
		expectRefusal(rig, 'SEND_UPDATE_DATA', { handle, guestLen: 0x1230 }, 'INVALID_LENGTH', answers);
	});
	it('leaves it alone by default', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.SUPDATE);
		expectRefusal(rig, 'SEND_UPDATE_DATA', { handle, guestLen: 0x1230 }, 'INVALID_LENGTH', { hdrLen: 52 });
	});
});

describe('a compressed launch secret', () => {
	it('is refused as such only when its MAC holds', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LSECRET);
		const guest = rig.platform.guests.get(handle);
		if (guest === undefined) throw new Error('guest');
		const ciphertext = patternPage().subarray(0, 64);
		const iv = new Uint8Array(16).fill(5);
		const input = { flags: 1, iv, guestLength: 64, transLength: 64, ciphertext, measure: guest.measure };
		const mac = packetMac(provider, guest.channel.tik, { context: PacketContext.secret, ...input });
		const sound = {
			handle,
			hdrPaddr: rig.put(packetHeader.encode({ flags: 1, iv, mac })),
			hdrLen: 52,
			guestPaddr: 0x300000n,
			guestLen: 64,
			transPaddr: rig.put(ciphertext),
			transLen: 64,
		};
		expectRefusal(rig, 'LAUNCH_SECRET', sound, 'UNSUPPORTED');
		const forged = rig.put(packetHeader.encode({ flags: 1, iv, mac: new Uint8Array(32) }));
		expectRefusal(rig, 'LAUNCH_SECRET', { ...sound, hdrPaddr: forged }, 'BAD_MEASUREMENT');
	});
});

describe('the launch digest', () => {
	it('is kept from LAUNCH_MEASURE on, also when the channel is closed', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		const guest = rig.platform.guests.get(handle);
		expect(guest?.launchDigest).toEqual(new Uint8Array(32));
		rig.must('LAUNCH_MEASURE', { handle, paddr: 0x300000n, length: 48 });
		rig.must('LAUNCH_FINISH', { handle });
		expect(guest?.launchDigest).toEqual(provider.digest('sha256', patternPage()));
		expect(guest?.measure).toEqual(new Uint8Array(32));
	});
});
