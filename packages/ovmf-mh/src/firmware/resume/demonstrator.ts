import type { Block, CodeFragment, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { MAX_RAM } from '../../geometry.js';
import {
	BLOB_OFFSET,
	COMPLETION,
	COMPLETION_OFFSET,
	type CpuState,
	cpuStateLayout,
	decodeCpuState,
	INTERMEDIATE_PAGES,
	intermediateTables,
	isCanonical,
	ResumeProblem,
	ResumeState,
	type ResumeStateName,
	STATE_OFFSET,
	walkTables,
} from '../../resume/index.js';
import { GENERAL } from './slot.js';
import { taskDescriptor } from './task-segment.js';

/** Where a trampoline has its pages, all of them in one 2 MiB; guest-physical. Pages of vCPU i: + i × their length. */
export interface DemonstratorOptions {
	/** Code of phases 0 to 2. */
	readonly phase2: number;
	/** Code of phase 3. */
	readonly phase3: number;
	/** One page for each vCPU: `cpuStatePage`. */
	readonly data: number;
	/** {@link INTERMEDIATE_PAGES} pages for each vCPU. */
	readonly tables: number;
	/**
	 * What the source's kernel adds to a guest-physical address: an input, since KASLR moves it. DEVIATION(resume-from-efi-edk2): below 2^46, and
	 * not 0xFFFF888000000000, as code of this model is in the lower half.
	 */
	readonly directMap: number;
}

type Problem = Exclude<keyof typeof ResumeProblem, 'none'>;
const Bits = { pge: 1n << 7n, wp: 1n << 16n, nx: 1n << 63n, lma: 1n << 10n, pg: 1n << 31n, pae: 1n << 5n } as const;
const FRAME = BLOB_OFFSET + cpuStateLayout.offsetOf('rip');

/** MSRs of phase 3c and where the blob has them. */
const MSRS: readonly (readonly [index: number, field: keyof CpuState])[] = [
	[0xc0000081, 'star'],
	[0xc0000082, 'lstar'],
	[0xc0000083, 'cstar'],
	[0xc0000084, 'fmask'],
	[0xc0000100, 'fsBase'],
	[0xc0000101, 'gsBase'],
	[0xc0000102, 'kernelGsBase'],
	[0xc0000103, 'tscAux'],
];

/** A field of the blob in a data page. */
const fieldOf = (page: number, field: keyof typeof cpuStateLayout.fields): number =>
	page + BLOB_OFFSET + cpuStateLayout.offsetOf(field);

/**
 * The trampoline of the demonstrator (secure-migration/resume-from-efi-edk2, branch mh-state-dev), for a guest whose registers
 * its host may see: one for each vCPU. It begins at `mh.demo.setup` under the firmware's tables with the number of the vCPU in
 * RBX, the source's page tables in memory and the blob in the data page, and rests in phase 3b until the host has loaded the rest
 * and wrote the flag.
 *
 * DEVIATION(resume-from-efi-edk2): phase 3d is left out (`APIC_CONSTANTS`); DS, ES, FS, GS and LDT are not loaded, CLI does nothing,
 * as this model has no such instructions and no interrupts. What is checked before phase 1 faults there instead.
 */
export function demonstratorFragments(o: DemonstratorOptions): readonly CodeFragment[] {
	const dataOf = (vcpu: number): number => o.data + PAGE_SIZE * vcpu;
	const tablesOf = (vcpu: number): number => o.tables + INTERMEDIATE_PAGES * PAGE_SIZE * vcpu;
	const setState = (cpu: GuestCpu, page: number, state: ResumeStateName): void =>
		cpu.storeU32(page + BLOB_OFFSET + STATE_OFFSET, ResumeState[state]);
	const fail = (cpu: GuestCpu, page: number, problem: Problem): Next => {
		cpu.storeU32(page + BLOB_OFFSET + STATE_OFFSET + 4, ResumeProblem[problem]);
		setState(cpu, page, 'failed');
		return cpu.jump('mh.demo.failed');
	};
	const read = (cpu: GuestCpu) => (gpa: number) => (gpa < MAX_RAM ? cpu.loadU64(gpa) : 0n);

	/** The descriptor that LTR is about to load; 'none' for a null selector. */
	const taskOf = (cpu: GuestCpu, { gdtBase, gdtLimit, cr3, tr }: CpuState) => {
		if ((tr & ~7) === 0) return 'none';
		const leaf = walkTables(read(cpu), cr3, gdtBase + BigInt(tr & ~7), 0);
		if (leaf === undefined || leaf.gpa + 16 > MAX_RAM || (tr | 7) + 8 > gdtLimit) return undefined;
		return taskDescriptor(cpu.loadU64(leaf.gpa), cpu.loadU64(leaf.gpa + 8));
	};
	const check = (cpu: GuestCpu, state: CpuState, page: number): Problem | undefined => {
		const { cr0, cr3, cr4, efer, rip, rsp, gdtBase, idtBase } = state;
		const is64 = (cr0 & Bits.pg) !== 0n && (efer & Bits.lma) !== 0n && (cr4 & Bits.pae) !== 0n;
		const isReachable = [rip, rsp, gdtBase, idtBase].every((at) => isCanonical(at) && at < 1n << 47n);
		if (!is64 || !isReachable) return 'mode';
		for (const gpa of [o.phase3, page]) {
			const leaf = walkTables(read(cpu), cr3, BigInt(o.directMap + gpa), 0);
			if (leaf?.gpa !== gpa || !leaf.isWritable) return 'notMapped';
			// No code runs from a page of the direct map, unless someone says so.
			if (gpa === o.phase3) cpu.storeU64(leaf.entry, cpu.loadU64(leaf.entry) & ~Bits.nx);
		}
		const task = taskOf(cpu, state);
		// The source's CPU has its task, so the descriptor is busy: LTR would be #GP, unless the host has edited the memory.
		if (task === 'none') return undefined;
		return task === undefined || !task.isTask || task.isBusy || !task.isPresent ? 'taskSegment' : undefined;
	};

	const low: Record<string, Block> = {
		'mh.demo.setup': (cpu) => {
			const vcpu = cpu.num('rbx');
			const page = dataOf(vcpu);
			const blob = new Uint8Array(cpuStateLayout.size);
			cpu.load(page + BLOB_OFFSET, blob);
			const state = decodeCpuState(blob);
			if (typeof state === 'string') return fail(cpu, page, 'state');
			const problem = check(cpu, state, page);
			if (problem !== undefined) return fail(cpu, page, problem);
			const root = tablesOf(vcpu);
			cpu.store(root, intermediateTables({ root, gpa: o.phase3, va: BigInt(o.directMap + o.phase3), cBit: 0 }));
			setState(cpu, page, 'trampoline');
			// Phase 1: all that phase 2 needs is in registers.
			cpu.setNum('rax', cpu.address('mh.demo.phase3'));
			cpu.setNum('rcx', root);
			cpu.setReg('rdx', state.cr4);
			cpu.setNum('rsi', cpu.address('mh.demo.phase2'));
			return cpu.jump(cpu.num('rsi'));
		},
		'mh.demo.phase2': (cpu) => {
			cpu.cr3 = cpu.reg('rcx');
			cpu.cr4 = cpu.reg('rdx') & ~Bits.pge;
			cpu.cr3 = cpu.reg('rcx');
			cpu.cr4 = cpu.reg('rdx') | Bits.pge;
			return cpu.jump(cpu.num('rax'));
		},
		'mh.demo.failed': (cpu) => cpu.jump('mh.demo.failed'),
	};
	const high: Record<string, Block> = {
		// 3a. The blob is where the source's kernel has it, under both tables.
		'mh.demo.phase3': (cpu) => {
			const page = o.directMap + dataOf(cpu.num('rbx'));
			cpu.setNum('rbx', page);
			const cr3 = cpu.loadU64(fieldOf(page, 'cr3'));
			const cr4 = cpu.loadU64(fieldOf(page, 'cr4'));
			cpu.cr3 = cr3;
			cpu.cr4 = cr4 & ~Bits.pge;
			cpu.cr3 = cr3;
			cpu.cr4 = cr4;
			cpu.cr0 = cpu.loadU64(fieldOf(page, 'cr0')) & ~Bits.wp;
			cpu.cr2 = Number(BigInt.asIntN(48, cpu.loadU64(fieldOf(page, 'cr2'))));
			cpu.efer = cpu.loadU64(fieldOf(page, 'efer'));
			setState(cpu, page, 'waitDevices');
			return cpu.jump('mh.demo.wait');
		},
		// 3b.
		'mh.demo.wait': (cpu) =>
			cpu.jump(
				cpu.loadU64(cpu.num('rbx') + BLOB_OFFSET + COMPLETION_OFFSET) === COMPLETION
					? 'mh.demo.restore'
					: 'mh.demo.wait',
			),
		// 3c.
		'mh.demo.restore': (cpu) => {
			const page = cpu.num('rbx');
			setState(cpu, page, 'restoreRegisters');
			cpu.cr3 = cpu.loadU64(fieldOf(page, 'cr3'));
			const gdt = cpu.loadNum(fieldOf(page, 'gdtBase'));
			cpu.lgdt(gdt, cpu.loadU16(fieldOf(page, 'gdtLimit')));
			cpu.lidt(cpu.loadNum(fieldOf(page, 'idtBase')), cpu.loadU16(fieldOf(page, 'idtLimit')));
			const selector = cpu.loadU16(fieldOf(page, 'tr')) & ~7;
			if (selector !== 0) {
				const { base, limit } = taskDescriptor(cpu.loadU64(gdt + selector), cpu.loadU64(gdt + selector + 8));
				cpu.ltr(Number(base), limit);
				// LTR makes it busy, in a GDT that the kernel may have mapped read-only: WP is clear for that.
				cpu.storeU8(gdt + selector + 5, cpu.loadU8(gdt + selector + 5) | 2);
			}
			cpu.setNum('r12', 0);
			return cpu.jump('mh.demo.msr');
		},
		'mh.demo.msr': (cpu) => {
			const [index, field] = MSRS[cpu.num('r12')] ?? [];
			if (index === undefined || field === undefined) return cpu.jump('mh.demo.leave');
			const value = cpu.loadU64(fieldOf(cpu.num('rbx'), field));
			cpu.setNum('rcx', index);
			cpu.setReg('rax', value & 0xffffffffn);
			cpu.setReg('rdx', value >> 32n);
			cpu.setNum('r12', cpu.num('r12') + 1);
			return cpu.wrmsr('mh.demo.msr');
		},
		// 3e.
		'mh.demo.leave': (cpu) => {
			const page = cpu.num('rbx');
			cpu.cr0 = cpu.loadU64(fieldOf(page, 'cr0'));
			setState(cpu, page, 'running');
			for (const name of GENERAL) cpu.setReg(name, cpu.loadU64(fieldOf(page, name)));
			cpu.setNum('rsp', page + FRAME);
			return cpu.iret();
		},
	};
	return [
		{ name: 'mh-demo-low', base: o.phase2, blocks: low },
		{ name: 'mh-demo-high', base: o.directMap + o.phase3, blocks: high },
	];
}
