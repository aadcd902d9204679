import { describe, expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { createRig } from './guest-rig.js';
import { createVmRig, programOf } from './vm-rig.js';

const TEXT = 0x3000;
const VMMCALL = [0x0f, 0x01, 0xd9];
const VMCALL = [0x0f, 0x01, 0xc1];
const SCHED_YIELD = 11n;

const program = programOf({
	reset: (cpu) => cpu.hypercallAt(TEXT, 'after'),
	after: (cpu) => cpu.out(0xf4, 1, 'after'),
});

function execute(opcode: readonly number[], quirk: boolean) {
	const rig = createVmRig({ program });
	if (!quirk) expect(rig.vm.enableCap(213, [0x20n])).toBe(0);
	rig.ram.bytes.set(opcode, TEXT);
	rig.setRegister('rax', SCHED_YIELD);
	rig.setRegister('rbx', 0n);
	rig.run();
	return { rig, text: [...rig.ram.bytes.subarray(TEXT, TEXT + 4)] };
}

// Linux tools/testing/selftests/kvm/x86/fix_hypercall_test.c, on an AMD host.
describe('the other vendor’s hypercall instruction, in a guest without SEV', () => {
	it('T-37: is patched into the native one, which then runs', () => {
		const { rig, text } = execute(VMCALL, true);
		expect([rig.reason(), rig.register('rax')]).toEqual([ExitReason.IO, 0n]);
		expect(text).toEqual([...VMMCALL, 0]);
	});

	it('T-38: is #UD with the quirk off, and stays as it is', () => {
		const { rig, text } = execute(VMCALL, false);
		expect([rig.reason(), rig.thread().fault?.code]).toEqual([ExitReason.SHUTDOWN, 'ud']);
		expect([text, rig.register('rax')]).toEqual([[...VMCALL, 0], SCHED_YIELD]);
	});

	it.each([true, false])('runs the native one whatever the quirk is (%s)', (quirk) => {
		const { rig, text } = execute(VMMCALL, quirk);
		expect([rig.reason(), rig.register('rax')]).toEqual([ExitReason.IO, 0n]);
		expect(text).toEqual([...VMMCALL, 0]);
	});

	it('raises #UD for bytes that are no hypercall', () => {
		const { rig } = execute([0x0f, 0x0b, 0], true);
		expect(rig.thread().fault?.code).toBe('ud');
	});

	it.each(['vmcall', 'hypercallAt'] as const)('G7: is never patched under SEV: %s is #UD', (which) => {
		const blocks = programOf({
			reset: (cpu) => {
				cpu.store(TEXT, Uint8Array.from(VMCALL));
				return which === 'vmcall' ? cpu.vmcall('after') : cpu.hypercallAt(TEXT, 'after');
			},
			after: (cpu) => cpu.out(0xf4, 1, 'after'),
		});
		const rig = createRig({ program: blocks, ramBytes: 1 << 20 });
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault?.code).toBe('ud');
		expect([...rig.plain(TEXT, 3)]).toEqual(VMCALL);
	});
});
