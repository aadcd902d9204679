import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { type Block, openVcpu } from '../src/vcpu/index.js';
import { VmWord } from '../src/vm/state.js';
import { loadVcpuState, saveVcpuState } from '../src/vm/vcpu-state.js';
import { createRig, guestCpuid, programOf, type Rig, type RigOptions } from './guest-rig.js';

const MIB = 1 << 20;
const park: Block = (cpu) => cpu.out(0xf4, 1, 'park');

const rigOf = (blocks: Readonly<Record<string, Block>>, o: Partial<RigOptions> = {}): Rig =>
	createRig({ ramBytes: MIB, ...o, program: programOf({ ...blocks, park }) });

const reasonOf = (rig: Rig) => rig.view().getUint32(RunOffset.exitReason, true);

describe('KVM_EXIT_IO', () => {
	it.each([1, 2, 4] as const)('carries %i bytes of RAX out, in the page behind kvm_run', (size) => {
		const rig = rigOf({ reset: (cpu) => cpu.out(0x510, size, 'park') });
		rig.setRegister('rax', 0x8877665544332211n);
		expect(rig.vcpus[0]?.run()).toBe(0);
		const view = rig.view();
		expect(reasonOf(rig)).toBe(ExitReason.IO);
		expect([view.getUint8(32), view.getUint8(33), view.getUint16(34, true), view.getUint32(36, true)]).toEqual([
			1,
			size,
			0x510,
			1,
		]);
		const at = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
		const data = new Uint8Array(view.buffer, view.byteOffset + at, size);
		expect([...data]).toEqual([0x11, 0x22, 0x33, 0x44].slice(0, size));
		expect(at).toBe(4096);
	});

	it.each([
		[1, 0x88776655443322ddn],
		[2, 0x887766554433ccddn],
		[4, 0xaabbccddn],
	] as const)('brings %i bytes in and keeps what x86 keeps of RAX', (size, expected) => {
		const rig = rigOf({ reset: (cpu) => cpu.in(0x511, size, 'park') });
		rig.setRegister('rax', 0x8877665544332211n);
		rig.vcpus[0]?.run();
		const view = rig.view();
		expect([view.getUint8(32), view.getUint8(33), view.getUint16(34, true)]).toEqual([0, size, 0x511]);
		expect(rig.register('rax')).toBe(0x8877665544332211n);
		view.setUint32(Number(view.getBigUint64(RunOffset.ioDataOffset, true)), 0xaabbccdd, true);
		rig.vcpus[0]?.run();
		expect(rig.register('rax')).toBe(expected);
	});

	it('keeps RIP at the block until the next KVM_RUN', () => {
		const rig = rigOf({ reset: (cpu) => cpu.out(0x80, 1, 'park') });
		rig.vcpus[0]?.run();
		expect(rig.register('rip')).toBe(0xfffffff0n);
		rig.view().setUint8(RunOffset.immediateExit, 1);
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(0x10010n);
	});
});

