import type { CpuidEntry } from '../abi/cpuid.js';
import { KVM_RUN_SIZE } from '../abi/run-page.js';
import { createRingBuffer } from '../memory/dirty-ring.js';
import { type VmHandle, VmWord } from './state.js';
import { loadApicEvents, storeApicEvents } from './words.js';

/** Index of each register in a vCPU's register file of u64s: the order of the x86 encoding, then control state. */
export const Register = {
	rax: 0,
	rcx: 1,
	rdx: 2,
	rbx: 3,
	rsp: 4,
	rbp: 5,
	rsi: 6,
	rdi: 7,
	r8: 8,
	r9: 9,
	r10: 10,
	r11: 11,
	r12: 12,
	r13: 13,
	r14: 14,
	r15: 15,
	rip: 16,
	rflags: 17,
	cr0: 18,
	cr2: 19,
	cr3: 20,
	cr4: 21,
	efer: 22,
	/** Current privilege level: 0 … 3. */
	cpl: 23,
	/** What the next KVM_RUN must finish: a {@link PendingKind}. */
	pendingKind: 24,
	/** RIP after it. */
	pendingRip: 25,
	/** One word for the kind, such as the size of an I/O operand. */
	pendingA: 26,
	pendingB: 27,
	cr8: 28,
	dr0: 29,
	dr1: 30,
	dr2: 31,
	dr3: 32,
	dr6: 33,
	dr7: 34,
	xcr0: 35,
	xss: 36,
	/** Address after the instruction that raised the last exception: {@link GuestCpu} has no instruction lengths. */
	nrip: 37,
	/** Segments: the base, then selector u16 | attributes u16 << 16 | limit u32 << 32, as a save area has them. */
	esBase: 40,
	es: 41,
	csBase: 42,
	cs: 43,
	ssBase: 44,
	ss: 45,
	dsBase: 46,
	ds: 47,
	fsBase: 48,
	fs: 49,
	gsBase: 50,
	gs: 51,
	ldtrBase: 52,
	ldtr: 53,
	trBase: 54,
	tr: 55,
	gdtrBase: 56,
	gdtrLimit: 57,
	idtrBase: 58,
	idtrLimit: 59,
	star: 60,
	lstar: 61,
	cstar: 62,
	sfmask: 63,
	kernelGsBase: 64,
	sysenterCs: 65,
	sysenterEsp: 66,
	sysenterEip: 67,
	pat: 68,
	tscAux: 69,
	/** Access rights of protection keys: 32 bits. */
	pkru: 72,
	/** EXITINFO1 and EXITINFO2 of what raised the last #VC: {@link GuestCpu} cannot decode instructions. */
	exitInfo1: 70,
	exitInfo2: 71,
	/** What the host keeps of a vCPU, also of one whose guest state is protected. */
	apicBase: 96,
	/** MSR 0xC0010130 of a SEV-ES guest: address of its GHCB or a message of the MSR protocol. */
	ghcbMsr: 97,
	/** 0 none, 1 by the GHCB page, 2 by the GHCB MSR: how an AP of a SEV-ES guest waits to be started again. */
	apResetHold: 98,
	/** 1 while an exit of a SEV-ES guest through its GHCB page waits for its answer. */
	ghcbExit: 116,
	/** Where such an exit puts what it reads, and how many bytes are still to come. */
	scratchGpa: 117,
	scratchLength: 118,
	/** 1 = this AP of a SEV-ES guest was started once: later SIPIs only end its reset hold. */
	sipiSeen: 119,
	/** Device address or port and operand size of an exit in several parts. */
	exitPort: 120,
	exitSize: 121,
	/** MSR_KVM_SYSTEM_TIME and the other MSRs of KVM's own that a vCPU has. */
	systemTime: 99,
	asyncPfEnable: 100,
	stealTime: 101,
	pvEoi: 102,
	pollControl: 103,
	asyncPfInt: 104,
	powerControl: 105,
} as const;
/** The name of a register in {@link Register}. */
export type RegisterName = keyof typeof Register;

/** Values of `Register.pendingKind`. The exits that wait for an answer of the VMM. */
export const PendingKind = {
	none: 0,
	hypercall: 1,
	rdmsr: 2,
	wrmsr: 3,
	ioIn: 4,
	ioOut: 5,
	mmioRead: 16,
	mmioWrite: 17,
	stringIn: 18,
	stringOut: 19,
} as const;

