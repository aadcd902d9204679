import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ExitReason, KVM_RUN_SIZE, RunOffset } from '../src/abi/run-page.js';
import { createKernel } from '../src/kernel.js';
import { createHypercalls, type HypercallRequest } from '../src/vcpu/hypercalls.js';
import { openRunPage } from '../src/vcpu/run-page.js';
import { openVmState, VmWord } from '../src/vm/state.js';
import { VcpuWord } from '../src/vm/vcpu-state.js';
import { createRig, programOf } from './guest-rig.js';

const program = programOf({ reset: (cpu) => cpu.hlt('reset') });
const handle = createRig({ program, ramBytes: 1 << 20 }).handles[0]?.vm;

/** The dispatcher of a vCPU without a thread. */
function rig(o: { kernel?: ReturnType<typeof createKernel> } = {}) {
	if (handle === undefined) throw new Error('rig: expected a vCPU');
	const shared = new SharedArrayBuffer(handle.shared.byteLength);
	new Uint8Array(shared).set(new Uint8Array(handle.shared));
	const vm = openVmState({ ...handle, shared, kernel: o.kernel ?? createKernel('upstream') });
	const words = new Int32Array(16);
	const page = new Uint8Array(KVM_RUN_SIZE);
	const calls = createHypercalls({ vm, words, run: openRunPage(page), status: undefined });
	const request: HypercallRequest = { nr: 0n, a0: 0n, a1: 0n, a2: 0n, a3: 0n, cpl: 0, isLong: true };
	const call = (nr: number, more: Partial<HypercallRequest> = {}) => {
		const outcome = calls.dispatch({ ...request, nr: BigInt(nr), ...more });
		return typeof outcome === 'bigint' ? BigInt.asIntN(64, outcome) : outcome;
	};
	return { vm, words, page, calls, call, view: new DataView(page.buffer) };
}

describe('hypercalls by number', () => {
	it.each([
		[1, 0n],
		[5, 0n],
		[9, -95n],
		[10, -95n],
		[11, 0n],
		[2, -1000n],
		[3, -1000n],
		[4, -1000n],
		[13, -1000n],
		[0, -1000n],
	])('answers %i without a feature bit being enforced: %i', (nr, expected) => {
		expect(rig().call(nr)).toBe(expected);
	});

	it.each([5, 10, 11])('T-40: does not have %i if CPUID is enforced and shows no feature', (nr) => {
		const { call, words } = rig();
		words[VcpuWord.pvEnforce] = 1;
		expect(call(nr)).toBe(-1000n);
		words[VcpuWord.pvFeatures] = 1 << (nr === 5 ? 7 : nr === 10 ? 11 : 13);
		expect(call(nr)).not.toBe(-1000n);
	});

	it('T-40: asks for CPUID after CPL', () => {
		const { call, words } = rig();
		words[VcpuWord.pvEnforce] = 1;
		expect([call(11, { cpl: 3 }), call(99, { cpl: 3 })]).toEqual([-1n, -1n]);
	});

	it('counts the vCPUs that an IPI would reach, bit by bit from the lowest APIC id on', () => {
		const { call, vm } = rig();
		Atomics.store(vm.words, VmWord.hasIrqchip, 1);
		Atomics.store(vm.words, VmWord.vcpuMask, 0b10111);
		expect(call(10, { a0: 0b1111n, a2: 1n })).toBe(3n);
		expect(call(10, { a1: 1n })).toBe(0n);
		expect(call(10, { a0: 0xffffffffffffffffn, a1: ~0n })).toBe(4n);
		// Of 32-bit code the second word begins at bit 32.
		expect(call(10, { a0: 0n, a1: 1n, a2: 0n, isLong: false })).toBe(0n);
		expect(call(10, { a0: 1n, a3: 0x40000n })).toBe(-22n);
		expect(call(10, { a0: 1n, a3: 0x800n })).toBe(-22n);
	});

	it('counts those that were answered, and an exit when it is completed', () => {
		const { call, words, calls } = rig();
		call(11);
		call(99);
		expect(words[VcpuWord.hypercalls]).toBe(2);
		expect(call(12, { a0: 0x1000n, a1: 1n })).toBe('exit');
		expect(words[VcpuWord.hypercalls]).toBe(2);
		calls.complete(true);
		expect(words[VcpuWord.hypercalls]).toBe(3);
	});

	it('P-2: takes what a guest without registers states as 64-bit code', () => {
		const { call, view } = rig();
		expect(call(12, { a0: 0x1_0000_0000n, a1: 1n, isLong: true })).toBe('exit');
		expect([view.getBigUint64(40, true), view.getUint32(96, true)]).toEqual([0x1_0000_0000n, 1]);
	});

	it.each([
		['6.1', 0x55n],
		['6.10', 0n],
	] as const)('leaves stale bytes in ret before about 6.5: %s', (release, expected) => {
		const { call, view } = rig({ kernel: createKernel('upstream', release) });
		view.setBigUint64(RunOffset.hypercallRet, 0x55n, true);
		call(12, { a0: 0n, a1: 1n });
		expect(view.getBigUint64(RunOffset.hypercallRet, true)).toBe(expected);
	});

	const word = fc.oneof(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.bigInt({ min: 0n, max: 16n }));
	test.prop([word, word, word, word, word, fc.nat(3), fc.boolean()], { numRuns: 300 })(
		'never throws, and writes to kvm_run only if it exits',
		(nr, a0, a1, a2, a3, cpl, isLong) => {
			const { calls, page } = rig();
			const outcome = calls.dispatch({ nr, a0, a1, a2, a3, cpl, isLong });
			const reason = new DataView(page.buffer).getUint32(8, true);
			expect(reason).toBe(outcome === 'exit' ? ExitReason.HYPERCALL : 0);
			if (typeof outcome === 'bigint') expect(outcome).toBe(BigInt.asUintN(isLong ? 64 : 32, outcome));
			if (outcome === 'exit') expect(cpl).toBe(0);
		},
	);
});
