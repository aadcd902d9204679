import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { PacketContext, sealPacket } from '../src/channel/packet.js';
import { vmsa } from '../src/vmsa/layout.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import {
	certificatesOf,
	controllerOf,
	createRig,
	ES_ASID,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	patternVmsa,
	provider,
	type Rig,
	sendStartFields,
	tmrOf,
} from './rig.js';
import { guestOf, plaintextOf, SIZE, sendFields } from './save-area-rig.js';

const { ES } = Policy;
/** Fresh page of the ES rigs, which have their TMR where the tests of other commands have their page. */
const PAGE = 0x2f0000n;

/** Takes all slots but `left`. */
function exhaust(rig: Rig, left = 0): void {
	const { vmsaSlots } = rig.platform;
	const owner = 1024;
	for (let slot = vmsaSlots.freeSlot(); slot !== undefined; slot = vmsaSlots.freeSlot()) {
		if (slot + 64 * left >= tmrOf(rig) + 0x100000) return;
		vmsaSlots.register(slot, owner, 0n);
	}
}

const FORBIDDEN_WITH_TMR = [
	...FORBIDDEN,
	['in the TMR', 0x300000n],
	['running into the TMR', 0x2ffff0n],
	['at the end of the TMR', 0x3fff00n],
] as const;

describe('LAUNCH_UPDATE_VMSA', () => {
	const setUp = (state: GuestState = GuestState.LUPDATE) => {
		const rig = initialised({ es: true });
		const guest = guestIn(rig, state, ES);
		return { rig, guest, sound: { handle: guest.handle, paddr: PAGE, length: SIZE } };
	};
	const cases: readonly Case[] = [
		['a length below one page', { length: 4080 }, 'INVALID_LENGTH'],
		['a length above one page', { length: 8192 }, 'INVALID_LENGTH'],
		['no length', { length: 0 }, 'INVALID_LENGTH'],
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		['length before the handle', { handle: 99, length: 1 }, 'INVALID_LENGTH'],
		['an address that is not 16-aligned', { paddr: PAGE + 8n }, 'INVALID_ADDRESS'],
		...FORBIDDEN_WITH_TMR.map(([where, paddr]): Case => [`an address ${where}`, { paddr }, 'INVALID_ADDRESS']),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', changed(rig, sound, change), status);
	});
	it('checks the length before the platform state', () => {
		expectRefusal(createRig(), 'LAUNCH_UPDATE_VMSA', { length: 16 }, 'INVALID_LENGTH');
		expectRefusal(createRig(), 'LAUNCH_UPDATE_VMSA', { length: SIZE }, 'INVALID_PLATFORM_STATE');
	});
	it('refuses a guest that is measured', () => {
		const { rig, sound } = setUp(GuestState.LSECRET);
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', sound, 'INVALID_GUEST_STATE');
	});
	it('refuses a guest without ES, before it looks for an ASID', () => {
		const { rig } = setUp();
		const { handle = 0 } = rig.must('LAUNCH_START');
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', { handle, paddr: PAGE, length: SIZE }, 'UNSUPPORTED');
	});
	it('refuses a guest without ASID, before it looks at the address', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', { ...sound, paddr: 1n }, 'INACTIVE');
	});
	it('refuses one save area more than the TMR has slots', () => {
		const { rig, sound } = setUp();
		exhaust(rig, 1);
		rig.must('LAUNCH_UPDATE_VMSA', sound);
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', sound, 'RESOURCE_LIMIT');
		expectRefusal(rig, 'LAUNCH_UPDATE_VMSA', { ...sound, paddr: 1n }, 'INVALID_ADDRESS');
	});
	it('encrypts the page with a slot of its own in it, at any multiple of 16', () => {
		const { rig, guest, sound } = setUp();
		rig.machine.dram.set(patternVmsa(), Number(PAGE) + 16);
		rig.must('LAUNCH_UPDATE_VMSA', { ...sound, paddr: PAGE + 16n });
		const second = plaintextOf(rig, PAGE + 16n);
		const { firmwareZero, slotPaddr } = vmsa.decode(second);
		expect(firmwareZero).toBe(0n);
		expect(slotPaddr).toBe(vmsa.decode(plaintextOf(rig, guest.saveArea)).slotPaddr + 64n);
		expect(slotPaddr).toBeGreaterThanOrEqual(BigInt(tmrOf(rig)));
		const expected = patternVmsa();
		vmsa.patch(expected, { firmwareZero, slotPaddr });
		expect(second).toEqual(expected);
		expect(rig.at(PAGE + 16n, SIZE)).not.toEqual(expected);
	});
	it('takes address 0 like every other', () => {
		const { rig, sound } = setUp();
		rig.must('LAUNCH_UPDATE_VMSA', { ...sound, paddr: 0n });
		expect(vmsa.decode(plaintextOf(rig, 0n)).slotPaddr).toBe(BigInt(tmrOf(rig) + 64));
	});
	it('measures the page as it was given', () => {
		const { rig, guest } = setUp(GuestState.LSECRET);
		const digest = provider.digest('sha256', patternPage(), patternVmsa());
		expect(guestOf(rig, guest.handle).launchDigest).toEqual(digest);
	});
});

