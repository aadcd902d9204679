import type { Block, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { HelperGeometry, MAX_RAM } from '../../geometry.js';
import {
	ResumeState,
	SAVE_AREA_MSRS,
	SaveAreaOffset,
	saveAreaProblem,
	viewSaveArea,
	walkTables,
	xsaveOfSaveArea,
} from '../../resume/index.js';
import type { ResumeProblem } from '../../resume/states.js';
import { enterHelperTables } from '../helper/paging.js';
import { recordedGuest } from '../helper/record.js';
import { enterMode, fillSlot, loadGeneral, loadTables, setFailed, setState, slotOf, stateOf } from './slot.js';
import { BUSY_BIT, taskDescriptor } from './task-segment.js';

const At = SaveAreaOffset;
type Problem = Exclude<keyof typeof ResumeProblem, 'none'>;

const areaOf = (vcpu: number): number => HelperGeometry.saveAreas + PAGE_SIZE * vcpu;
/** Code, stacks and tables of this model are in the lower half. */
const isLower = (address: bigint): boolean => address < 1n << 47n;

/** An entry of the source's tables; what is not RAM has none. */
const entryReader =
	(cpu: GuestCpu) =>
	(gpa: number): bigint =>
		gpa < MAX_RAM ? cpu.loadU64(gpa) : 0n;

/** Whether the source's tables have what runs and what is used between 3a and 3e. */
function isTrampolineMapped(cpu: GuestCpu, cr3: bigint, cBit: number, slot: number, directMap: number): boolean {
	const read = entryReader(cpu);
	const data = walkTables(read, cr3, BigInt(directMap + slot), cBit);
	if (data === undefined || data.gpa !== slot || !data.isWritable || !data.isPrivate) return false;
	return ['mh.resume.enter', 'mh.resume.registers'].every((label) => {
		const address = cpu.address(label);
		const leaf = walkTables(read, cr3, BigInt(address), cBit);
		return leaf?.gpa === address && leaf.isExecutable;
	});
}

/**
 * LTR wants a descriptor that is there, says what the save area says, and is not busy; the source's is busy, as its CPU has the task.
 * Clears the bit, which LTR sets again. False: LTR would fault.
 */
function prepareTask(cpu: GuestCpu, area: Uint8Array, cBit: number): boolean {
	const { get, selector, base, limit } = viewSaveArea(area);
	const index = selector(At.tr) & ~7;
	// PROJECT: guests of this model need no descriptor for their task.
	if (index === 0) return true;
	if (index + 15 > limit(At.gdtr)) return false;
	const leaf = walkTables(entryReader(cpu), get(At.cr3), base(At.gdtr) + BigInt(index), cBit);
	if (leaf === undefined || !leaf.isPrivate || leaf.gpa + 16 > MAX_RAM) return false;
	const descriptor = taskDescriptor(cpu.loadU64(leaf.gpa), cpu.loadU64(leaf.gpa + 8));
	const isSame = descriptor.base === base(At.tr) && descriptor.limit === limit(At.tr);
	if (!descriptor.isPresent || !descriptor.isTask || !isSame) return false;
	// The model's LTR touches no descriptor: cleared for LTR, then busy, as it is.
	const at = leaf.gpa + BUSY_BIT.byte;
	cpu.storeU8(at, cpu.loadU8(at) & ~BUSY_BIT.mask);
	cpu.storeU8(at, cpu.loadU8(at) | BUSY_BIT.mask);
	return true;
}

/**
 * The way of one vCPU from rest to the guest that arrived, by {@link SAVE_AREA_STEPS}. RBX: number of the vCPU. Up to
 * `mh.resume.enter` it runs under the helper's own page tables, which no guest that arrives overwrites, and uses no stack and no
 * memory but the helper's. From there on no block ends in an instruction that a hypervisor intercepts.
 *
 * The vCPUs wait for each other before that step: none runs unless the checks of all of them held.
 */
export function saveAreaBlocks(directMap: number): Record<string, Block> {
	const fail = (cpu: GuestCpu, vcpu: number, problem: Problem): Next => {
		setFailed(cpu, slotOf(vcpu), problem);
		return cpu.jump('mh.resume.failed');
	};
	/** With the C-bit and how many vCPUs the guest has. */
	const recorded = (cpu: GuestCpu) => {
		const { cBit = 0, saveAreas = [] } = recordedGuest(cpu) ?? {};
		return { cBit, vcpus: saveAreas.length };
	};
	const loadArea = (cpu: GuestCpu, vcpu: number): Uint8Array => {
		const area = new Uint8Array(PAGE_SIZE);
		cpu.load(areaOf(vcpu), area);
		return area;
	};

	const check = (cpu: GuestCpu, vcpu: number): Problem | undefined => {
		const { cBit } = recorded(cpu);
		const area = loadArea(cpu, vcpu);
		const problem = saveAreaProblem(area);
		if (problem !== undefined) return problem === 'mode' || problem === 'address' ? 'mode' : 'state';
		const { get, base } = viewSaveArea(area);
		if (![get(At.rip), get(At.rsp), base(At.gdtr), base(At.idtr), base(At.tr)].every(isLower)) return 'mode';
		if (!isTrampolineMapped(cpu, get(At.cr3), cBit, slotOf(vcpu), directMap)) return 'notMapped';
		if (!prepareTask(cpu, area, cBit)) return 'taskSegment';
		fillSlot(cpu, slotOf(vcpu), area);
		return undefined;
	};

	return {
		'mh.resume.park': (cpu) => {
			const { cBit, vcpus } = recorded(cpu);
			const vcpu = cpu.num('rbx');
			// A slot of its own it does not have either.
			if (vcpu >= vcpus) return cpu.jump('mh.resume.failed');
			enterHelperTables(cpu, cBit);
			setState(cpu, slotOf(vcpu), 'mhReady');
			return cpu.jump('mh.resume.wait');
		},
		'mh.resume.wait': (cpu) =>
			cpu.loadU32(HelperGeometry.gate) === 0 ? cpu.jump('mh.resume.check') : cpu.hlt('mh.resume.wait'),

		'mh.resume.check': (cpu) => {
			const vcpu = cpu.num('rbx');
			setState(cpu, slotOf(vcpu), 'converged');
			const problem = check(cpu, vcpu);
			if (problem !== undefined) return fail(cpu, vcpu, problem);
			setState(cpu, slotOf(vcpu), 'trampoline');
			return cpu.jump('mh.resume.together');
		},
		'mh.resume.together': (cpu) => {
			const { vcpus } = recorded(cpu);
			for (let other = 0; other < vcpus; other++) {
				const state = stateOf(cpu, slotOf(other));
				if (state === ResumeState.failed) return fail(cpu, cpu.num('rbx'), 'vcpu');
				if (state < ResumeState.trampoline) return cpu.hlt('mh.resume.together');
			}
			cpu.setNum('r12', 0);
			return cpu.jump('mh.resume.msr');
		},

		// R12: MSRs that are done.
		'mh.resume.msr': (cpu) => {
			const [index, offset] = SAVE_AREA_MSRS[cpu.num('r12')] ?? [];
			if (index === undefined || offset === undefined) return cpu.jump('mh.resume.extended');
			const value = cpu.loadU64(areaOf(cpu.num('rbx')) + offset);
			cpu.setNum('rcx', index);
			cpu.setReg('rax', value & 0xffffffffn);
			cpu.setReg('rdx', value >> 32n);
			cpu.setNum('r12', cpu.num('r12') + 1);
			return cpu.wrmsr('mh.resume.msr');
		},
		// The image takes the place of the save area, which nobody needs any more; then nothing is left there.
		'mh.resume.extended': (cpu) => {
			const at = areaOf(cpu.num('rbx'));
			cpu.store(at, xsaveOfSaveArea(loadArea(cpu, cpu.num('rbx'))));
			cpu.xrstor(at);
			cpu.fill(at, PAGE_SIZE, 0);
			return cpu.jump('mh.resume.enter');
		},

		// Phase 3a. No exception from here on: there is no stack, and the IDT is neither side's.
		'mh.resume.enter': (cpu) => {
			const slot = slotOf(cpu.num('rbx'));
			enterMode(cpu, slot);
			cpu.setNum('rbx', directMap + slot);
			return cpu.jump('mh.resume.registers');
		},
		// Phases 3c and 3e.
		'mh.resume.registers': (cpu) => {
			const slot = cpu.num('rbx');
			setState(cpu, slot, 'restoreRegisters');
			loadTables(cpu, slot);
			setState(cpu, slot, 'running');
			loadGeneral(cpu, slot);
			return cpu.iret();
		},

		'mh.resume.failed': (cpu) => cpu.hlt('mh.resume.failed'),
	};
}
