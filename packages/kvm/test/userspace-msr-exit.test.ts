import { describe, expect, it } from 'vitest';
import { MsrExitReason } from '../src/abi/capabilities.js';
import { Msr } from '../src/abi/msr.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { Vm } from '../src/index.js';
import type { Block } from '../src/vcpu/index.js';
import { createVmRig, programOf, type VmRig } from './vm-rig.js';

const GP_COUNT = 0x8000;
const GP_RIP = 0x8008;
const RESULTS = 0x9000;
const STACK = 0x7000;
const IDT = 0x6000;
const GP = 13;
const NON_EXISTENT = 0x474f4f00;
const UNKNOWN = 0xdeadbeef;

type Step = readonly ['rd', number] | readonly ['wr', number, bigint];

/** A gate of the model: 16 bytes, ring 0. */
function gate(address: number): Uint8Array {
	const out = new Uint8Array(16);
	const view = new DataView(out.buffer);
	view.setUint16(0, address & 0xffff, true);
	view.setUint16(2, 8, true);
	view.setUint8(5, 0x8e);
	view.setUint16(6, (address >>> 16) & 0xffff, true);
	return out;
}

/**
 * A guest that makes accesses one after the other, stores what each read gives, and skips what faults: its #GP handler
 * counts and notes where.
 */
function accesses(steps: readonly Step[]) {
	const blocks: Record<string, Block> = {
		reset: (cpu) => {
			cpu.setNum('rsp', STACK);
			cpu.store(IDT + 16 * GP, gate(cpu.address('gp')));
			cpu.lidt(IDT, 16 * 32 - 1);
			return cpu.jump('s0');
		},
		gp: (cpu) => {
			const rsp = cpu.num('rsp');
			cpu.storeU64(GP_COUNT, cpu.loadU64(GP_COUNT) + 1n);
			cpu.storeU64(GP_RIP, cpu.loadU64(rsp + 8));
			cpu.storeNum(rsp + 8, cpu.nrip);
			cpu.setNum('rsp', rsp + 8);
			return cpu.iret();
		},
		end: (cpu) => cpu.out(0xf4, 1, 'end'),
	};
	for (const [i, step] of steps.entries()) {
		blocks[`s${i}`] = (cpu) => {
			cpu.setNum('rcx', step[1]);
			cpu.setReg('rax', step[0] === 'wr' ? step[2] & 0xffffffffn : 0x77n);
			cpu.setReg('rdx', step[0] === 'wr' ? step[2] >> 32n : 0x77n);
			return step[0] === 'wr' ? cpu.wrmsr(`r${i}`) : cpu.rdmsr(`r${i}`);
		};
		blocks[`r${i}`] = (cpu) => {
			cpu.storeU64(RESULTS + 8 * i, (cpu.reg('rdx') << 32n) | cpu.reg('rax'));
			return cpu.jump(i + 1 < steps.length ? `s${i + 1}` : 'end');
		};
	}
	return programOf(blocks);
}

interface MsrExit {
	readonly kind: 'rd' | 'wr';
	readonly index: number;
	readonly reason: number;
	readonly data: bigint;
}
/** The VMM's answer: a value for the guest, or "no". */
type Answer = (exit: MsrExit) => bigint | 'error';

/** Runs the guest to its end. */
function serve(rig: VmRig, answer: Answer) {
	const exits: MsrExit[] = [];
	const { view } = rig;
	for (;;) {
		expect(rig.run()).toBe(0);
		if (rig.reason() === ExitReason.IO) break;
		expect([ExitReason.X86_RDMSR, ExitReason.X86_WRMSR]).toContain(rig.reason());
		const exit: MsrExit = {
			kind: rig.reason() === ExitReason.X86_RDMSR ? 'rd' : 'wr',
			index: view.getUint32(RunOffset.msrIndex, true),
			reason: view.getUint32(RunOffset.msrReason, true),
			data: view.getBigUint64(RunOffset.msrData, true),
		};
		exits.push(exit);
		const said = answer(exit);
		view.setUint8(RunOffset.msrError, said === 'error' ? 1 : 0);
		if (said !== 'error' && exit.kind === 'rd') view.setBigUint64(RunOffset.msrData, said, true);
	}
	const ram = new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset);
	const u64 = (at: number) => ram.getBigUint64(at, true);
	return { exits, gps: u64(GP_COUNT), gpRip: u64(GP_RIP), result: (i: number) => u64(RESULTS + 8 * i) };
}

