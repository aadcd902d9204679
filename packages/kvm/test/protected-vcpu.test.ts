import { nodeProvider } from '@cvm/crypto/node';
import { Status } from '@cvm/sev-hw';
import { vmsa } from '@cvm/sev-hw/abi';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { describe, expect, it } from 'vitest';
import { ExitCode, MSR_GHCB, MSR_SEV_STATUS } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { Block, GuestCpu } from '../src/vcpu/index.js';
import { VmWord } from '../src/vm/state.js';
import { FIRST_HOST_REGISTER, openVcpuState, Register, VcpuWord } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { createGhcbRig, EINTR, event, type GhcbRig, type GhcbRigOptions } from './ghcb-rig.js';
import { createRig, programOf } from './guest-rig.js';
import { certificatesOf } from './host.js';
import { loadGates } from './idt-rig.js';

const saveAreaOf = (rig: GhcbRig, vcpu = 0) => {
	const { saveArea } = contextOf(rig.vm).vcpus.get(vcpu) ?? {};
	if (saveArea === undefined) throw new Error(`vCPU ${vcpu}: expected a save area`);
	return saveArea;
};
/** What the guest's key shows of it. */
const plainSaveArea = (rig: GhcbRig) => {
	const page = new Uint8Array(4096);
	const { asid } = contextOf(rig.vm).sev;
	openMemoryController(rig.host.machine.silicon, nodeProvider).read(asid, saveAreaOf(rig).spa, page);
	return vmsa.decode(page);
};
const writeMsr = (cpu: GuestCpu, index: number, value: bigint): void => {
	cpu.setNum('rcx', index);
	cpu.setReg('rax', value & 0xffffffffn);
	cpu.setReg('rdx', value >> 32n);
};
const STOP = 0x100n;
/** Ends the guest: SYSTEM_EVENT. */
const stopBlocks: Record<string, Block> = {
	stop: (cpu) => {
		writeMsr(cpu, MSR_GHCB, STOP);
		return cpu.wrmsr('stop_now');
	},
	stop_now: (cpu) => cpu.vmgexit('stop_now'),
};
const rigOf = (blocks: Record<string, Block>, o: Partial<GhcbRigOptions> = {}): GhcbRig =>
	createGhcbRig({ steps: 1000, ...o, blocks: { ...stopBlocks, ...blocks } });
const stopped = (rig: GhcbRig): void => {
	expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.SYSTEM_EVENT]);
};

describe.each([5, 4])('a SEV-ES guest of policy %i', (policy) => {
	it('T-56: reads SEV_STATUS bits 0 and 1, and ends by GHCB MSR 0x100', () => {
		const rig = rigOf(
			{
				reset: (cpu) => {
					cpu.setNum('rcx', MSR_SEV_STATUS);
					return cpu.rdmsr('check');
				},
				check: (cpu) => cpu.jump((cpu.num('rax') & 3) === 3 && cpu.num('rdx') === 0 ? 'stop' : 'bad'),
				bad: (cpu) => cpu.ud2(),
			},
			{ policy },
		);
		expect(rig.run()).toBe(0);
		expect([rig.exitReason(), rig.u32(32), rig.u32(36), rig.u64(40)]).toEqual([24, 6, 1, 0x100n]);
	});
	it('T-57: loads an empty IDT and executes UD2: KVM_EXIT_SHUTDOWN', () => {
		const rig = rigOf(
			{
				reset: (cpu) => {
					cpu.lidt(0, 0);
					return cpu.ud2();
				},
			},
			{ policy },
		);
		expect([rig.run(), rig.exitReason()]).toEqual([0, 8]);
		expect(rig.threads[0]?.fault?.code).toBe('ud');
	});
});

it.each([
	['with', 1 << 5, 0x83n],
	['without', 0, 3n],
])('SEV_STATUS of a guest %s debug swap', (_, features, expected) => {
	let status = 0n;
	const rig = rigOf({
		reset: (cpu) => {
			cpu.setNum('rcx', MSR_SEV_STATUS);
			return cpu.rdmsr('keep');
		},
		keep: (cpu) => {
			status = cpu.reg('rax');
			return cpu.jump('stop');
		},
	});
	Atomics.store(contextOf(rig.vm).words, VmWord.sevFeatures, features);
	stopped(rig);
	expect(status).toBe(expected);
});

