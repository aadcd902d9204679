import type { CpuidEntry } from '../abi/cpuid.js';
import { Errno } from '../abi/errno.js';
import { enableVcpuCap } from '../capabilities.js';
import { adjustCpuid, storePvFeatures } from '../cpuid/runtime.js';
import { ringEntries } from '../memory/dirty-ring.js';
import { createAccess } from '../registers/access.js';
import { hiddenDebugRegs, type KvmDebugRegs, readDebugRegs, writeDebugRegs } from '../registers/debug.js';
import {
	hiddenFpu,
	type KvmFpu,
	type KvmXcr,
	readFpu,
	readXcrs,
	resetFpu,
	writeFpu,
	writeXcrs,
	writeXsave,
} from '../registers/fpu.js';
import { createLapicState } from '../registers/lapic.js';
import { createMpStateIoctls } from '../registers/mp-state.js';
import { createMsrIoctls } from '../registers/msrs.js';
import {
	type KvmRegs,
	type KvmSregs,
	readHiddenSregs,
	readRegs,
	readSregs,
	writeHiddenSregs,
	writeRegs,
	writeSregs,
} from '../registers/sregs.js';
import { ghcbMsrReset } from '../sev/es/ghcb-msr.js';
import { loadKvmResetState } from '../sev/es/reset-state.js';
import { bindSaveArea, createSaveArea } from '../sev/es/save-area.js';
import type { VcpuContext, VmContext } from './context.js';
import { VmWord } from './state.js';
import {
	createVcpuHandle,
	MpState,
	openVcpuState,
	Register,
	type VcpuHandle,
	VcpuWord,
	XSAVE_SIZE,
} from './vcpu-state.js';

/**
 * A vCPU as its VMM's main thread holds it. Registers only while no thread runs it. Writing ioctls return 0 or −errno; fields
 * that are left out stay. Once a SEV-ES guest's state is encrypted, reading finds zeros (or what the guest last put into its
 * GHCB) and writing has no effect; in a VM of type SEV_ES reading throws KvmError `protected`, which stands for −EINVAL, and
 * writing is −EINVAL. On a VM whose context was moved away it throws `vm-gone` and is −EIO.
 */
export interface Vcpu {
	readonly index: number;
	/** struct kvm_run: offsets are `RunOffset` of `@cvm/kvm/abi`. */
	readonly run: Uint8Array;
	/** KVM_MP_STATE_*, as it is: no check. */
	mpState: number;
	/** KVM_GET_MP_STATE: the INIT and the SIPI that wait for the vCPU take effect first. */
	getMpState(): number;
	/** KVM_SET_MP_STATE. −EINVAL: an unknown state, or without an in-kernel APIC any but RUNNABLE. */
	setMpState(state: number): number;
	getRegs(): KvmRegs;
	setRegs(regs: Partial<KvmRegs>): number;
	getSregs(): KvmSregs;
	/** Starts a new TLB generation. −EINVAL: a mode that no processor can be in. */
	setSregs(sregs: Partial<KvmSregs>): number;
	getFpu(): KvmFpu;
	setFpu(fpu: Partial<KvmFpu>): number;
	/** 4096 bytes: x87, SSE and AVX in the standard form of XSAVE. */
	getXsave(): Uint8Array;
	/** −EINVAL: a component that is not there. */
	setXsave(data: Uint8Array): number;
	getXcrs(): readonly KvmXcr[];
	setXcrs(xcrs: readonly KvmXcr[]): number;
	getDebugRegs(): KvmDebugRegs;
	setDebugRegs(regs: Partial<KvmDebugRegs>): number;
	/** KVM_SET_GUEST_DEBUG with a `control` word; nothing is debugged. −EINVAL once the state is encrypted. */
	setGuestDebug(control: number): number;
	/** KVM_GET_LAPIC, 1024 bytes; `undefined` stands for −EINVAL: no in-kernel APIC. */
	getLapic(): Uint8Array | undefined;
	setLapic(data: Uint8Array): number;
	/** struct kvm_vcpu_events, 64 bytes. */
	getVcpuEvents(): Uint8Array;
	setVcpuEvents(data: Uint8Array): number;
	/** KVM_GET_MSRS of one MSR; `undefined`: KVM does not have it. The migration MSR is the VMM's own: KVM never has it. */
	getMsr(index: number): bigint | undefined;
	/** KVM_SET_MSRS of one MSR: 0, or −EINVAL for one that KVM does not have, or a value that it refuses. */
	setMsr(index: number, value: bigint): number;
	/** KVM_SET_CPUID2: for threads that open the vCPU from now on. −E2BIG: more than 256 entries. */
	setCpuid(cpuid: readonly CpuidEntry[]): number;
	/** KVM_GET_CPUID2: the entries as KVM changed them. */
	getCpuid(): readonly CpuidEntry[];
	/** KVM_ENABLE_CAP on the vCPU: −EINVAL for any flag and for a capability that is not one of a vCPU. */
	enableCap(cap: number, args: readonly bigint[], flags?: number): number;
	/** For the thread that runs the vCPU: `openVcpu` of `@cvm/kvm/vcpu`. */
	share(): VcpuHandle;
	/** The entries of its dirty ring as the VMM maps them, for `createRingReader`; `undefined` without rings. */
	readonly dirtyRing: Uint8Array | undefined;
	/** Makes KVM_RUN return −EINTR, the present call or the next one. */
	kick(): void;
}