describe('slots', () => {
	it.each(['DECOMMISSION', 'SHUTDOWN'] as const)('are free after %s', (end) => {
		const rig = initialised({ es: true });
		const { handle } = guestIn(rig, GuestState.LUPDATE, ES);
		const slot = rig.platform.vmsaSlots.freeSlot();
		rig.must('DEACTIVATE', { handle });
		rig.must(end, { handle });
		expect(rig.platform.vmsaSlots.count).toBe(0);
		rig.platform.memory.reserved ??= { start: tmrOf(rig), end: tmrOf(rig) + 0x100000 };
		expect(rig.platform.vmsaSlots.freeSlot()).toBe(Number(slot) - 64);
	});
	it('stay with one guest when another is gone, and the lowest free one is taken', () => {
		const rig = initialised({ es: true });
		const first = guestIn(rig, GuestState.RUNNING, ES, 1);
		const second = guestIn(rig, GuestState.SUPDATE, ES, 2);
		const lowest = vmsa.decode(plaintextOf(rig, first.saveArea, 1)).slotPaddr;
		rig.must('DEACTIVATE', { handle: first.handle });
		rig.must('DECOMMISSION', { handle: first.handle });
		rig.must('SEND_UPDATE_VMSA', sendFields(rig, second));
		const third = guestIn(rig, GuestState.LUPDATE, ES, 3);
		expect(vmsa.decode(plaintextOf(rig, third.saveArea, 3)).slotPaddr).toBe(lowest);
	});
	it('fill the TMR, each a cache line', () => {
		const rig = initialised({ es: true });
		exhaust(rig);
		expect(rig.platform.vmsaSlots.count).toBe(0x100000 / 64);
	});
});