const one = (base: number, bit = 0) => ({ flags: 3, nmsrs: 1, base, bitmap: Uint8Array.of(bit, 0, 0, 0, 0, 0, 0, 0) });
const filterOf = (vm: Vm, ...bases: number[]) => vm.setMsrFilter({ flags: 0, ranges: bases.map((base) => one(base)) });
const shapes = (exits: readonly MsrExit[]) => exits.map(({ kind, index }) => `${kind} ${index.toString(16)}`);

// Linux tools/testing/selftests/kvm/x86/userspace_msr_exit_test.c. T-47, the same through the instruction emulator, does not
// apply: blocks of this model are not instructions, and KVM emulates none of them.
describe('a filter that denies single MSRs', () => {
	const STEPS: readonly Step[] = [
		['rd', Msr.XSS],
		['wr', Msr.XSS, 0n],
		['wr', Msr.XSS, 1n],
		['rd', Msr.FLUSH_CMD],
		['wr', Msr.FLUSH_CMD, 0n],
		['wr', Msr.FLUSH_CMD, 1n],
		['wr', NON_EXISTENT, 2n],
		['rd', NON_EXISTENT],
	];
	const run = (steps = STEPS) => {
		const rig = createVmRig({ program: accesses(steps) });
		expect(rig.vm.enableCap(188, [4n])).toBe(0);
		expect(filterOf(rig.vm, Msr.XSS, Msr.FLUSH_CMD, NON_EXISTENT)).toBe(0);
		let kept = 0n;
		const answer: Answer = ({ kind, index, data }) => {
			if (index === Msr.XSS) return kind === 'wr' && data !== 0n ? 'error' : 0n;
			if (index === Msr.FLUSH_CMD) return kind === 'wr' && data === 1n ? 0n : 'error';
			if (kind === 'wr') kept = data;
			return kept;
		};
		return { ...serve(rig, answer), rig };
	};

	it('T-43: exits for these in the order of the accesses, with reason FILTER', () => {
		const { exits } = run();
		expect(shapes(exits)).toEqual([
			...['rd da0', 'wr da0', 'wr da0', 'rd 10b', 'wr 10b', 'wr 10b', 'wr 474f4f00', 'rd 474f4f00'],
		]);
		expect(exits.every(({ reason }) => reason === MsrExitReason.FILTER)).toBe(true);
		expect(exits.map(({ data }) => data)).toEqual([0n, 0n, 1n, 0n, 0n, 1n, 2n, 0n]);
	});

	it('T-44: gives the guest what the VMM says, or one #GP', () => {
		const { gps, result } = run(STEPS.slice(0, 3));
		expect([gps, result(0)]).toEqual([1n, 0n]);
		expect(run(STEPS.slice(0, 2)).gps).toBe(0n);
	});

	it('T-45: makes #GP of an error, for reads as for writes', () => {
		expect(run(STEPS.slice(3, 4)).gps).toBe(1n);
		expect(run(STEPS.slice(4, 5)).gps).toBe(1n);
		expect(run(STEPS.slice(5, 6)).gps).toBe(0n);
	});

	it('T-46: lets the VMM keep a value for an MSR that does not exist', () => {
		const { gps, result } = run(STEPS.slice(6));
		expect([gps, result(1)]).toEqual([0n, 2n]);
	});

	it('T-48: raises #GP at the instruction that made the access', () => {
		const steps = STEPS.slice(3, 4);
		expect(run(steps).gpRip).toBe(BigInt(accesses(steps).address('s0')));
	});

	it('T-48: raises it there also without an exit', () => {
		const steps: readonly Step[] = [['rd', UNKNOWN]];
		const rig = createVmRig({ program: accesses(steps) });
		const { exits, gps, gpRip } = serve(rig, () => 'error');
		expect([exits, gps, gpRip]).toEqual([[], 1n, BigInt(accesses(steps).address('s0'))]);
	});
});