describe('VMRUN and #VMEXIT of a SEV-ES vCPU', () => {
	const secrets: Record<string, Block> = {
		reset: (cpu) => {
			for (const name of ['rbp', 'rdi', 'rsi', 'r8', 'r15', 'rbx'] as const) cpu.setReg(name, 0x5ec4e7n);
			cpu.gsBase = 0x123000;
			return cpu.jump('stop');
		},
	};
	it('start from the measured save area', () => {
		const seen: bigint[] = [];
		const rig = rigOf({
			reset: (cpu) => {
				seen.push(cpu.reg('rdx'), cpu.cr0, cpu.cr4, cpu.efer);
				return cpu.jump('stop');
			},
		});
		stopped(rig);
		expect(seen).toEqual([0x00a00f11n, 0x10n, 0x40n, 0n]);
	});
	it('write the guest’s registers back under its key; DRAM has ciphertext', () => {
		const rig = rigOf(secrets);
		const before = saveAreaOf(rig).bytes.slice();
		stopped(rig);
		const { rbp, r15, gs, rip, cs, efer, rcx } = plainSaveArea(rig);
		expect([rbp, r15, rcx]).toEqual([0x5ec4e7n, 0x5ec4e7n, BigInt(MSR_GHCB)]);
		expect(new DataView(gs.buffer, gs.byteOffset).getBigUint64(8, true)).toBe(0x123000n);
		expect(new DataView(cs.buffer, cs.byteOffset).getBigUint64(8, true) + rip).toBe(0x10050n);
		expect(efer & 0x1000n).toBe(0x1000n);
		const now = saveAreaOf(rig).bytes;
		expect(now).not.toEqual(before);
		const text = Array.from(now, (b) => String.fromCharCode(b)).join('');
		expect(text.includes('\xe7\xc4\x5e\x00\x00\x00\x00\x00')).toBe(false);
	});
	it('leave nothing of the guest in KVM’s registers but trapped copies', () => {
		const rig = rigOf(secrets);
		stopped(rig);
		const { registers, xsave } = openVcpuState(rig.vcpus[0]?.share() ?? expect.fail());
		const nonzero = [...registers.slice(0, FIRST_HOST_REGISTER).entries()].filter(([, v]) => v !== 0n).map(([i]) => i);
		const trapped: number[] = [Register.cr0, Register.cr4, Register.efer];
		expect(nonzero.filter((i) => !trapped.includes(i))).toEqual([]);
		expect(xsave.every((b) => b === 0)).toBe(true);
	});
	it('leave in KVM’s registers what the GHCB says, and nothing else', () => {
		const rig = createGhcbRig();
		rig.exchange({ ...event(ExitCode.INVD), rax: 1n, rbx: 2n, rcx: 3n, rdx: 4n, rsi: 5n, rdi: 6n, r8: 7n });
		const names = ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'r8', 'rsp', 'rip'] as const;
		expect(names.map((name) => rig.host64(name))).toEqual([1n, 2n, 3n, 4n, 5n, 0n, 0n, 0n, 0n]);
		expect(rig.vcpus[0]?.getRegs()).toMatchObject({ rax: 1n, rsi: 5n, rip: 0n, rsp: 0n });
	});
	it('do not let the VMM change a register', () => {
		const rig = createGhcbRig({ blocks: { reset: (cpu) => cpu.jump('again'), again: (cpu) => cpu.jump('again') } });
		rig.run();
		const { rip } = plainSaveArea(rig);
		rig.setHost64('rip', 0x12340n);
		rig.setHost64('cr3', 0x1000n);
		expect(rig.run()).toBe(EINTR);
		expect(plainSaveArea(rig)).toMatchObject({ rip, cr3: 0n });
	});
	it('keep x87, SSE and AVX state', () => {
		const rig = rigOf(
			{
				reset: (cpu) => {
					cpu.xsave(0x3000);
					return cpu.jump('stop');
				},
			},
			{ typed: true },
		);
		stopped(rig);
		const { mxcsr, fcw } = plainSaveArea(rig);
		expect([mxcsr, fcw]).toEqual([0x1f80, 0x37f]);
	});
	it.each([0x0, 0x178, 0x388, 0xfb0])('VMRUN refuses a save area whose byte 0x%s the host changed', (at) => {
		const rig = createGhcbRig();
		expect(rig.run()).toBe(EINTR);
		const { bytes } = saveAreaOf(rig);
		bytes[at] = (bytes[at] ?? 0) ^ 1;
		const before = bytes.slice();
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.FAIL_ENTRY]);
		expect(rig.u64(RunOffset.failEntryReason)).toBe(2n ** 64n - 1n);
		expect(bytes).toEqual(before);
		bytes[at] = (bytes[at] ?? 0) ^ 1;
		expect(rig.run()).toBe(EINTR);
	});
	it('VMRUN refuses an old save area that the host put back', () => {
		const rig = createGhcbRig({ blocks: { again: (cpu) => cpu.jump('again'), reset: (cpu) => cpu.jump('again') } });
		const old = saveAreaOf(rig).bytes.slice();
		expect(rig.run()).toBe(EINTR);
		saveAreaOf(rig).bytes.set(old);
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.FAIL_ENTRY]);
	});
	it('a VM that is gone when the vCPU comes out gets nothing written', () => {
		const rig = rigOf({
			reset: (cpu) => {
				Atomics.store(contextOf(rig.vm).words, VmWord.asid, 0);
				return cpu.jump('stop');
			},
		});
		const before = saveAreaOf(rig).bytes.slice();
		stopped(rig);
		expect(saveAreaOf(rig).bytes).toEqual(before);
	});
	it('VMRUN refuses another vCPU’s save area', () => {
		const rig = createGhcbRig({ vcpus: 2 });
		saveAreaOf(rig, 0).bytes.set(saveAreaOf(rig, 1).bytes);
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.FAIL_ENTRY]);
	});
	it('KVM_RUN before the save area is encrypted is KVM_EXIT_FAIL_ENTRY', () => {
		const rig = createGhcbRig({ until: 'launch' });
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.FAIL_ENTRY]);
	});
	it('KVM_RUN before LAUNCH_FINISH is KVM_EXIT_FAIL_ENTRY', () => {
		const rig = createGhcbRig({ until: 'vmsa' });
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.FAIL_ENTRY]);
	});
	it('the firmware takes the save area of a guest that ran, and the guest goes on elsewhere', () => {
		const rig = rigOf(secrets, { vmsaTransport: 'model' });
		stopped(rig);
		const target = createGhcbRig({
			vmsaTransport: 'model',
			receives: true,
			steps: 1000,
			blocks: { ...stopBlocks, ...secrets },
		});
		const start = rig.vm.sev.sendStart(certificatesOf(target.host));
		expect(start).toMatchObject({ ret: 0, error: 0 });
		const { pdhCert } = certificatesOf(rig.host);
		const received = target.vm.sev.receiveStart({ policy: start.policy, pdhCert, session: start.session });
		expect(received).toEqual({ ret: 0, error: 0 });
		const { ret, header, data } = rig.vm.sev.sendUpdateVmsa({ vcpuId: 0 });
		expect(ret).toBe(0);
		expect(target.vm.sev.receiveUpdateVmsa({ vcpuId: 0, header, data })).toMatchObject({ ret: 0, error: 0 });
		expect(target.vm.sev.receiveFinish()).toMatchObject({ ret: 0 });
		target.setHost64('ghcbMsr', rig.host64('ghcbMsr'));
		stopped(target);
		expect(plainSaveArea(target)).toMatchObject({ rbp: 0x5ec4e7n, r15: 0x5ec4e7n, rip: plainSaveArea(rig).rip });

		const { bytes } = saveAreaOf(rig);
		bytes[8] = (bytes[8] ?? 0) ^ 1;
		expect(rig.vm.sev.sendUpdateVmsa({ vcpuId: 0 })).toMatchObject({ ret: -5, error: Status.INVALID_PARAM });
	});
});

