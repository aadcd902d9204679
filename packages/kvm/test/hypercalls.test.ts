import { describe, expect, it } from 'vitest';
import type { KvmAbi } from '../src/abi/generation.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { VmWord } from '../src/vm/state.js';
import { PendingKind } from '../src/vm/vcpu-state.js';
import { createRig, programOf, type Rig } from './guest-rig.js';

const LONG_MODE = { cr0: 0x80000011n, efer: 0x500n } as const;

/** Registers are the host's to set: the blocks touch no memory, so that no page tables are needed. */
const program = programOf({
	reset: (cpu) => cpu.vmmcall('after'),
	after: (cpu) => cpu.out(0xf4, 1, 'after'),
	intel: (cpu) => cpu.vmcall('after'),
});

interface Call {
	readonly abi?: KvmAbi;
	readonly rax?: bigint;
	readonly rbx?: bigint;
	readonly rcx?: bigint;
	readonly rdx?: bigint;
	readonly cpl?: bigint;
	readonly longMode?: boolean;
	readonly enabled?: boolean;
	readonly sev?: boolean;
}

function call(c: Call): Rig {
	const rig = createRig({ abi: c.abi ?? 'upstream', program, ramBytes: 1 << 20, sev: c.sev !== false });
	if (c.enabled === false) {
		rig.words[VmWord.pageEncHcEnable] = 0;
		rig.words[VmWord.exitHypercallMask] = 0;
	}
	if (c.longMode !== false) {
		rig.setRegister('cr0', LONG_MODE.cr0);
		rig.setRegister('efer', LONG_MODE.efer);
	}
	rig.setRegister('rax', c.rax ?? 12n);
	rig.setRegister('rbx', c.rbx ?? 0x200000n);
	rig.setRegister('rcx', c.rcx ?? 512n);
	rig.setRegister('rdx', c.rdx ?? 0x10n);
	rig.setRegister('cpl', c.cpl ?? 0n);
	return rig;
}

/** What a call that does not exit leaves in RAX. */
function answer(c: Call): bigint {
	const rig = call(c);
	rig.vcpus[0]?.run();
	// CPL 3 may not write to a port either; the fault comes after the answer.
	expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(c.cpl === 3n ? ExitReason.SHUTDOWN : ExitReason.IO);
	expect(rig.register('rip')).toBe(BigInt(program.address('after')));
	return BigInt.asIntN(64, rig.register('rax'));
}

const exitOf = (c: Call): { rig: Rig; reason: number } => {
	const rig = call(c);
	expect(rig.vcpus[0]?.run()).toBe(0);
	return { rig, reason: rig.view().getUint32(RunOffset.exitReason, true) };
};