describe('a filter that denies what no range allows', () => {
	const NMSRS = 0x600 * 8;
	const map = (deny: readonly number[] = []): Uint8Array => {
		const out = new Uint8Array(0x600).fill(0xff);
		for (const bit of deny) out[bit >> 3] = (out[bit >> 3] ?? 0) & ~(1 << (bit & 7));
		return out;
	};
	const range = (flags: number, base: number, deny?: readonly number[]) => ({
		flags,
		base,
		nmsrs: NMSRS,
		bitmap: map(deny),
	});
	const STRICT = {
		flags: 1,
		ranges: [
			range(1, 0),
			range(2, 0, [Msr.POWER_CTL]),
			range(3, 0x40000000),
			range(1, 0xc0000000, [Msr.SYSCALL_MASK & 0xffff, Msr.GS_BASE & 0xffff]),
			range(2, 0xc0000000),
			one(UNKNOWN, 1),
		],
	};
	const STEPS: readonly Step[] = [
		['wr', Msr.SYSCALL_MASK, 0x55n],
		['rd', Msr.SYSCALL_MASK],
		['rd', Msr.GS_BASE],
		['wr', Msr.POWER_CTL, 0x1234n],
		['rd', Msr.POWER_CTL],
		['rd', UNKNOWN],
		['wr', UNKNOWN, 0x1234n],
	];
	const made = (filter: Parameters<Vm['setMsrFilter']>[0]) => {
		const rig = createVmRig({ program: accesses(STEPS) });
		expect(rig.vm.enableCap(188, [7n])).toBe(0);
		expect(rig.vm.setMsrFilter(filter)).toBe(0);
		return rig;
	};
	const itself: Answer = ({ index }) => BigInt(index);

	it('T-49: takes ranges of 0x600 · 8 MSRs', () => {
		expect(made(STRICT).vm.setMsrFilter(STRICT)).toBe(0);
	});

	it('T-50: tells denied from unknown, and leaves the rest to KVM', () => {
		const rig = made(STRICT);
		const { exits, gps, result } = serve(rig, itself);
		expect(exits).toEqual([
			{ kind: 'rd', index: Msr.SYSCALL_MASK, reason: 4, data: 0n },
			{ kind: 'rd', index: Msr.GS_BASE, reason: 4, data: 0n },
			{ kind: 'wr', index: Msr.POWER_CTL, reason: 4, data: 0x1234n },
			{ kind: 'rd', index: UNKNOWN, reason: 2, data: 0n },
			{ kind: 'wr', index: UNKNOWN, reason: 2, data: 0x1234n },
		]);
		expect([gps, result(1), result(2), result(4)]).toEqual([0n, BigInt(Msr.SYSCALL_MASK), BigInt(Msr.GS_BASE), 0n]);
		expect(rig.vcpu.getMsr(Msr.SYSCALL_MASK)).toBe(0x55n);
	});

	it('T-51: an empty filter that allows leaves the unknown one; in both rounds 4 reads and 3 writes', () => {
		const first = serve(made(STRICT), itself).exits;
		const { exits, result } = serve(made({ flags: 0, ranges: [] }), itself);
		expect(shapes(exits)).toEqual(['rd deadbeef', 'wr deadbeef']);
		expect([result(1), result(4)]).toEqual([0x55n, 0x1234n]);
		const of = (kind: 'rd' | 'wr') => [...first, ...exits].filter((exit) => exit.kind === kind).length;
		expect([of('rd'), of('wr')]).toEqual([4, 3]);
	});

	it('T-52: is replaced as a whole', () => {
		const steps: readonly Step[] = [
			['rd', Msr.FS_BASE],
			['rd', Msr.GS_BASE],
		];
		const exitsWith = (...bases: number[]) => {
			const rig = createVmRig({ program: accesses(steps) });
			rig.vm.enableCap(188, [4n]);
			// What was there before does not count.
			filterOf(rig.vm, Msr.FS_BASE, Msr.GS_BASE);
			filterOf(rig.vm, ...bases);
			return shapes(serve(rig, itself).exits);
		};
		expect(exitsWith(Msr.FS_BASE)).toEqual(['rd c0000100']);
		expect(exitsWith(Msr.GS_BASE)).toEqual(['rd c0000101']);
		expect(exitsWith(UNKNOWN)).toEqual([]);
	});

	it('T-54: takes bit 0 of its flags, bits 0 and 1 of a range’s', () => {
		const { vm } = createVmRig({ program: accesses(STEPS) });
		for (let bit = 0; bit < 32; bit++) {
			const flags = (1 << bit) >>> 0;
			expect(vm.setMsrFilter({ flags, ranges: [one(0, 1)] })).toBe(bit === 0 ? 0 : -22);
			const ranges = [{ ...one(0, 1), flags }];
			expect(vm.setMsrFilter({ flags: 0, ranges })).toBe(bit < 2 ? 0 : -22);
		}
	});
});

