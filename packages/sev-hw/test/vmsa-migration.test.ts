import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { vmsa } from '../src/vmsa/layout.js';
import { expectRefusal } from './refusal.js';
import {
	certificatesOf,
	controllerOf,
	ES_ASID,
	GuestState,
	guestIn,
	initialised,
	sendStartFields,
	tmrOf,
} from './rig.js';
import { guestOf, plaintextOf, SIZE, sendFields } from './save-area-rig.js';

const { ES } = Policy;

describe('the migration of a SEV-ES guest', () => {
	function migrate(from: 2 | 3, to: 2 | 3) {
		const source = initialised({ seed: 'source', es: true, options: { vmsaPacketContext: from } });
		const target = initialised({ seed: 'target', es: true, options: { vmsaPacketContext: to } });
		const guest = guestIn(source, GuestState.RUNNING, ES);
		const start = sendStartFields(source, guest.handle, certificatesOf(target));
		source.must('SEND_START', start);
		const packet = sendFields(source, guest);
		source.must('SEND_UPDATE_VMSA', packet);
		const { handle = 0 } = target.must('RECEIVE_START', {
			policy: ES,
			pdhCertPaddr: target.put(certificatesOf(source).pdh),
			pdhCertLen: 2084,
			sessionPaddr: target.put(source.at(start.sessionPaddr, 128)),
			sessionLen: 128,
		});
		target.must('ACTIVATE', { handle, asid: ES_ASID + 1 });
		const received = {
			handle,
			hdrPaddr: target.put(source.at(packet.hdrPaddr, 52)),
			hdrLen: 52,
			guestPaddr: BigInt(target.allocate(SIZE)),
			guestLen: SIZE,
			transPaddr: target.put(source.at(packet.transPaddr, SIZE)),
			transLen: SIZE,
		};
		return { source, target, guest, received };
	}

	it.each([
		[2, 2],
		[3, 3],
	] as const)('carries the save area over but for what is the firmware’s (contexts %d and %d)', (from, to) => {
		const { source, target, guest, received } = migrate(from, to);
		target.must('RECEIVE_UPDATE_VMSA', received);
		const [there, here] = [plaintextOf(source, guest.saveArea), plaintextOf(target, received.guestPaddr, ES_ASID + 1)];
		expect(here.subarray(0, 0x380)).toEqual(there.subarray(0, 0x380));
		expect(here.subarray(0x390)).toEqual(there.subarray(0x390));
		const { firmwareZero, slotPaddr } = vmsa.decode(here);
		expect([firmwareZero, slotPaddr]).toEqual([0n, BigInt(tmrOf(target))]);
		target.must('RECEIVE_FINISH', { handle: received.handle });
		expect(controllerOf(target).isRunnable(ES_ASID + 1)).toBe(true);
	});

	it('goes on to a third machine: a received save area is intact', () => {
		const { target, received } = migrate(2, 2);
		target.must('RECEIVE_UPDATE_VMSA', received);
		target.must('RECEIVE_FINISH', { handle: received.handle });
		target.must('SEND_START', sendStartFields(target, received.handle, certificatesOf(target)));
		target.must('SEND_UPDATE_VMSA', sendFields(target, { handle: received.handle, saveArea: received.guestPaddr }));
	});

	it.each([
		[2, 3],
		[3, 2],
	] as const)('fails between firmwares that use other context bytes (%d to %d)', (from, to) => {
		const { target, received } = migrate(from, to);
		expectRefusal(target, 'RECEIVE_UPDATE_VMSA', received, 'BAD_MEASUREMENT');
	});

	it('carries no launch digest over', () => {
		const { source, target, guest, received } = migrate(2, 2);
		expect(guestOf(target, received.handle).launchDigest).toEqual(new Uint8Array(32));
		expect(guestOf(source, guest.handle).launchDigest).not.toEqual(new Uint8Array(32));
	});
});
