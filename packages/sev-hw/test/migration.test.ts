import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import {
	ASID,
	certificatesOf,
	controllerOf,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	type Rig,
	sendStartFields,
} from './rig.js';

const HEADER = 52;

/** Moves one page from a guest in SUPDATE to one in RUPDATE, over the bytes that a network would carry. */
function movePage(
	source: Rig,
	from: { handle: number; page: bigint },
	target: Rig,
	to: { handle: number; page: bigint },
) {
	const hdrPaddr = BigInt(source.allocate(HEADER));
	const transPaddr = BigInt(source.allocate(4096));
	const lengths = { hdrLen: HEADER, guestLen: 4096, transLen: 4096 };
	source.must('SEND_UPDATE_DATA', { handle: from.handle, hdrPaddr, guestPaddr: from.page, transPaddr, ...lengths });
	target.must('RECEIVE_UPDATE_DATA', {
		handle: to.handle,
		hdrPaddr: target.put(source.at(hdrPaddr, HEADER)),
		guestPaddr: to.page,
		transPaddr: target.put(source.at(transPaddr, 4096)),
		...lengths,
	});
}

function receiver(source: Rig, session: bigint, target: Rig, policy: number): { handle: number; page: bigint } {
	const { handle = 0 } = target.must('RECEIVE_START', {
		policy,
		pdhCertPaddr: target.put(certificatesOf(source).pdh),
		pdhCertLen: 2084,
		sessionPaddr: target.put(source.at(session, 128)),
		sessionLen: 128,
	});
	target.must('ACTIVATE', { handle, asid: ASID + 3 });
	return { handle, page: BigInt(target.allocate(4096)) };
}

describe('migration between two machines, with nothing but firmware commands', () => {
	it.each([
		['asks nothing of the target', 0],
		['wants proof of an AMD platform', Policy.SEV],
	])('carries memory over when the policy %s', (_, policy) => {
		const source = initialised({ seed: 'source' });
		const target = initialised({ seed: 'target', generation: 'milan' });
		const guest = guestIn(source, GuestState.RUNNING, policy);
		const start = sendStartFields(source, guest.handle, certificatesOf(target));
		expect(source.must('SEND_START', start).policy).toBe(policy);
		const received = receiver(source, start.sessionPaddr, target, policy);
		movePage(source, guest, target, received);
		source.must('SEND_FINISH', { handle: guest.handle });
		target.must('RECEIVE_FINISH', { handle: received.handle });

		const plain = BigInt(target.allocate(4096));
		target.must('DBG_DECRYPT', { handle: received.handle, srcPaddr: received.page, dstPaddr: plain, length: 4096 });
		expect(target.at(plain, 4096)).toEqual(patternPage());
		expect(target.at(received.page, 4096)).not.toEqual(patternPage());
		expect(controllerOf(target).isRunnable(ASID + 3)).toBe(true);
		expect(target.must('GUEST_STATUS', { handle: received.handle }).state).toBe(GuestState.RUNNING);
		expect(source.must('GUEST_STATUS', { handle: guest.handle }).state).toBe(GuestState.SENT);
	});

	it('goes on to a third machine: a received guest can be sent again', () => {
		const [a, b, c] = [initialised({ seed: 'a' }), initialised({ seed: 'b' }), initialised({ seed: 'c' })];
		const first = guestIn(a, GuestState.RUNNING);
		const toB = sendStartFields(a, first.handle, certificatesOf(b));
		a.must('SEND_START', toB);
		const second = receiver(a, toB.sessionPaddr, b, 0);
		movePage(a, first, b, second);
		b.must('RECEIVE_FINISH', { handle: second.handle });
		const toC = sendStartFields(b, second.handle, certificatesOf(c));
		b.must('SEND_START', toC);
		const third = receiver(b, toC.sessionPaddr, c, 0);
		movePage(b, second, c, third);
		const page = new Uint8Array(4096);
		controllerOf(c).read(ASID + 3, Number(third.page), page);
		expect(page).toEqual(patternPage());
	});

	it('resumes on the source after SEND_CANCEL, and the next session has other keys', () => {
		const source = initialised({ seed: 'source' });
		const target = initialised({ seed: 'target' });
		const guest = guestIn(source, GuestState.RUNNING);
		const fields = sendStartFields(source, guest.handle, certificatesOf(target));
		source.must('SEND_START', fields);
		const before = source.at(fields.sessionPaddr, 128);
		source.must('SEND_CANCEL', { handle: guest.handle });
		expect(source.must('GUEST_STATUS', { handle: guest.handle }).state).toBe(GuestState.RUNNING);
		source.must('SEND_START', fields);
		expect(source.at(fields.sessionPaddr, 128)).not.toEqual(before);
	});

	it('delivers a packet to any address, as its address is under no MAC (SEV API 0.24)', () => {
		const source = initialised({ seed: 'source' });
		const target = initialised({ seed: 'target' });
		const guest = guestIn(source, GuestState.RUNNING);
		const fields = sendStartFields(source, guest.handle, certificatesOf(target));
		source.must('SEND_START', fields);
		const received = receiver(source, fields.sessionPaddr, target, 0);
		const elsewhere = { handle: received.handle, page: BigInt(target.allocate(4096)) };
		movePage(source, guest, target, received);
		movePage(source, guest, target, elsewhere);
		const page = new Uint8Array(4096);
		controllerOf(target).read(ASID + 3, Number(elsewhere.page), page);
		expect(page).toEqual(patternPage());
	});

	it('refuses a target of another owner when the policy says DOMAIN', () => {
		const source = initialised({ seed: 'source' });
		const target = initialised({ seed: 'target' });
		const guest = guestIn(source, GuestState.RUNNING, Policy.DOMAIN);
		const fields = sendStartFields(source, guest.handle, certificatesOf(target));
		expect(source.command('SEND_START', fields).status).toBe('POLICY_FAILURE');
		expect(source.command('SEND_START', sendStartFields(source, guest.handle, certificatesOf(source))).status).toBe(
			'SUCCESS',
		);
	});

	it('refuses the exported chain as it is under POLICY.SEV: its CEK is unsigned', () => {
		const source = initialised({ seed: 'source' });
		const target = initialised({ seed: 'target' });
		const guest = guestIn(source, GuestState.RUNNING, Policy.SEV);
		const certs = certificatesOf(target);
		const unsigned = { ...certs, platform: certs.exported };
		const fields = sendStartFields(source, guest.handle, unsigned);
		expect(source.command('SEND_START', fields).status).toBe('INVALID_CERTIFICATE');
	});
});
