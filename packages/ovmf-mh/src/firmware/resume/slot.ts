import type { GuestCpu, RegName } from '@cvm/kvm/vcpu';
import { layout, u16, u32, u64 } from '@cvm/layout';
import { HelperGeometry, RESUME_SLOT_BYTES } from '../../geometry.js';
import { ResumeProblem, ResumeState, type ResumeStateName } from '../../resume/index.js';
import { SaveAreaOffset as At, viewSaveArea } from '../../resume/save-area.js';

/** General registers in the order of the slot. RSP is in the frame. */
export const GENERAL = [
	...(['rax', 'rcx', 'rdx', 'rbx', 'rbp', 'rsi', 'rdi', 'r8'] as const),
	...(['r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
] as const satisfies readonly RegName[];

/** PROJECT: what a vCPU resumes by, 256 bytes: first {@link GENERAL}, 8 bytes each. */
const resumeSlot = layout('cvm_resume_slot', RESUME_SLOT_BYTES, {
	/** The frame of an IRETQ: its end is 16-byte aligned. */
	rip: u64(0x88),
	cs: u64(0x90),
	rflags: u64(0x98),
	rsp: u64(0xa0),
	ss: u64(0xa8),
	cr0: u64(0xb0),
	cr2: u64(0xb8),
	cr4: u64(0xc0),
	efer: u64(0xc8),
	gdtBase: u64(0xd0),
	idtBase: u64(0xd8),
	taskBase: u64(0xe0),
	gdtLimit: u16(0xe8),
	idtLimit: u16(0xea),
	taskLimit: u32(0xec),
	cr3: u64(0xf0),
	/** `ResumeState`. */
	state: u32(0xf8),
	/** `ResumeProblem`. */
	problem: u32(0xfc),
});

/** Guest-physical address of a vCPU's slot. */
export const slotOf = (vcpu: number): number => HelperGeometry.resume + RESUME_SLOT_BYTES * vcpu;

const STATE = resumeSlot.offsetOf('state');
const PROBLEM = resumeSlot.offsetOf('problem');

/** Says how far a vCPU is. @param slot where its slot is under the tables that are in effect */
export const setState = (cpu: GuestCpu, slot: number, state: ResumeStateName): void =>
	cpu.storeU32(slot + STATE, ResumeState[state]);
export const stateOf = (cpu: GuestCpu, slot: number): number => cpu.loadU32(slot + STATE);
/** Says that a vCPU never runs, and why. The first reason stays. */
export function setFailed(cpu: GuestCpu, slot: number, problem: keyof typeof ResumeProblem): void {
	if (stateOf(cpu, slot) === ResumeState.failed) return;
	cpu.storeU32(slot + PROBLEM, ResumeProblem[problem]);
	setState(cpu, slot, 'failed');
}

/** Fills a slot from a save area; its state stays. */
export function fillSlot(cpu: GuestCpu, slot: number, area: Uint8Array): void {
	const { get, selector, limit, base, efer } = viewSaveArea(area);
	const image = resumeSlot.encode({
		...{ rip: get(At.rip), cs: BigInt(selector(At.cs)), rflags: get(At.rflags) },
		...{ rsp: get(At.rsp), ss: BigInt(selector(At.ss)), efer },
		...{ cr0: get(At.cr0), cr2: get(At.cr2), cr3: get(At.cr3), cr4: get(At.cr4) },
		...{ gdtBase: base(At.gdtr), idtBase: base(At.idtr), taskBase: base(At.tr) },
		...{ gdtLimit: limit(At.gdtr) & 0xffff, idtLimit: limit(At.idtr) & 0xffff, taskLimit: limit(At.tr) },
	});
	const view = new DataView(image.buffer);
	for (const [i, name] of GENERAL.entries()) view.setBigUint64(8 * i, get(At[name]), true);
	cpu.store(slot, image.subarray(0, STATE));
}

const field = (slot: number, name: keyof typeof resumeSlot.fields): number => slot + resumeSlot.offsetOf(name);

/** Phase 3a: the mode and the tables of the guest that arrived, with CR0.WP clear. `slot` is where the tables before have it. */
export function enterMode(cpu: GuestCpu, slot: number): void {
	const PGE = 1n << 7n;
	const WP = 1n << 16n;
	const cr3 = cpu.loadU64(field(slot, 'cr3'));
	const cr4 = cpu.loadU64(field(slot, 'cr4'));
	const efer = cpu.loadU64(field(slot, 'efer'));
	const cr0 = cpu.loadU64(field(slot, 'cr0'));
	const cr2 = Number(BigInt.asIntN(64, cpu.loadU64(field(slot, 'cr2'))));
	cpu.cr3 = cr3;
	// Without PGE and then with it: what was global goes too.
	cpu.cr4 = cr4 & ~PGE;
	cpu.cr3 = cr3;
	cpu.cr4 = cr4;
	cpu.efer = efer;
	cpu.cr0 = cr0 & ~WP;
	cpu.cr2 = cr2;
}

/** Phase 3c: tables of descriptors and the task; CR0 as it was. */
export function loadTables(cpu: GuestCpu, slot: number): void {
	cpu.lgdt(cpu.loadNum(field(slot, 'gdtBase')), cpu.loadU16(field(slot, 'gdtLimit')));
	cpu.lidt(cpu.loadNum(field(slot, 'idtBase')), cpu.loadU16(field(slot, 'idtLimit')));
	cpu.ltr(cpu.loadNum(field(slot, 'taskBase')), cpu.loadU32(field(slot, 'taskLimit')));
	cpu.cr0 = cpu.loadU64(field(slot, 'cr0'));
}

/** Phase 3e but for the IRETQ: general registers, and RSP at the frame. */
export function loadGeneral(cpu: GuestCpu, slot: number): void {
	for (const [i, name] of GENERAL.entries()) cpu.setReg(name, cpu.loadU64(slot + 8 * i));
	cpu.setNum('rsp', field(slot, 'rip'));
}