/** u64s of the register file, some of them spare. */
export const REGISTER_COUNT = 128;
/** The registers from here on are the host's own. */
export const FIRST_HOST_REGISTER = 96;
/** Bytes of the register file: what a migration carries per vCPU, besides `mpState`. */
const REGISTER_BYTES = REGISTER_COUNT * 8;

/** Int32 control words of a vCPU. Access them with `Atomics`. */
export const VcpuWord = {
	/** Nonzero: KVM_RUN returns −EINTR and clears it. Waited on by a halted vCPU, notified by `kick`. */
	kick: 0,
	/** {@link MpState}. */
	mpState: 1,
	/** SPA >> 12 of the save area of a vCPU of a SEV-ES guest; 0 = none. */
	saveAreaPage: 2,
	/** 1 = the save area is encrypted: registers are the guest's own. */
	guestStateProtected: 3,
	/** 1 = KVM_CAP_ENFORCE_PV_FEATURE_CPUID. */
	pvEnforce: 4,
	/** EAX of KVM's feature leaf as KVM_SET_CPUID2 left it. */
	pvFeatures: 5,
	/** Hypercalls that were answered: the statistic. */
	hypercalls: 6,
	/** What the next KVM_RUN has to write to guest memory: `PvRequest`. */
	requests: 7,
	/** KVM_SET_GUEST_DEBUG: `control`. */
	guestDebug: 10,
} as const;

/** KVM_MP_STATE_* (linux/kvm.h). */
export const MpState = {
	runnable: 0,
	uninitialized: 1,
	initReceived: 2,
	halted: 3,
	sipiReceived: 4,
	apResetHold: 9,
} as const;

const WORDS_AT = REGISTER_BYTES;
const WORD_COUNT = 16;
const RUN_AT = 4096;
const XSAVE_AT = RUN_AT + KVM_RUN_SIZE;
/** Bytes of an XSAVE area as KVM_GET_XSAVE hands it out. */
export const XSAVE_SIZE = 4096;
const LAPIC_AT = XSAVE_AT + XSAVE_SIZE;
/** Bytes of the local APIC's registers as KVM_GET_LAPIC hands them out. */
const LAPIC_SIZE = 1024;
const EVENTS_AT = LAPIC_AT + LAPIC_SIZE;
/** Bytes of struct kvm_vcpu_events. */
const EVENTS_SIZE = 64;
const STATE_BYTES = EVENTS_AT + EVENTS_SIZE;

/** One vCPU for another thread: structured-cloneable. */
export interface VcpuHandle {
	readonly kind: 'cvm-vcpu';
	readonly vm: VmHandle;
	readonly index: number;
	/** As the VMM gave it to KVM_SET_CPUID2; the vCPU puts its APIC id (= `index`) into leaf 1. */
	readonly cpuid: readonly CpuidEntry[];
	readonly state: SharedArrayBuffer;
	/** Its dirty ring, if the VM has them. */
	readonly dirtyRing?: SharedArrayBuffer;
}

/** Views of a vCPU's state. */
export interface VcpuState {
	/** Indexed by {@link Register}. Not for use while another thread runs the vCPU. */
	readonly registers: BigUint64Array;
	/** Indexed by {@link VcpuWord}. */
	readonly words: Int32Array;
	/** struct kvm_run, the page of port I/O data and that of coalesced MMIO. */
	readonly run: Uint8Array;
	/** x87, SSE and AVX state in the standard form of XSAVE. */
	readonly xsave: Uint8Array;
	/** The registers of the local APIC, as KVM_GET_LAPIC has them. */
	readonly lapic: Uint8Array;
	/** struct kvm_vcpu_events. */
	readonly events: Uint8Array;
}

