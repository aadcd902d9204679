/** The trampoline of 2020, in guests without SEV whose registers their hosts carry. */
import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type Vcpu } from '@cvm/kvm';
import { type Block, type GuestCpu, link, openVcpu } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { demonstratorFragments } from '@cvm/ovmf-mh/firmware';
import { createSevMachine } from '@cvm/sev-hw';
import { describe, expect, it } from 'vitest';
import {
	BLOB_OFFSET,
	COMPLETION,
	COMPLETION_OFFSET,
	type CpuState,
	cpuStatePage,
	ResumeProblem,
	ResumeState,
	STATE_OFFSET,
} from '../src/resume/index.js';

const PAGE = 4096;
const RAM_BYTES = 0x1400000;
const PLACES = { phase2: 0x80b000, phase3: 0x80c000, data: 0x80d000, tables: 0x8a0000 };
/** As a kernel with KASLR has it. */
const DIRECT_MAP = 0x2a_c000_0000;
const TABLES = { firmware: 0x700000, kernel: 0x1000000 };
const GDT = 0x1004000;
const TSS = 0x1005000;
const SELECTOR = 0x40;
const WORK = 0x1010000;
const STEPS = 300;
const MSRS = {
	star: 0xc0000081,
	lstar: 0xc0000082,
	cstar: 0xc0000083,
	fmask: 0xc0000084,
	kernelGsBase: 0xc0000102,
	tscAux: 0xc0000103,
};

/** 4 GiB one to one, and again at the direct map. */
const tables = (cpu: GuestCpu, root: number, isMapped = true): void => {
	cpu.fill(root, 3 * PAGE, 0);
	cpu.storeU64(root, BigInt(root + PAGE) | 3n);
	for (let i = 0; i < 4; i++) cpu.storeU64(root + PAGE + 8 * i, (BigInt(i) << 30n) | 0x83n);
	// 0x2ac0000000 is entry 0x0ab of the same PDPT; no code there, says the kernel.
	if (isMapped) cpu.storeU64(root + PAGE + 8 * (DIRECT_MAP / 2 ** 30), (1n << 63n) | 0x83n);
};
const enter = (cpu: GuestCpu, root: number): void => {
	cpu.cr4 |= 0x20n;
	cpu.efer |= 0x100n;
	cpu.cr3 = BigInt(root);
	cpu.cr0 |= 0x80010001n;
};