describe('the VMM’s own access', () => {
	it('is never filtered', () => {
		const { vm, vcpu } = createVmRig({ program: accesses([]) });
		vm.enableCap(188, [7n]);
		filterOf(vm, Msr.LSTAR);
		expect(vcpu.setMsr(Msr.LSTAR, 0x1000n)).toBe(0);
		expect(vcpu.getMsr(Msr.LSTAR)).toBe(0x1000n);
	});

	it('need not know what the guest was told about', () => {
		const { vcpu } = createVmRig({ program: accesses([]) });
		expect(vcpu.enableCap(190, [1n])).toBe(0);
		expect(vcpu.setMsr(Msr.KVM_STEAL_TIME, 0x1001n)).toBe(0);
		expect(vcpu.getMsr(Msr.KVM_STEAL_TIME)).toBe(0x1001n);
		expect(vcpu.getMsr(Msr.XSS)).toBe(0n);
	});
});

describe('values that KVM refuses: #GP, or an exit with reason INVAL', () => {
	it.each<[string, number, bigint]>([
		['a supervisor state', Msr.XSS, 1n],
		['a flush that is none', Msr.FLUSH_CMD, 2n],
		['a type of memory that is none', Msr.PAT, 0x0007040600070402n],
		['an address that is none', Msr.FS_BASE, 0x8000000000000000n],
		['an address that is none', Msr.GS_BASE, 0x0000800000000000n],
		['an address that is none', Msr.KERNEL_GS_BASE, 0x8000000000000000n],
		['an address that is none', Msr.LSTAR, 0x8000000000000000n],
		['an address that is none', Msr.CSTAR, 0x8000000000000000n],
		['an address that is none', Msr.SYSENTER_ESP, 0x8000000000000000n],
		['an address that is none', Msr.SYSENTER_EIP, 0x8000000000000000n],
		['what the CPU lacks', Msr.TSC_AUX, 0n],
		['reserved bits', Msr.APIC_BASE, 1n],
		['x2APIC mode of an APIC that is off', Msr.APIC_BASE, 0xfee00400n],
		['reserved bits', Msr.KVM_STEAL_TIME, 0x1003n],
		['reserved bits', Msr.KVM_PV_EOI_EN, 2n],
		['reserved bits', Msr.KVM_POLL_CONTROL, 2n],
		['reserved bits', Msr.KVM_ASYNC_PF_EN, 0x1010n],
		['page faults without an APIC', Msr.KVM_ASYNC_PF_EN, 1n],
		['interrupts without an APIC', Msr.KVM_ASYNC_PF_INT, 0x20n],
		['an APIC register outside of x2APIC mode', 0x802, 0n],
	])('%s: 0x%s', (_, msr, value) => {
		const program = accesses([['wr', msr, value]]);
		expect(serve(createVmRig({ program }), () => 'error')).toMatchObject({ exits: [], gps: 1n });
		const asked = createVmRig({ program });
		asked.vm.enableCap(188, [1n]);
		expect(serve(asked, () => 0n)).toMatchObject({ exits: [{ reason: 1, data: value }], gps: 0n });
		asked.vm.enableCap(188, [2n]);
	});

	it.each<[number, bigint]>([
		[Msr.PAT, 0x0007040600070406n],
		[Msr.FS_BASE, 0xffff800000000000n],
		[Msr.GS_BASE, 0x7fffffffffffn],
		[Msr.STAR, 0xffffffffffffffffn],
		[Msr.SYSENTER_CS, 8n],
		[Msr.POWER_CTL, 0x1234n],
		[Msr.APIC_BASE, 0xfee00d00n],
		[Msr.KVM_STEAL_TIME, 0x20041n],
		[Msr.KVM_PV_EOI_EN, 0x8005n],
		[Msr.KVM_POLL_CONTROL, 0n],
		[Msr.KVM_ASYNC_PF_EN, 0n],
		[Msr.KVM_WALL_CLOCK, 0n],
		[Msr.KVM_SYSTEM_TIME_NEW, 0x20001n],
	])('takes MSR 0x%s ← %i and gives it back', (msr, value) => {
		const steps: readonly Step[] = [
			['wr', msr, value],
			['rd', msr],
		];
		const rig = createVmRig({ program: accesses(steps) });
		const { exits, gps, result } = serve(rig, () => 'error');
		expect([exits, gps, result(1)]).toEqual([[], 0n, value]);
		expect(rig.vcpu.getMsr(msr)).toBe(value);
	});
});