describe('KVM_RUN', () => {
	it('returns −EINTR before the first instruction under immediate_exit', () => {
		const rig = rigOf({ reset: park });
		rig.view().setUint8(RunOffset.immediateExit, 1);
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(0xfffffff0n);
	});

	it('takes a kick once, and before the first instruction', () => {
		const rig = rigOf({ reset: park });
		rig.kick();
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(0xfffffff0n);
		expect(rig.vcpus[0]?.run()).toBe(0);
	});

	it('looks for a kick after every block', () => {
		const seen: number[] = [];
		const rig: Rig = rigOf(
			{ reset: (cpu) => cpu.jump('loop'), loop: (cpu) => cpu.jump('loop') },
			{
				afterBlock: (rip) => {
					seen.push(rip);
					if (seen.length === 3) rig.kick();
				},
			},
		);
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(seen).toEqual([0x10010, 0x10010, 0x10010]);
	});

	it('keeps a kick that came with an exit for the next call, which completes the exit first', () => {
		const rig: Rig = rigOf({ reset: (cpu) => cpu.in(1, 4, 'park') }, { afterBlock: () => rig.kick() });
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(rig.vcpus[0]?.run()).toBe(-4);
		expect(rig.register('rip')).toBe(0x10010n);
	});

	it('is refused by the processor while the firmware has not enabled the ASID', () => {
		const rig = rigOf({ reset: park });
		rig.words[VmWord.asid] = rig.asid - 1;
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(reasonOf(rig)).toBe(ExitReason.FAIL_ENTRY);
		expect(rig.view().getBigUint64(RunOffset.failEntryReason, true)).toBe(2n ** 64n - 1n);
		expect(rig.register('rip')).toBe(0xfffffff0n);
	});

	it('marks the vCPU as in the guest for exactly as long as it is', () => {
		const inside: number[] = [];
		const rig: Rig = rigOf({ reset: park }, { afterBlock: () => inside.push(rig.words[VmWord.running] ?? -1) });
		rig.vcpus[0]?.run();
		expect([...inside, rig.words[VmWord.running]]).toEqual([1, 0]);
	});

	it('continues a vCPU whose state was taken with an exit pending, in another VM', () => {
		const blocks: Record<string, Block> = {
			reset: (cpu) => cpu.in(0x511, 1, 'next'),
			next: (cpu) => cpu.out(7, 4, 'park'),
		};
		const source = rigOf(blocks);
		source.vcpus[0]?.run();
		source.view().setUint8(RunOffset.ioData, 0x5a);
		const target = rigOf(blocks);
		const [from, to] = [source.handles[0], target.handles[0]];
		if (from === undefined || to === undefined) throw new Error('no vCPU');
		loadVcpuState(to, saveVcpuState(from));
		target.vcpus[0]?.run();
		expect(target.view().getUint16(RunOffset.ioPort, true)).toBe(7);
		expect(target.view().getUint32(RunOffset.ioData, true)).toBe(0x5a);
	});
});

describe('KVM_EXIT_SHUTDOWN', () => {
	it.each<[string, Block, string]>([
		['UD2', (cpu) => cpu.ud2(), 'ud'],
		['a jump to where no code is', (cpu) => cpu.jump(0x123450), 'code'],
		['RDMSR at CPL 3', (cpu) => cpu.rdmsr('park'), 'gp'],
		['WRMSR at CPL 3', (cpu) => cpu.wrmsr('park'), 'gp'],
		['OUT at CPL 3', (cpu) => cpu.out(1, 1, 'park'), 'gp'],
		['IN at CPL 3', (cpu) => cpu.in(1, 1, 'park'), 'gp'],
		['HLT at CPL 3', (cpu) => cpu.hlt('park'), 'gp'],
		[
			'long mode without PAE',
			(cpu) => {
				cpu.efer = 0x100n;
				cpu.cr0 = 0x80000001n;
				return cpu.jump('park');
			},
			'gp',
		],
	])('is what %s ends in', (name, block, code) => {
		const rig = rigOf({ reset: block });
		if (name.includes('CPL 3')) rig.setRegister('cpl', 3n);
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(reasonOf(rig)).toBe(ExitReason.SHUTDOWN);
		expect(rig.vcpus[0]?.fault?.code).toBe(code);
	});

	it('leaves what the block did before the fault', () => {
		const rig = rigOf({
			reset: (cpu) => {
				cpu.storeU8(0x1000, 7);
				cpu.storeU8(0x10000000, 1);
				return cpu.jump('park');
			},
		});
		rig.vcpus[0]?.run();
		expect(rig.plain(0x1000, 1)[0]).toBe(7);
		expect(rig.vcpus[0]?.fault?.message).toBe('GPA 0x10000000: expected a memslot, got none');
	});
});