function machine(o: { vcpus: number; isMapped?: boolean }) {
	const sev = createSevMachine({
		dramBytes: RAM_BYTES + (4 << 20),
		provider: nodeProvider,
		random: seededRandom('demo'),
		chipSeed: 'demo',
	});
	const kvm = createKvm({ machine: sev });
	const vm = kvm.createVm();
	const ram = kvm.memory.mmap(RAM_BYTES);
	vm.setUserMemoryRegion({ slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: RAM_BYTES, userspaceAddr: ram.hva });
	const blocks: Record<string, Block> = {
		'demo.firmware': (cpu) => {
			if (cpu.num('rbx') === 0) tables(cpu, TABLES.firmware);
			enter(cpu, TABLES.firmware);
			return cpu.jump('demo.ready');
		},
		'demo.ready': (cpu) => cpu.jump('demo.ready'),
		'demo.kernel': (cpu) => {
			if (cpu.num('rbx') === 0) {
				tables(cpu, TABLES.kernel, o.isMapped);
				cpu.storeU64(
					GDT + SELECTOR,
					0x67n | (BigInt(TSS & 0xffffff) << 16n) | (0x8bn << 40n) | (BigInt(TSS >>> 24) << 56n),
				);
				cpu.storeU64(GDT + SELECTOR + 8, 0n);
			}
			enter(cpu, TABLES.kernel);
			cpu.lgdt(GDT, 0x4f);
			cpu.lidt(0x1006000, 0xfff);
			cpu.ltr(TSS, 0x67);
			cpu.gsBase = 0x5000 + cpu.num('rbx');
			cpu.setReg('r15', 99n + cpu.reg('rbx'));
			for (const name of ['r8', 'r9', 'rsi', 'rdi'] as const) cpu.setReg(name, 0xabcd000n + cpu.reg('rbx'));
			return cpu.jump('demo.step');
		},
		'demo.step': (cpu) => {
			if (cpu.num('rbp') === STEPS) return cpu.jump('demo.done');
			const state = (cpu.reg('r15') * 6364136223846793005n + 1442695040888963407n) & (2n ** 63n - 1n);
			cpu.setReg('r15', state);
			cpu.storeU64(WORK + 0x10000 * cpu.num('rbx') + 8 * Number((state >> 30n) % 8192n), state ^ cpu.reg('r8'));
			cpu.setNum('rbp', cpu.num('rbp') + 1);
			return cpu.jump('demo.step');
		},
		'demo.done': (cpu) => cpu.jump('demo.done'),
	};
	const program = link(
		{ name: 'demo', base: 0x600000, blocks },
		...demonstratorFragments({ ...PLACES, directMap: DIRECT_MAP }),
	);
	let left = 0;
	// RDTSCP, and so TSC_AUX.
	const cpuid = kvm
		.cpuid({ sev: false })
		.map((e) => (e.function === 0x80000001 ? { ...e, edx: e.edx | (1 << 27) } : e));
	const vcpus = Array.from({ length: o.vcpus }, (_, i) => vm.createVcpu(i, cpuid));
	const threads = vcpus.map((vcpu) =>
		openVcpu(vcpu.share(), {
			provider: nodeProvider,
			program,
			ticks: false,
			afterBlock: () => --left <= 0 && vcpu.kick(),
		}),
	);
	const start = (label: string, more: Partial<ReturnType<Vcpu['getRegs']>> = {}): void => {
		for (const [i, vcpu] of vcpus.entries()) {
			vcpu.setRegs({ rip: BigInt(program.address(label)), rbx: BigInt(i), rsp: 0n, ...more });
		}
	};
	return {
		...{ vcpus, threads, program, start, bytes: ram.bytes },
		run: (count: number): void => {
			for (const thread of threads) {
				left = count;
				expect(thread.run(), thread.fault?.message).toBe(-4);
			}
		},
		at: () => vcpus.map((vcpu) => program.label(Number(vcpu.getRegs().rip))),
	};
}
type Machine = ReturnType<typeof machine>;

/** What the tool takes out of the source's VMM. */
function stateOf(vcpu: Vcpu): CpuState {
	const { rip, rflags, ...general } = vcpu.getRegs();
	const { cr0, cr2, cr3, cr4, efer, gdt, idt, cs, ss, ds, es, fs, gs } = vcpu.getSregs();
	const msr = Object.fromEntries(Object.entries(MSRS).map(([name, index]) => [name, vcpu.getMsr(index) ?? 0n]));
	return {
		...general,
		...{
			rip,
			rflags,
			cr0,
			cr2,
			cr3,
			cr4,
			efer,
			cs: BigInt(cs.selector),
			ss: BigInt(ss.selector),
			ds: ds.selector,
			es: es.selector,
		},
		...{
			fs: fs.selector,
			gs: gs.selector,
			tr: SELECTOR,
			fsBase: fs.base,
			gsBase: gs.base,
			gdtBase: gdt.base,
			gdtLimit: gdt.limit,
		},
		...{ idtBase: idt.base, idtLimit: idt.limit, sysenterCs: 0n, sysenterEsp: 0n, sysenterEip: 0n },
		...(msr as Record<keyof typeof MSRS, bigint>),
	};
}
const sourceAtWork = (o: { vcpus: number; isMapped?: boolean }): Machine => {
	const source = machine(o);
	source.start('demo.kernel');
	for (const vcpu of source.vcpus) vcpu.setMsr(MSRS.star, 0x1230000n + BigInt(vcpu.index));
	source.run(100);
	return source;
};
/** The target up to phase 0: the tables and the GDT are there, the blobs are in their pages. */
function targetOf(source: Machine, edit: (target: Machine) => void = editTask): Machine {
	const target = machine({ vcpus: source.vcpus.length });
	target.start('demo.firmware');
	target.run(3);
	target.bytes.set(source.bytes.subarray(TABLES.kernel, GDT + PAGE), TABLES.kernel);
	for (const [i, vcpu] of source.vcpus.entries()) target.bytes.set(cpuStatePage(stateOf(vcpu)), PLACES.data + PAGE * i);
	edit(target);
	target.start('mh.demo.setup');
	return target;
}
/** What the demonstrator does to the dump: the task is not busy. */
const editTask = ({ bytes }: Machine): void => {
	bytes[GDT + SELECTOR + 5] = 0x89;
};
const word = (target: Machine, vcpu: number, at: number): number =>
	new DataView(target.bytes.buffer, target.bytes.byteOffset).getUint32(
		PLACES.data + PAGE * vcpu + BLOB_OFFSET + STATE_OFFSET + at,
		true,
	);

