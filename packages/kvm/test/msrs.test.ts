import { describe, expect, it } from 'vitest';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { VmWord } from '../src/vm/state.js';
import { createRig, filterMigrationMsr, newLog, programOf, type Rig, runHost } from './guest-rig.js';

const MIGRATION = 0x4b564d08;
const SEV_STATUS = 0xc0010131;
const EFER = 0xc0000080;

const program = programOf({
	reset: (cpu) => cpu.rdmsr('end'),
	write: (cpu) => cpu.wrmsr('end'),
	end: (cpu) => cpu.out(0xf4, 1, 'end'),
});

function access(
	kind: 'read' | 'write',
	msr: number,
	value = 0n,
	o: { sev?: boolean; prepare?: (rig: Rig) => void } = {},
): Rig {
	const rig = createRig({ ramBytes: 1 << 20, program, sev: o.sev !== false });
	filterMigrationMsr(rig);
	o.prepare?.(rig);
	if (kind === 'write') rig.setRegister('rip', BigInt(program.address('write')));
	// The upper half of RCX is ignored.
	rig.setRegister('rcx', BigInt(msr) | (0xabcdn << 32n));
	rig.setRegister('rax', (value & 0xffffffffn) | (0x1111n << 32n));
	rig.setRegister('rdx', (value >> 32n) | (0x2222n << 32n));
	return rig;
}

const reasonOf = (rig: Rig) => rig.view().getUint32(RunOffset.exitReason, true);
const edxEax = (rig: Rig) => (rig.register('rdx') << 32n) | rig.register('rax');

describe('SEV_STATUS', () => {
	it.each([
		[true, 1n],
		[false, 0n],
	])('says whether SEV is active (%s), without an exit', (sev, expected) => {
		const rig = access('read', SEV_STATUS, 0n, { sev });
		const log = runHost(rig);
		expect(log.events).toEqual(['out f4']);
		expect(edxEax(rig)).toBe(expected);
	});

	it('is answered by the hardware even if a filter denies it', () => {
		const deny = (rig: Rig) => {
			rig.words[VmWord.msrFilterDeny] = 1;
		};
		const rig = access('read', SEV_STATUS, 0n, { prepare: deny });
		expect(runHost(rig).events).toEqual(['out f4']);
	});

	it('cannot be written', () => {
		const rig = access('write', SEV_STATUS);
		expect(runHost(rig).end).toBe(ExitReason.SHUTDOWN);
		expect(rig.vcpus[0]?.fault?.code).toBe('gp');
	});
});

describe('the migration MSR, which the VMM implements', () => {
	it('P-12: reads 0 before it was written, and what was written afterwards', () => {
		const rig = access('read', MIGRATION);
		const log = runHost(rig);
		expect(log.events).toEqual(['rdmsr 4b564d08', 'out f4']);
		expect(edxEax(rig)).toBe(0n);
		const again = access('read', MIGRATION);
		runHost(again, { ...newLog(), migrationMsr: 1n });
		expect(edxEax(again)).toBe(1n);
	});

	it('P-12: takes 1', () => {
		const log = runHost(access('write', MIGRATION, 1n));
		expect(log.migrationMsr).toBe(1n);
		expect(log.events).toEqual(['wrmsr 4b564d08', 'out f4']);
	});

	it('P-12: refuses 2 with #GP and keeps its value', () => {
		const rig = access('write', MIGRATION, 2n);
		const log = runHost(rig);
		expect(log.end).toBe(ExitReason.SHUTDOWN);
		expect(rig.vcpus[0]?.fault?.code).toBe('gp');
		expect(log.migrationMsr).toBe(0n);
	});

	it('exits with reason, index and data where linux/kvm.h says', () => {
		const rig = access('write', MIGRATION, 0x123456789abcdef0n);
		const view = rig.view();
		view.setBigUint64(RunOffset.msrError, 0xffffffffffffffffn, true);
		rig.vcpus[0]?.run();
		expect(reasonOf(rig)).toBe(ExitReason.X86_WRMSR);
		expect(view.getBigUint64(32, true)).toBe(0n);
		expect([view.getUint32(40, true), view.getUint32(44, true)]).toEqual([4, MIGRATION]);
		expect(view.getBigUint64(48, true)).toBe(0x123456789abcdef0n);
		expect(rig.register('rip')).toBe(BigInt(program.address('write')));
	});

	it('splits the answer of a read over EDX and EAX, upper halves zero', () => {
		const rig = access('read', MIGRATION);
		rig.vcpus[0]?.run();
		expect(reasonOf(rig)).toBe(ExitReason.X86_RDMSR);
		expect(rig.view().getBigUint64(48, true)).toBe(0n);
		rig.view().setBigUint64(RunOffset.msrData, 0x1122334455667788n, true);
		rig.vcpus[0]?.run();
		expect([rig.register('rdx'), rig.register('rax')]).toEqual([0x11223344n, 0x55667788n]);
	});

	it.each(['read', 'write'] as const)('is #GP for a %s that is denied while the VMM asked for no exits', (kind) => {
		const rig = access(kind, MIGRATION, 1n, {
			prepare: (r) => {
				r.words[VmWord.msrExitMask] = 0;
			},
		});
		expect(runHost(rig).events).toEqual([]);
		expect(rig.vcpus[0]?.fault?.code).toBe('gp');
	});

	it.each([
		[0, ExitReason.SHUTDOWN, undefined],
		[2, ExitReason.X86_WRMSR, 2],
	])('is unknown to KVM without a filter (mask %i)', (mask, reason, why) => {
		const rig = access('write', MIGRATION, 1n, {
			prepare: (r) => {
				r.words[VmWord.msrFilterCount] = 0;
				r.words[VmWord.msrExitMask] = mask;
			},
		});
		rig.vcpus[0]?.run();
		expect(reasonOf(rig)).toBe(reason);
		if (why !== undefined) expect(rig.view().getUint32(RunOffset.msrReason, true)).toBe(why);
	});
});

describe('EFER', () => {
	it('can be set and read, LMA excepted', () => {
		const rig = access('write', EFER, 0xd01n);
		runHost(rig);
		expect(rig.register('efer')).toBe(0x901n);
		const back = access('read', EFER, 0n, { prepare: (r) => r.setRegister('efer', 0x901n) });
		runHost(back);
		expect(edxEax(back)).toBe(0x901n);
	});

	it.each<[string, bigint, bigint]>([
		['a reserved bit', 2n, 0x10n],
		['LME while paging is on', 0x100n, 0x80000010n],
	])('refuses %s: #GP, or an exit with reason INVAL', (_, value, cr0) => {
		const paging = (r: Rig) => r.setRegister('cr0', cr0);
		const rig = access('write', EFER, value, { prepare: paging });
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault?.code).toBe('gp');
		const asked = access('write', EFER, value, {
			prepare: (r) => {
				paging(r);
				r.words[VmWord.msrExitMask] = 1;
			},
		});
		asked.vcpus[0]?.run();
		expect(asked.view().getUint32(RunOffset.msrReason, true)).toBe(1);
		expect(asked.register('efer')).toBe(0n);
	});
});