describe('a mistake in a guest program is thrown, not shown to the VMM', () => {
	it.each<[string, Block, string]>([
		['an unknown label', (cpu) => cpu.jump('nowhere'), 'label: expected one of the program, got nowhere'],
		[
			'two terminators',
			(cpu) => {
				cpu.jump('park');
				return cpu.jump('park');
			},
			'block: expected one terminator, got a second one',
		],
	])('%s', (_, block, message) => {
		const rig = rigOf({ reset: block });
		expect(() => rig.vcpus[0]?.run()).toThrow(message);
		expect(rig.words[VmWord.running]).toBe(0);
	});
});

describe('control flow', () => {
	it('calls through the stack in guest memory', () => {
		const rig = rigOf({
			reset: (cpu) => {
				cpu.setNum('rsp', 0x8000);
				return cpu.call('function', 'after');
			},
			function: (cpu) => {
				cpu.setNum('rbx', cpu.loadNum(cpu.num('rsp')));
				return cpu.ret();
			},
			after: (cpu) => cpu.jump(cpu.address('park')),
		});
		rig.vcpus[0]?.run();
		expect(rig.register('rbx')).toBe(0x10020n);
		expect(rig.register('rsp')).toBe(0x8000n);
		expect(rig.register('rip')).toBe(0x10030n);
	});

	it('goes on after HLT, at once where there are no ticks', () => {
		const rig = rigOf({ reset: (cpu) => cpu.hlt('park') });
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(reasonOf(rig)).toBe(ExitReason.IO);
	});

	it('goes on after HLT at the next tick', () => {
		const program = programOf({ reset: (cpu) => cpu.hlt('park'), park });
		const rig = createRig({ ramBytes: MIB, program });
		const [handle] = rig.handles;
		if (handle === undefined) throw new Error('no vCPU');
		expect(openVcpu(handle, { provider: nodeProvider, program }).run()).toBe(0);
		expect(rig.register('rip')).toBe(0x10010n);
	});

	it('does not wait in HLT when it was kicked', () => {
		const program = programOf({
			reset: (cpu) => {
				rig.kick();
				return cpu.hlt('park');
			},
			park,
		});
		const rig: Rig = createRig({ ramBytes: MIB, program });
		const [handle] = rig.handles;
		if (handle === undefined) throw new Error('no vCPU');
		expect(openVcpu(handle, { provider: nodeProvider, program }).run()).toBe(-4);
		expect(rig.register('rip')).toBe(0x10010n);
	});
});

describe('CPUID', () => {
	const ask = (leaf: number, subleaf: number, o: Partial<RigOptions> = {}, vcpu = 0): bigint[] => {
		const rig = rigOf({ reset: (cpu) => cpu.cpuid('park') }, o);
		rig.setRegister('rax', BigInt(leaf), vcpu);
		rig.setRegister('rcx', BigInt(subleaf), vcpu);
		rig.vcpus[vcpu]?.run();
		return (['rax', 'rbx', 'rcx', 'rdx'] as const).map((r) => rig.register(r, vcpu));
	};

	it('answers from the entries that the VMM gave', () => {
		expect(ask(0x40000000, 0)).toEqual([0x40000001n, 0x4b4d564bn, 0x564b4d56n, 0x4dn]);
		expect(ask(0x8000001f, 5)).toEqual([2n, 51n | (1n << 6n), 0n, 0n]);
	});

	it('answers zeros for what has no entry', () => {
		expect(ask(0x40000200, 0)).toEqual([0n, 0n, 0n, 0n]);
	});

	it('gives each vCPU its APIC id', () => {
		expect(ask(1, 0, { vcpus: 3 }, 2)[1]).toBe(0x02010800n);
	});

	it('tells subleaves apart where they matter', () => {
		const sub = (index: number) => ({
			function: 7,
			index,
			significantIndex: true,
			eax: index + 1,
			ebx: 0,
			ecx: 0,
			edx: 0,
		});
		const cpuid = [...guestCpuid({}), sub(0), sub(1)];
		expect([0, 1, 2].map((i) => ask(7, i, { cpuid })[0])).toEqual([1n, 2n, 0n]);
	});
});