describe.each([1, 2])('a guest with %i vCPUs', (count) => {
	it('goes on where it was, once RAM and devices are loaded', () => {
		const still = sourceAtWork({ vcpus: count });
		still.run(STEPS);
		const source = sourceAtWork({ vcpus: count });
		const target = targetOf(source);
		target.run(10);
		expect(target.at()).toEqual(Array(count).fill('mh.demo.wait'));
		for (let i = 0; i < count; i++) expect(word(target, i, 0)).toBe(ResumeState.waitDevices);
		// The host loads RAM, but for the pages of the trampolines.
		target.bytes.set(source.bytes.subarray(WORK), WORK);
		target.run(10);
		for (let i = 0; i < count; i++) {
			const flag = PLACES.data + PAGE * i + BLOB_OFFSET + COMPLETION_OFFSET;
			new DataView(target.bytes.buffer, target.bytes.byteOffset).setBigUint64(flag, COMPLETION, true);
		}
		target.run(STEPS + 50);
		expect(target.at()).toEqual(Array(count).fill('demo.done'));
		expect(Buffer.compare(target.bytes.subarray(WORK), still.bytes.subarray(WORK))).toBe(0);
		for (const [i, vcpu] of target.vcpus.entries()) {
			const other = still.vcpus[i] ?? expect.fail();
			expect(vcpu.getRegs()).toEqual({ ...other.getRegs(), rflags: other.getRegs().rflags | 2n });
			const pick = ({ cr0, cr2, cr3, cr4, efer, gdt, idt, tr, gs, fs }: ReturnType<Vcpu['getSregs']>) => [
				...[cr0, cr2, cr3, cr4, efer, gdt, idt, tr, gs.base, fs.base],
			];
			expect(pick(vcpu.getSregs())).toEqual(pick(other.getSregs()));
			expect(vcpu.getMsr(MSRS.star)).toBe(0x1230000n + BigInt(i));
			expect(word(target, i, 0)).toBe(ResumeState.running);
		}
		// LTR made it busy again.
		expect(target.bytes[GDT + SELECTOR + 5]).toBe(0x8b);
	});
});

describe('what cannot be resumed fails before it left the firmware', () => {
	const fails = (target: Machine, problem: keyof typeof ResumeProblem): void => {
		target.run(50);
		expect(target.at()).toEqual(['mh.demo.failed']);
		expect([word(target, 0, 0), word(target, 0, 4)]).toEqual([ResumeState.failed, ResumeProblem[problem]]);
		expect(target.vcpus[0]?.getSregs().cr3).toBe(BigInt(TABLES.firmware));
	};
	it('the TSS is busy, as the source’s CPU has it, and nobody edited the dump', () => {
		fails(
			targetOf(sourceAtWork({ vcpus: 1 }), () => undefined),
			'taskSegment',
		);
	});
	it('the source’s kernel does not map the pages where the trampoline is told', () => {
		fails(targetOf(sourceAtWork({ vcpus: 1, isMapped: false })), 'notMapped');
	});
	it('there is no blob', () => {
		const spoil = (target: Machine): void => {
			target.bytes[PLACES.data + BLOB_OFFSET] = 0;
		};
		fails(targetOf(sourceAtWork({ vcpus: 1 }), spoil), 'state');
	});
	it('the blob is of a CPU outside long mode', () => {
		const spoil = (target: Machine): void => {
			target.bytes.fill(0, PLACES.data + BLOB_OFFSET + 0x100, PLACES.data + BLOB_OFFSET + 0x108);
		};
		fails(targetOf(sourceAtWork({ vcpus: 1 }), spoil), 'mode');
	});
});
