import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import { ASID, controllerOf, createRig, GuestState, guestIn, initialised, patternPage, type Rig } from './rig.js';

describe('ACTIVATE', () => {
	const unbound = (rig: Rig) => ({ handle: rig.must('LAUNCH_START').handle ?? 0 });

	it.each([
		['ASID 0', 0],
		['an ASID above the highest', 510],
		['an ASID kept for ES guests', 99],
	])('refuses %s', (_, asid) => {
		const rig = initialised();
		expectRefusal(rig, 'ACTIVATE', { ...unbound(rig), asid }, 'INVALID_ASID');
	});
	it('takes the lowest and the highest ASID of guests without ES', () => {
		const rig = initialised();
		rig.must('ACTIVATE', { ...unbound(rig), asid: 100 });
		rig.must('ACTIVATE', { ...unbound(rig), asid: 509 });
	});
	it('refuses an ASID that a guest has, even if the guest is bound itself', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LUPDATE);
		expectRefusal(rig, 'ACTIVATE', { ...unbound(rig), asid: ASID }, 'ASID_OWNED');
		expectRefusal(rig, 'ACTIVATE', { handle, asid: ASID }, 'ASID_OWNED');
	});
	it('refuses a guest that is bound, before it looks at the state', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.SENT);
		expectRefusal(rig, 'ACTIVATE', { handle, asid: 0 }, 'INVALID_ASID');
		expectRefusal(rig, 'ACTIVATE', { handle, asid: 200 }, 'ACTIVE');
	});
	it('wants DF_FLUSH after INIT, and after a guest that may have run on the ASID', () => {
		const fresh = createRig();
		fresh.must('INIT');
		expectRefusal(fresh, 'ACTIVATE', { ...unbound(fresh), asid: ASID }, 'DF_FLUSH_REQUIRED');
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'ACTIVATE', { handle, asid: ASID }, 'DF_FLUSH_REQUIRED');
		rig.must('ACTIVATE', { handle, asid: ASID + 1 });
	});
	it('wants DF_FLUSH before it looks at the kind of ASID', () => {
		const rig = createRig();
		rig.must('INIT');
		expectRefusal(rig, 'ACTIVATE', { ...unbound(rig), asid: 1 }, 'DF_FLUSH_REQUIRED');
	});

	it.each([
		[GuestState.LUPDATE, false],
		[GuestState.LSECRET, false],
		[GuestState.RUPDATE, false],
		[GuestState.RUNNING, true],
		[GuestState.SUPDATE, true],
	])('lets VMRUN use the key in guest state %d: %s', (state, runnable) => {
		const rig = initialised();
		const memory = controllerOf(rig);
		const { handle } = guestIn(rig, state);
		expect(memory.isRunnable(ASID)).toBe(runnable);
		rig.must('DEACTIVATE', { handle });
		expect(memory.isRunnable(ASID)).toBe(false);
		rig.must('ACTIVATE', { handle, asid: ASID + 1 });
		expect(memory.isRunnable(ASID + 1)).toBe(runnable);
	});

	it.each([
		[GuestState.LSECRET, 'LAUNCH_FINISH'],
		[GuestState.RUPDATE, 'RECEIVE_FINISH'],
	] as const)('leaves VMRUN blocked in guest state %d until %s', (state, finish) => {
		const rig = initialised();
		const { handle } = guestIn(rig, state);
		expect(controllerOf(rig).isRunnable(ASID)).toBe(false);
		rig.must(finish, { handle });
		expect(controllerOf(rig).isRunnable(ASID)).toBe(true);
	});
});

describe('DEACTIVATE and DECOMMISSION', () => {
	it('refuse a guest that is not, or is still, bound', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		expectRefusal(rig, 'DECOMMISSION', { handle }, 'ACTIVE');
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'DEACTIVATE', { handle }, 'INACTIVE');
	});
	it('take the key away: the memory is lost', () => {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.RUNNING);
		const memory = controllerOf(rig);
		const out = new Uint8Array(16);
		memory.read(ASID, Number(page), out);
		rig.must('DEACTIVATE', { handle });
		expect(() => memory.read(ASID, Number(page), out)).toThrow('expected a key in its slot, got none');
		rig.must('DECOMMISSION', { handle });
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 1, guestCount: 0 });
	});
});