const MAX_CPUID_ENTRIES = 256;
/** Where local APICs answer, and that they do. */
const APIC_BASE_ENABLED = 0xfee00800n;
const APIC_BASE_BSP = 0x100n;

/**
 * KVM_CREATE_VCPU and KVM_SET_CPUID2. A vCPU of a SEV-ES guest gets its save area here and stands in the reset state.
 *
 * @throws KvmError `out-of-memory` if there is no page for the save area; the VM is as before then
 */
export function createVcpu(vm: VmContext, index: number, cpuid: readonly CpuidEntry[]): Vcpu {
	const { sev, host } = vm;
	const saveArea = sev.active && sev.es ? createSaveArea(host.memory) : undefined;
	const vcpu = openVcpuIoctls(vm, createVcpuHandle(vm.handle, index, adjustCpuid(vm.kernel, vm.words, cpuid)));
	const { registers, xsave, words } = openVcpuState(vcpu.share());
	registers[Register.apicBase] = APIC_BASE_ENABLED | (index === 0 ? APIC_BASE_BSP : 0n);
	resetFpu(xsave);
	const context: VcpuContext = { vcpu, saveArea: undefined, guestStateProtected: false };
	if (saveArea !== undefined) {
		loadKvmResetState(registers, cpuid);
		registers[Register.ghcbMsr] = ghcbMsrReset(vm);
		bindSaveArea(context, saveArea, false);
	}
	if (vm.hasIrqchip && index !== 0) Atomics.store(words, VcpuWord.mpState, MpState.uninitialized);
	vm.vcpus.set(index, context);
	return vcpu;
}

/** The ioctls of a vCPU's descriptor. */
function openVcpuIoctls(vm: VmContext, created: VcpuHandle): Vcpu {
	let handle = created;
	const { registers, words, run, xsave, lapic, events } = openVcpuState(handle);
	const access = createAccess(vm, words);
	const apic = createLapicState(vm, handle.index, lapic);
	/** Cached translations may be wrong. */
	const onSystemChange = (ret: number): number => {
		if (ret === 0) Atomics.add(vm.words, VmWord.tlbGeneration, 1);
		return ret;
	};
	storePvFeatures(words, handle.cpuid);
	const msrs = createMsrIoctls(vm, handle, access, onSystemChange);
	return {
		index: handle.index,
		run,
		get mpState() {
			return Atomics.load(words, VcpuWord.mpState);
		},
		set mpState(value) {
			Atomics.store(words, VcpuWord.mpState, value);
		},
		...createMpStateIoctls(vm, handle, access),
		getRegs: () => access.get('KVM_GET_REGS', () => readRegs(registers)),
		setRegs: (regs) => access.set(() => writeRegs(registers, regs)),
		getSregs: () =>
			access.get(
				'KVM_GET_SREGS',
				() => readSregs(registers),
				() => readHiddenSregs(registers),
			),
		setSregs: (sregs) =>
			onSystemChange(
				access.set(
					() => writeSregs(registers, sregs),
					() => writeHiddenSregs(registers, sregs),
				),
			),
		getFpu: () => access.get('KVM_GET_FPU', () => readFpu(xsave), hiddenFpu),
		setFpu: (fpu) => access.set(() => writeFpu(xsave, fpu)),
		getXsave: () =>
			access.get(
				'KVM_GET_XSAVE',
				() => new Uint8Array(xsave.slice()),
				() => new Uint8Array(XSAVE_SIZE),
			),
		setXsave: (data) => access.set(() => writeXsave(xsave, data)),
		getXcrs: () => access.get('KVM_GET_XCRS', () => readXcrs(registers)),
		setXcrs: (xcrs) => access.set(() => writeXcrs(registers, xcrs)),
		getDebugRegs: () => access.get('KVM_GET_DEBUGREGS', () => readDebugRegs(registers), hiddenDebugRegs),
		setDebugRegs: (regs) => access.set(() => writeDebugRegs(registers, regs)),
		setGuestDebug: (control) =>
			access.set(
				() => {
					Atomics.store(words, VcpuWord.guestDebug, control);
					return 0;
				},
				() => -Errno.EINVAL,
			),
		...apic,
		getVcpuEvents: () => {
			access.requireAlive('KVM_GET_VCPU_EVENTS');
			return new Uint8Array(events.slice());
		},
		setVcpuEvents: (data) => {
			if (vm.sev.dead) return -Errno.EIO;
			if (data.length !== events.length) return -Errno.EINVAL;
			events.set(data);
			return 0;
		},
		...msrs,
		setCpuid: (cpuid) => {
			if (vm.sev.dead) return -Errno.EIO;
			if (cpuid.length > MAX_CPUID_ENTRIES) return -Errno.E2BIG;
			handle = { ...handle, cpuid: adjustCpuid(vm.kernel, vm.words, cpuid) };
			storePvFeatures(words, handle.cpuid);
			return 0;
		},
		getCpuid: () => handle.cpuid,
		enableCap: (cap, args, flags) => (vm.sev.dead ? -Errno.EIO : enableVcpuCap(words, cap, args, flags)),
		share: () => handle,
		dirtyRing: handle.dirtyRing && ringEntries(handle.dirtyRing),
		kick: () => {
			Atomics.store(words, VcpuWord.kick, 1);
			Atomics.notify(words, VcpuWord.kick);
		},
	};
}
