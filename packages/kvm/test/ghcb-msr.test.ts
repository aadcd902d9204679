import { describe, expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { createGhcbRig, EINTR, EINVAL, type GhcbRig, type GhcbRigOptions } from './ghcb-rig.js';

/** VMGEXIT with a message; KVM_RUN's result and the MSR afterwards. */
function tell(message: bigint, o: GhcbRigOptions = {}): { ret: number; msr: bigint; rig: GhcbRig } {
	const rig = createGhcbRig(o);
	rig.setHost64('ghcbMsr', message);
	const ret = rig.run();
	return { ret, msr: rig.host64('ghcbMsr'), rig };
}

describe('the GHCB MSR protocol', () => {
	it('begins with a SEV information response', () => {
		expect(createGhcbRig().host64('ghcbMsr')).toBe(0x0001_0001_33_000001n);
		expect(createGhcbRig({ typed: true }).host64('ghcbMsr')).toBe(0x0002_0001_33_000001n);
	});
	it('0x002: SEV information', () => {
		expect(tell(0x002n)).toMatchObject({ ret: EINTR, msr: 0x0001_0001_33_000001n });
		expect(tell(0x002n, { typed: true }).msr).toBe(0x0002_0001_33_000001n);
		expect(tell(0x002n, { release: '5.13' }).msr).toBe(0x0001_0001_33_000001n);
	});
	it.each([
		[0n, 0x40000001n],
		[1n, 0x4b4d564bn],
		[2n, 0x564b4d56n],
		[3n, 0x4dn],
	])('0x004: CPUID, register %s', (register, value) => {
		const low = (register << 30n) | 0x004n;
		expect(tell((0x40000000n << 32n) | low).msr).toBe((value << 32n) | (register << 30n) | 0x005n);
	});
	it('0x080: hypervisor features', () => {
		expect(tell(0x080n).msr).toBe(0x1081n);
	});
	it.each([0x080n, 0x006n, 0x010n, 0x012n, 0x014n, 0x016n, 0x003n, 0xabc_def_fffn])(
		'0x%s is left as it is by Linux 6.1, and −EINVAL in 5.15',
		(message) => {
			expect(tell(message, { release: '6.1' })).toMatchObject({ ret: EINTR, msr: message });
			expect(tell(message, { release: '5.15' })).toMatchObject({ ret: EINVAL, msr: message });
		},
	);
	it.each([0x001n, 0x003n, 0x005n, 0x007n, 0x011n, 0x016n, 0x101n, 0xabc_def_fffn])(
		'0x%s, which nobody knows, is left as it is',
		(message) => {
			expect(tell(message)).toMatchObject({ ret: EINTR, msr: message });
		},
	);
	it.each([0x100n, 0x01_0100n, 0xff_f100n, 0x010n, 0x5012n, 0x0010_0000_0000_5014n])(
		'0x%s ends the guest: KVM_EXIT_SYSTEM_EVENT',
		(message) => {
			const { ret, rig } = tell(message);
			expect([ret, rig.exitReason(), rig.u32(32), rig.u32(36), rig.u64(40)]).toEqual([
				0,
				ExitReason.SYSTEM_EVENT,
				6,
				1,
				message,
			]);
		},
	);
	it.each([
		['5.16', EINVAL],
		['5.18', 0],
	] as const)('0x100 in Linux %s', (release, ret) => {
		expect(tell(0x100n, { release }).ret).toBe(ret);
	});
	it('changes nothing but the MSR', () => {
		const rig = createGhcbRig();
		const before = rig.ram.bytes.slice();
		rig.setHost64('ghcbMsr', 0x40000000_00000004n);
		rig.run();
		expect(rig.ram.bytes).toEqual(before);
	});
});