describe('what a SEV-ES guest may do by itself', () => {
	const own = [0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102];
	const readBack = (index: number, value: bigint): { rig: GhcbRig; seen: bigint[] } => {
		const seen: bigint[] = [];
		const rig = rigOf({
			reset: (cpu) => {
				writeMsr(cpu, index, value);
				return cpu.wrmsr('written');
			},
			written: (cpu) => {
				cpu.setNum('rax', 0);
				cpu.setNum('rdx', 0);
				return cpu.rdmsr('read');
			},
			read: (cpu) => {
				seen.push((cpu.reg('rdx') << 32n) | cpu.reg('rax'));
				return cpu.jump('stop');
			},
		});
		return { rig, seen };
	};
	it.each([...own, 0x277, MSR_GHCB])('MSR 0x%s is read and written without #VC', (index) => {
		const { rig, seen } = readBack(index, 0x4_0000_0006n);
		stopped(rig);
		expect(seen).toEqual([0x4_0000_0006n]);
	});
	it('EFER too, without SVME', () => {
		const { rig, seen } = readBack(0xc0000080, 0x101n);
		stopped(rig);
		expect(seen).toEqual([0x101n]);
	});
	it.each([
		['a reserved bit of EFER', 0xc0000080, 2n],
		['a memory type that is none', 0x277, 2n],
		['an LSTAR that is not canonical', 0xc0000082, 1n << 60n],
		['SEV_STATUS', MSR_SEV_STATUS, 3n],
	])('the processor raises #GP for %s', (_, index, value) => {
		const { rig } = readBack(index, value);
		expect([rig.run(), rig.exitReason(), rig.threads[0]?.fault?.code]).toEqual([0, 8, 'gp']);
	});
	it('the filter of the VMM takes one back: #VC', () => {
		const { rig } = readBack(0xc0000082, 0n);
		const bitmap = new Uint8Array(8);
		const ranges = [{ flags: 3, base: 0xc0000082, nmsrs: 1, bitmap }];
		expect(rig.vm.setMsrFilter({ flags: 0, ranges })).toBe(0);
		expect([rig.run(), rig.exitReason(), rig.threads[0]?.fault?.code]).toEqual([0, 8, 'vc']);
	});
	it('HLT goes on at the next tick, and is no #VC', () => {
		stopped(rigOf({ reset: (cpu) => cpu.hlt('stop') }));
	});
	it('VMCALL is #UD', () => {
		const rig = rigOf({ reset: (cpu) => cpu.vmcall('stop') });
		expect([rig.run(), rig.threads[0]?.fault?.code]).toEqual([0, 'ud']);
	});
});