describe('KVM’s own MSRs', () => {
	const OWN = [
		...[Msr.KVM_SYSTEM_TIME, Msr.KVM_SYSTEM_TIME_NEW, Msr.KVM_WALL_CLOCK, Msr.KVM_WALL_CLOCK_NEW, Msr.KVM_ASYNC_PF_EN],
		...[Msr.KVM_STEAL_TIME, Msr.KVM_PV_EOI_EN, Msr.KVM_POLL_CONTROL, Msr.KVM_ASYNC_PF_INT, Msr.KVM_ASYNC_PF_ACK],
	];
	const STEPS = OWN.flatMap((msr): Step[] => [
		['rd', msr],
		['wr', msr, 0n],
	]);

	// Linux tools/testing/selftests/kvm/x86/kvm_pv_test.c.
	it('T-39: are #GP, all 20 accesses, for a guest that was not told about them while that is enforced', () => {
		const rig = createVmRig({ program: accesses(STEPS) });
		expect(rig.vcpu.enableCap(190, [1n])).toBe(0);
		expect(serve(rig, () => 'error')).toMatchObject({ exits: [], gps: 20n });
	});

	it('T-39: are not, while it is not; ASYNC_PF_INT wants an APIC all the same', () => {
		const { gps } = serve(createVmRig({ program: accesses(STEPS) }), () => 'error');
		expect(gps).toBe(1n);
	});

	it('T-39: are there one by one with their feature bits', () => {
		const told = (features: number) => {
			const rig = createVmRig({ program: accesses(STEPS) });
			rig.vcpu.enableCap(190, [1n]);
			const cpuid = rig.vcpu.getCpuid().map((e) => (e.function === 0x40000001 ? { ...e, eax: features } : e));
			expect(rig.vcpu.setCpuid(cpuid)).toBe(0);
			return serve(rig, () => 'error').gps;
		};
		const ASYNC_PF_INT = 1 << 14;
		expect([1, 8, 16, 32, 64, 1 << 12].map(told)).toEqual([16n, 16n, 18n, 18n, 18n, 18n]);
		// Two MSRs, of which one refuses its write without an APIC.
		expect(told(ASYNC_PF_INT)).toBe(17n);
	});

	it('the migration MSR is none of them', () => {
		const rig = createVmRig({ program: accesses([['rd', 0x4b564d08]]) });
		rig.vm.enableCap(188, [2n]);
		expect(serve(rig, () => 1n).exits).toMatchObject([{ reason: MsrExitReason.UNKNOWN }]);
	});
});