describe('GUEST_STATUS', () => {
	it('is a success for a handle that nobody has, with policy and ASID as they were', () => {
		const rig = initialised();
		expect(rig.must('GUEST_STATUS', { handle: 5, policy: 6, asid: 7, state: 8 })).toEqual({
			handle: 5,
			policy: 6,
			asid: 7,
			state: 0,
		});
	});
	it('says policy, ASID and state, and ASID 0 of an unbound guest', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.SUPDATE, Policy.NOKS);
		expect(rig.must('GUEST_STATUS', { handle })).toEqual({
			handle,
			policy: Policy.NOKS,
			asid: ASID,
			state: GuestState.SUPDATE,
		});
		rig.must('DEACTIVATE', { handle });
		expect(rig.must('GUEST_STATUS', { handle, asid: 9 }).asid).toBe(0);
	});
});

describe.each(['DBG_DECRYPT', 'DBG_ENCRYPT'] as const)('%s', (name) => {
	const sound = { srcPaddr: 0x300000n, dstPaddr: 0x310000n, length: 32 };
	const cases: readonly Case[] = [
		['a source that is not 16-aligned', { srcPaddr: 0x300001n }, 'INVALID_ADDRESS'],
		['a destination that is not 16-aligned', { dstPaddr: 0x310008n }, 'INVALID_ADDRESS'],
		['a length that is no multiple of 16', { length: 24 }, 'INVALID_LENGTH'],
		['no length', { length: 0 }, 'INVALID_PARAM'],
		['alignment before length', { srcPaddr: 1n, length: 1 }, 'INVALID_ADDRESS'],
		['length before the handle', { handle: 99, length: 1 }, 'INVALID_LENGTH'],
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		...FORBIDDEN.flatMap(([where, address]): Case[] => [
			[`a source ${where}`, { srcPaddr: address }, 'INVALID_ADDRESS'],
			[`a destination ${where}`, { dstPaddr: address }, 'INVALID_ADDRESS'],
		]),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		expectRefusal(rig, name, changed(rig, { handle, ...sound }, change), status);
	});
	it('refuses under NODBG, and a guest without ASID', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING, Policy.NODBG);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, name, { handle, ...sound }, 'POLICY_FAILURE');
		const { handle: open } = guestIn(rig, GuestState.RUNNING, 0, ASID + 1);
		rig.must('DEACTIVATE', { handle: open });
		expectRefusal(rig, name, { handle: open, ...sound, length: 0 }, 'INACTIVE');
	});
});

describe('debugging', () => {
	it('shows and changes guest memory, also more than fits one piece', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		const length = 0x10000 + 4096;
		const plain = Uint8Array.from({ length }, (_, i) => i % 253);
		rig.machine.dram.set(plain, 0x300000);
		rig.must('DBG_ENCRYPT', { handle, srcPaddr: 0x300000n, dstPaddr: 0x340000n, length });
		expect(rig.at(0x340000, 4096)).not.toEqual(plain.subarray(0, 4096));
		rig.must('DBG_DECRYPT', { handle, srcPaddr: 0x340000n, dstPaddr: 0x380000n, length });
		expect(Buffer.compare(rig.at(0x380000, length), plain)).toBe(0);
	});
	it('sees noise when the page was moved: ciphertext is bound to its address', () => {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.RUNNING);
		rig.machine.dram.copyWithin(0x300000, Number(page), Number(page) + 4096);
		rig.must('DBG_DECRYPT', { handle, srcPaddr: 0x300000n, dstPaddr: 0x310000n, length: 4096 });
		expect(rig.at(0x310000, 4096)).not.toEqual(patternPage());
	});
});