describe('SEND_UPDATE_VMSA', () => {
	function setUp(options = {}) {
		const rig = initialised({ es: true, options });
		const guest = guestIn(rig, GuestState.SUPDATE, ES);
		return { rig, guest, sound: sendFields(rig, guest) };
	}
	const cases: readonly Case[] = [
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		['no data', { guestLen: 0 }, 'INVALID_LENGTH'],
		['data that is no multiple of 16', { guestLen: 4104, transLen: 8192 }, 'INVALID_LENGTH'],
		['more than 16 KiB', { guestLen: 0x4010, transLen: 0x4010 }, 'INVALID_LENGTH'],
		['a payload shorter than the data', { transLen: 4080 }, 'INVALID_LENGTH'],
		['a guest address that is not 16-aligned', { guestPaddr: PAGE + 8n }, 'INVALID_ADDRESS'],
		['lengths before alignment', { guestPaddr: 1n, guestLen: 0 }, 'INVALID_LENGTH'],
		['less than a page', { guestLen: 4080 }, 'INVALID_PARAM'],
		['a page that is no save area', { guestPaddr: PAGE }, 'INVALID_PARAM'],
		...FORBIDDEN_WITH_TMR.flatMap(([where, address]): Case[] => [
			[`a header ${where}`, { hdrPaddr: address }, 'INVALID_ADDRESS'],
			[`a payload ${where}`, { transPaddr: address }, 'INVALID_ADDRESS'],
			[`guest memory ${where}`, { guestPaddr: address }, 'INVALID_ADDRESS'],
		]),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'SEND_UPDATE_VMSA', changed(rig, sound, change), status);
	});
	it.each([0, 51])('answers a header of %d bytes with the length, before it looks for the guest', (hdrLen) => {
		const { rig } = setUp();
		const query = { handle: 99, hdrLen, guestLen: SIZE };
		expectRefusal(rig, 'SEND_UPDATE_VMSA', query, 'INVALID_LENGTH', { hdrLen: 52 });
	});
	it('refuses a guest that is not being sent', () => {
		const rig = initialised({ es: true });
		const guest = guestIn(rig, GuestState.RUNNING, ES);
		expectRefusal(rig, 'SEND_UPDATE_VMSA', sendFields(rig, guest), 'INVALID_GUEST_STATE');
	});
	it('refuses a guest without ES, before it looks for an ASID', () => {
		const { rig, sound } = setUp();
		const { handle } = guestIn(rig, GuestState.SUPDATE);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'SEND_UPDATE_VMSA', { ...sound, handle }, 'UNSUPPORTED');
	});
	it('refuses a guest without ASID, before it looks at lengths', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'SEND_UPDATE_VMSA', { ...sound, guestLen: 0 }, 'INACTIVE');
	});
	it.each([0, 0xfb0])('refuses a save area whose ciphertext at %d the host changed', (at) => {
		const { rig, guest, sound } = setUp();
		const { dram } = rig.machine;
		const where = Number(guest.saveArea) + at;
		dram[where] = (dram[where] ?? 0) ^ 1;
		expectRefusal(rig, 'SEND_UPDATE_VMSA', sound, 'INVALID_PARAM');
	});
	it('refuses a save area that the guest itself changed', () => {
		const { rig, guest, sound } = setUp();
		controllerOf(rig).write(ES_ASID, Number(guest.saveArea) + vmsa.offsetOf('rip'), Uint8Array.of(1));
		expectRefusal(rig, 'SEND_UPDATE_VMSA', sound, 'INVALID_PARAM');
	});
	it('refuses a slot address of zero, and one that is no slot', () => {
		const { rig, guest, sound } = setUp();
		const at = Number(guest.saveArea) + vmsa.offsetOf('slotPaddr');
		for (const low of [1, 64]) {
			controllerOf(rig).write(ES_ASID, at, Uint8Array.of(low));
			expectRefusal(rig, 'SEND_UPDATE_VMSA', sound, 'INVALID_PARAM');
		}
		controllerOf(rig).write(ES_ASID, at, new Uint8Array(8));
		expectRefusal(rig, 'SEND_UPDATE_VMSA', sound, 'INVALID_PARAM');
	});
	it('refuses the save area of a guest that shares the key', () => {
		const rig = initialised({ es: true });
		const first = guestIn(rig, GuestState.SUPDATE, ES);
		const { handle = 0 } = rig.must('LAUNCH_START', { policy: ES, handle: first.handle });
		rig.must('ACTIVATE', { handle, asid: ES_ASID + 1 });
		rig.must('LAUNCH_MEASURE', { handle, paddr: BigInt(rig.allocate(48)), length: 48 });
		rig.must('LAUNCH_FINISH', { handle });
		rig.must('SEND_START', sendStartFields(rig, handle, certificatesOf(rig)));
		// One key: the page is as good for the second guest, but its slot is not.
		expect(plaintextOf(rig, first.saveArea, ES_ASID + 1)).toEqual(plaintextOf(rig, first.saveArea));
		rig.must('SEND_UPDATE_VMSA', sendFields(rig, first));
		expectRefusal(rig, 'SEND_UPDATE_VMSA', sendFields(rig, { handle, saveArea: first.saveArea }), 'INVALID_PARAM');
	});
	it('sends more than the save area when it is asked to, and leaves guest memory alone', () => {
		const { rig, guest, sound } = setUp();
		const before = rig.at(guest.saveArea, SIZE);
		expect(rig.must('SEND_UPDATE_VMSA', { ...sound, hdrLen: 99, guestLen: 8192, transLen: 0x5000 })).toMatchObject({
			hdrLen: 52,
			transLen: 0x5000,
		});
		expect(rig.at(guest.saveArea, SIZE)).toEqual(before);
		expect(rig.at(sound.transPaddr + 8192n, 16)).toEqual(new Uint8Array(16));
	});
	it('fills TRANS_LEN in a query if the options say so', () => {
		const { rig, sound } = setUp({ fillTransLenOnQuery: true });
		const query = { ...sound, hdrLen: 0, transLen: 0 };
		expectRefusal(rig, 'SEND_UPDATE_VMSA', query, 'INVALID_LENGTH', { hdrLen: 52, transLen: SIZE });
	});
	it('takes as much as the options say', () => {
		const { rig, sound } = setUp({ packetLimit: SIZE });
		rig.must('SEND_UPDATE_VMSA', sound);
		const longer = { ...sound, guestLen: SIZE + 16, transLen: SIZE + 16 };
		expectRefusal(rig, 'SEND_UPDATE_VMSA', longer, 'INVALID_LENGTH');
	});
});