describe('#VC', () => {
	type Seen = readonly [code: number, info1: bigint, info2: bigint, nrip: number, rip: number];
	const raised = (block: Block): Seen | undefined => {
		let seen: Seen | undefined;
		const rig = rigOf({
			reset: (cpu) => {
				loadGates(cpu, 0x1000, { 29: cpu.address('handler') });
				cpu.setNum('rsp', 0x9000);
				return cpu.jump('body');
			},
			body: block,
			next: (cpu) => cpu.jump('stop'),
			handler: (cpu) => {
				const rsp = cpu.num('rsp');
				seen = [cpu.loadNum(rsp), cpu.exitInfo1, cpu.exitInfo2, cpu.nrip, cpu.loadNum(rsp + 8)];
				return cpu.jump('stop');
			},
		});
		expect(rig.run()).toBe(0);
		const program = (seen?.[3] ?? 0) - (seen?.[4] ?? 0);
		expect([0, 16]).toContain(program);
		return seen;
	};
	it.each<[string, Block, number, bigint]>([
		['CPUID', (cpu) => cpu.cpuid('next'), ExitCode.CPUID, 0n],
		['VMMCALL', (cpu) => cpu.vmmcall('next'), ExitCode.VMMCALL, 0n],
		['OUT', (cpu) => cpu.out(0x3f8, 1, 'next'), ExitCode.IOIO, 0x3f80210n],
		['IN', (cpu) => cpu.in(0x511, 4, 'next'), ExitCode.IOIO, 0x5110241n],
		[
			'RDMSR',
			(cpu) => {
				cpu.setNum('rcx', 0x4b564d08);
				return cpu.rdmsr('next');
			},
			ExitCode.MSR,
			0n,
		],
		[
			'WRMSR',
			(cpu) => {
				cpu.setNum('rcx', 0x4b564d08);
				return cpu.wrmsr('next');
			},
			ExitCode.MSR,
			1n,
		],
	])('%s raises it with its exit code', (_, block, code, info1) => {
		const [seenCode, seenInfo1, , nrip, rip] = raised(block) ?? [];
		expect([seenCode, seenInfo1]).toEqual([code, info1]);
		expect((nrip ?? 0) - (rip ?? 0)).toBe(16);
	});
	it('a write where there is no memory raises it with the address', () => {
		const seen = raised((cpu) => {
			cpu.storeU8(0x10000005, 1);
			return cpu.jump('next');
		});
		expect(seen?.slice(0, 3)).toEqual([0x400, 2n, 0x10000005n]);
	});
	it('without a gate it is KVM_EXIT_SHUTDOWN', () => {
		const rig = rigOf({ reset: (cpu) => cpu.cpuid('stop') });
		expect([rig.run(), rig.exitReason(), rig.threads[0]?.fault?.code]).toEqual([0, 8, 'vc']);
	});
	it('at CPL 3 the privileged instructions are #GP before', () => {
		const rig = rigOf({
			reset: (cpu) => {
				// IRET to CPL 3.
				cpu.setNum('rsp', 0x9000);
				for (const [i, value] of [BigInt(cpu.address('user')), 0x33n, 2n, 0x9000n, 0x2bn].entries()) {
					cpu.storeU64(0x9000 + 8 * i, value);
				}
				return cpu.iret();
			},
			user: (cpu) => cpu.out(0x3f8, 1, 'stop'),
		});
		expect([rig.run(), rig.threads[0]?.fault?.code]).toEqual([0, 'gp']);
		expect(
			Atomics.load(openVcpuState(rig.vcpus[0]?.share() ?? expect.fail()).words, VcpuWord.guestStateProtected),
		).toBe(1);
	});
});

it('VMGEXIT in a guest without SEV-ES is VMMCALL', () => {
	const rig = createRig({ ramBytes: 1 << 20, program: programOf({ reset: (cpu) => cpu.vmgexit('reset') }) });
	rig.setRegister('rax', 12n);
	rig.setRegister('rbx', 0x1000n);
	rig.setRegister('rcx', 1n);
	expect(rig.vcpus[0]?.run()).toBe(0);
	expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.HYPERCALL);
});