describe.each(['v12', 'upstream'] as const)('hypercall 12 of %s', (abi) => {
	const WRAP = 0xfffffffffffff000n;

	it.each<[string, Call, bigint]>([
		['CPL 3', { cpl: 3n }, -1n],
		['the hypercall not enabled', { enabled: false }, -1000n],
		['an unaligned address', { rbx: 0x1001n }, -22n],
		['no pages', { rcx: 0n }, -22n],
		['a range that wraps 64 bits', { rbx: WRAP, rcx: 0xfff0000000000001n }, -22n],
		['CPL 3 and an unaligned address', { cpl: 3n, rbx: 0x1001n }, -1n],
		['an unaligned address while not enabled', { enabled: false, rbx: 0x1001n }, -1000n],
		['another number', { rax: 3n }, -1000n],
		['number 12 + 2^32', { rax: 12n + (1n << 32n) }, -1000n],
	])('P-1: answers %s without an exit', (_, c, expected) => {
		expect(answer({ ...c, abi })).toBe(expected);
	});

	it('P-1: exits for the last page of the address space, which does not wrap', () => {
		const { rig, reason } = exitOf({ abi, rbx: WRAP, rcx: 1n });
		expect(reason).toBe(ExitReason.HYPERCALL);
		expect(rig.view().getBigUint64(RunOffset.hypercallArgs, true)).toBe(WRAP);
	});

	it('puts number, arguments and mode where linux/kvm.h says, and nothing in the other arguments', () => {
		const rig = call({ abi, rdx: 0xdeadbeefcafen });
		const view = rig.view();
		for (const at of [64, 72, 80, 88]) view.setBigUint64(at, 0x5555555555555555n, true);
		view.setUint32(100, 0x66666666, true);
		rig.vcpus[0]?.run();
		expect([32, 40, 48, 56].map((at) => view.getBigUint64(at, true))).toEqual([12n, 0x200000n, 512n, 0xdeadbeefcafen]);
		expect([64, 72, 80].map((at) => view.getBigUint64(at, true))).toEqual(Array(3).fill(0x5555555555555555n));
		expect(view.getBigUint64(88, true)).toBe(abi === 'v12' ? 0x5555555555555555n : 0n);
		// Kernels from about 6.5 on have u64 flags there.
		expect([96, 100].map((at) => view.getUint32(at, true))).toEqual([1, abi === 'v12' ? 0x66666666 : 0]);
	});

	it('P-2: ignores the upper halves in 32-bit mode and says so', () => {
		const upper = 0x1234_0000_0000n;
		const { rig, reason } = exitOf({
			abi,
			longMode: false,
			rax: upper + 12n,
			rbx: upper + 0x3000n,
			rcx: upper + 1n,
			rdx: upper + 1n,
		});
		expect(reason).toBe(ExitReason.HYPERCALL);
		expect([32, 40, 48, 56].map((at) => rig.view().getBigUint64(at, true))).toEqual([12n, 0x3000n, 1n, 1n]);
		expect(rig.view().getUint32(RunOffset.hypercallLongmode, true)).toBe(0);
	});

	it.each([
		['a 64-bit segment', 0xa9bn, 1],
		['a segment of compatibility mode', 0xc9bn, 0],
	])('P-2: takes long mode in %s for what it is', (_, attributes, longmode) => {
		const rig = call({ abi, rbx: 0x1234_0000_3000n });
		rig.setRegister('cs', (0xffffffffn << 32n) | (attributes << 16n) | 0x10n);
		rig.vcpus[0]?.run();
		expect(rig.view().getUint32(RunOffset.hypercallLongmode, true)).toBe(longmode);
		expect(rig.view().getBigUint64(40, true)).toBe(longmode === 1 ? 0x1234_0000_3000n : 0x3000n);
	});

	it('P-2: cuts an error to 32 bits in 32-bit mode', () => {
		expect(answer({ abi, longMode: false, rcx: 0n })).toBe(0xffffffean);
	});

	it('P-3: leaves RIP and RAX at the VMMCALL while the exit is pending, then goes on with RAX = ret', () => {
		const { rig } = exitOf({ abi });
		expect(rig.register('rip')).toBe(0xfffffff0n);
		expect(rig.register('rax')).toBe(12n);
		expect(rig.register('pendingKind')).toBe(BigInt(PendingKind.hypercall));
		rig.view().setBigUint64(RunOffset.hypercallRet, 7n, true);
		rig.vcpus[0]?.run();
		expect(rig.register('rip')).toBe(BigInt(program.address('after')));
		expect(rig.register('rax')).toBe(7n);
	});

	it('P-3: completes under immediate_exit without running guest code', () => {
		const { rig } = exitOf({ abi });
		rig.view().setUint8(RunOffset.immediateExit, 1);
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(BigInt(program.address('after')));
		expect(rig.register('pendingKind')).toBe(BigInt(PendingKind.none));
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(BigInt(program.address('after')));
	});

	it('P-4: hands 0xFFFFFFFFFFFFFFEA to the guest as −22', () => {
		const { rig } = exitOf({ abi });
		rig.view().setBigUint64(RunOffset.hypercallRet, 0xffffffffffffffean, true);
		rig.vcpus[0]?.run();
		expect(BigInt.asIntN(64, rig.register('rax'))).toBe(-22n);
	});

	it('cuts the answer to 32 bits for 32-bit code in upstream only', () => {
		const { rig } = exitOf({ abi, longMode: false });
		rig.view().setBigUint64(RunOffset.hypercallRet, 0xffffffffffffffean, true);
		rig.vcpus[0]?.run();
		expect(rig.register('rax')).toBe(abi === 'v12' ? 0xffffffffffffffean : 0xffffffean);
	});

	it('G7: raises #UD for VMCALL in an SEV guest and records no exit', () => {
		const rig = call({ abi });
		rig.setRegister('rip', BigInt(program.address('intel')));
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.SHUTDOWN);
		expect(rig.vcpus[0]?.fault?.code).toBe('ud');
		expect(rig.register('pendingKind')).toBe(0n);
	});
});

describe('hypercall 12 without SEV', () => {
	it('takes VMCALL as VMMCALL: KVM patches the instruction', () => {
		const rig = call({ sev: false });
		rig.setRegister('rip', BigInt(program.address('intel')));
		rig.vcpus[0]?.run();
		expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.HYPERCALL);
	});

	it('is unknown to a v12 host, where only KVM_SEV_INIT enables it', () => {
		expect(answer({ abi: 'v12', sev: false })).toBe(-1000n);
	});
});