/** New state for a vCPU, as after reset (APM vol. 2 §14.1.3): flat, at 0xFFFFFFF0. All vCPUs are runnable: PROJECT. */
export function createVcpuHandle(vm: VmHandle, index: number, cpuid: readonly CpuidEntry[]): VcpuHandle {
	const ringBytes = Atomics.load(new Int32Array(vm.shared), VmWord.dirtyRingBytes);
	const ring = ringBytes === 0 ? {} : { dirtyRing: createRingBuffer(ringBytes, vm.dirty.byteLength) };
	const handle: VcpuHandle = { kind: 'cvm-vcpu', vm, index, cpuid, state: new SharedArrayBuffer(STATE_BYTES), ...ring };
	const { registers } = openVcpuState(handle);
	registers[Register.rip] = 0xfffffff0n;
	registers[Register.rflags] = 2n;
	registers[Register.cr0] = 0x60000010n;
	registers[Register.xcr0] = 1n;
	return handle;
}

/** Opens a vCPU's state, in any thread. */
export const openVcpuState = ({ state }: VcpuHandle): VcpuState => ({
	registers: new BigUint64Array(state, 0, REGISTER_COUNT),
	words: new Int32Array(state, WORDS_AT, WORD_COUNT),
	run: new Uint8Array(state, RUN_AT, KVM_RUN_SIZE),
	xsave: new Uint8Array(state, XSAVE_AT, XSAVE_SIZE),
	lapic: new Uint8Array(state, LAPIC_AT, LAPIC_SIZE),
	events: new Uint8Array(state, EVENTS_AT, EVENTS_SIZE),
});

/** Bytes of {@link saveVcpuState}. */
export const VCPU_STATE_BYTES = REGISTER_BYTES + 8 + KVM_RUN_SIZE + XSAVE_SIZE + LAPIC_SIZE + EVENTS_SIZE;

/**
 * A stopped vCPU as a flat record, for a migration: the register file (little-endian) with what the next KVM_RUN has to
 * finish, mpState (u32), the INIT and the SIPI that wait for it (u32 as in `VmWord.apicEvents`), the kvm_run pages, where the
 * answer to a pending exit stands, the XSAVE area, the local APIC (1024 bytes) and struct kvm_vcpu_events (64).
 */
export function saveVcpuState(handle: VcpuHandle): Uint8Array {
	const { registers, words, run, xsave, lapic, events } = openVcpuState(handle);
	const out = new Uint8Array(VCPU_STATE_BYTES);
	const view = new DataView(out.buffer);
	for (let i = 0; i < REGISTER_COUNT; i++) view.setBigUint64(8 * i, registers[i] ?? 0n, true);
	view.setUint32(REGISTER_BYTES, Atomics.load(words, VcpuWord.mpState), true);
	view.setUint32(REGISTER_BYTES + 4, loadApicEvents(new Int32Array(handle.vm.shared), handle.index), true);
	out.set(run, REGISTER_BYTES + 8);
	const xsaveAt = REGISTER_BYTES + 8 + KVM_RUN_SIZE;
	out.set(xsave, xsaveAt);
	out.set(lapic, xsaveAt + XSAVE_SIZE);
	out.set(events, xsaveAt + XSAVE_SIZE + LAPIC_SIZE);
	return out;
}

/** Puts a record of {@link saveVcpuState} into a stopped vCPU. @throws RangeError if its length is another */
export function loadVcpuState(handle: VcpuHandle, data: Uint8Array): void {
	if (data.length !== VCPU_STATE_BYTES) {
		throw new RangeError(`vcpu state: expected ${VCPU_STATE_BYTES} bytes, got ${data.length}`);
	}
	const { registers, words, run, xsave, lapic, events } = openVcpuState(handle);
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	for (let i = 0; i < REGISTER_COUNT; i++) registers[i] = view.getBigUint64(8 * i, true);
	Atomics.store(words, VcpuWord.mpState, view.getUint32(REGISTER_BYTES, true));
	storeApicEvents(new Int32Array(handle.vm.shared), handle.index, view.getUint32(REGISTER_BYTES + 4, true));
	const runAt = REGISTER_BYTES + 8;
	run.set(data.subarray(runAt, runAt + KVM_RUN_SIZE));
	const xsaveAt = runAt + KVM_RUN_SIZE;
	const lapicAt = xsaveAt + XSAVE_SIZE;
	xsave.set(data.subarray(xsaveAt, lapicAt));
	lapic.set(data.subarray(lapicAt, lapicAt + LAPIC_SIZE));
	events.set(data.subarray(lapicAt + LAPIC_SIZE));
	// A thread that ran the vCPU before may remember translations.
	Atomics.add(new Int32Array(handle.vm.shared), VmWord.tlbGeneration, 1);
}