describe('RECEIVE_UPDATE_VMSA', () => {
	function setUp({ options = {}, context = PacketContext.data as number, length = SIZE } = {}) {
		const rig = initialised({ es: true, options });
		const { handle } = guestIn(rig, GuestState.RUPDATE, ES);
		const packet = (flags = 0) => {
			const iv = new Uint8Array(16).fill(7);
			const plaintext = patternVmsa().subarray(0, length);
			const { header, payload } = sealPacket(provider, guestOf(rig, handle).channel, { context, iv, plaintext });
			header[0] = flags;
			return { hdrPaddr: rig.put(header), transPaddr: rig.put(payload), header, payload };
		};
		const { hdrPaddr, transPaddr, header, payload } = packet();
		const lengths = { hdrLen: 52, guestLen: length, transLen: length };
		return { rig, header, payload, sound: { handle, hdrPaddr, guestPaddr: PAGE, transPaddr, ...lengths } };
	}
	const cases: readonly Case[] = [
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		['a header that is too short', { hdrLen: 51 }, 'INVALID_LENGTH'],
		['no data', { guestLen: 0, transLen: 0 }, 'INVALID_LENGTH'],
		['data that is no multiple of 16', { guestLen: 4104, transLen: 4104 }, 'INVALID_LENGTH'],
		['more than 16 KiB', { guestLen: 0x4010, transLen: 0x4010 }, 'INVALID_LENGTH'],
		['lengths that differ', { transLen: SIZE + 16 }, 'INVALID_LENGTH'],
		['a guest address that is not 16-aligned', { guestPaddr: PAGE + 8n }, 'INVALID_ADDRESS'],
		['lengths before alignment', { guestPaddr: 1n, hdrLen: 0 }, 'INVALID_LENGTH'],
		['a length that the MAC does not cover', { guestLen: 4080, transLen: 4080 }, 'BAD_MEASUREMENT'],
		...FORBIDDEN_WITH_TMR.flatMap(([where, address]): Case[] => [
			[`a header ${where}`, { hdrPaddr: address }, 'INVALID_ADDRESS'],
			[`a payload ${where}`, { transPaddr: address }, 'INVALID_ADDRESS'],
			[`guest memory ${where}`, { guestPaddr: address }, 'INVALID_ADDRESS'],
		]),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', changed(rig, sound, change), status);
	});
	it('refuses a guest that is not being received', () => {
		const { rig, sound } = setUp();
		rig.must('RECEIVE_FINISH', { handle: sound.handle });
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', sound, 'INVALID_GUEST_STATE');
	});
	it('refuses a guest without ES, before it looks for an ASID', () => {
		const { rig, sound } = setUp();
		const { handle } = guestIn(rig, GuestState.RUPDATE);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, handle }, 'UNSUPPORTED');
	});
	it('refuses a guest without ASID, before it looks at lengths', () => {
		const { rig, sound } = setUp();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, guestLen: 0 }, 'INACTIVE');
	});
	it('refuses a compressed packet before it looks at the MAC', () => {
		const { rig, sound, header } = setUp();
		const hdrPaddr = rig.put(header.map((byte, i) => (i === 0 ? 1 : byte)));
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, hdrPaddr }, 'UNSUPPORTED');
	});
	it.each([1, 4, 20, 51])('refuses a header whose byte %d was changed', (at) => {
		const { rig, sound, header } = setUp();
		const hdrPaddr = rig.put(header.map((byte, i) => (i === at ? byte ^ 1 : byte)));
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, hdrPaddr }, 'BAD_MEASUREMENT');
	});
	it('refuses a payload that was changed', () => {
		const { rig, sound, payload } = setUp();
		const transPaddr = rig.put(payload.map((byte, i) => (i === 4095 ? byte ^ 1 : byte)));
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, transPaddr }, 'BAD_MEASUREMENT');
	});
	it('refuses a genuine packet of less than a page, after the MAC', () => {
		const { rig, sound } = setUp({ length: 4080 });
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', sound, 'INVALID_LENGTH');
	});
	it('refuses a save area for which no slot is left, after the MAC', () => {
		const { rig, sound, header } = setUp();
		exhaust(rig);
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', sound, 'RESOURCE_LIMIT');
		const hdrPaddr = rig.put(header.map((byte, i) => (i === 20 ? byte ^ 1 : byte)));
		expectRefusal(rig, 'RECEIVE_UPDATE_VMSA', { ...sound, hdrPaddr }, 'BAD_MEASUREMENT');
	});
	it('takes a data packet of a page for a save area, as firmware 1.55.25 does', () => {
		const { rig, sound } = setUp({ context: PacketContext.data });
		rig.must('RECEIVE_UPDATE_VMSA', sound);
		expect(plaintextOf(rig, PAGE).subarray(0, 0x380)).toEqual(patternVmsa().subarray(0, 0x380));
	});
	it('tells the two apart with the byte that the enumeration sets aside', () => {
		const options = { vmsaPacketContext: 3 } as const;
		const data = setUp({ options, context: PacketContext.data });
		expectRefusal(data.rig, 'RECEIVE_UPDATE_VMSA', data.sound, 'BAD_MEASUREMENT');
		data.rig.must('RECEIVE_UPDATE_DATA', data.sound);
		const saveArea = setUp({ options, context: PacketContext.vmsa });
		expectRefusal(saveArea.rig, 'RECEIVE_UPDATE_DATA', saveArea.sound, 'BAD_MEASUREMENT');
		saveArea.rig.must('RECEIVE_UPDATE_VMSA', saveArea.sound);
	});
});
