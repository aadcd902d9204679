import type { CpuidEntry } from './abi/cpuid.js';
import { Errno } from './abi/errno.js';
import { createVcpuHandle, openVcpuState, Register, type VcpuHandle, VcpuWord } from './vcpu-state.js';
import type { VmHandle } from './vm-state.js';

const GENERAL = [
	'rax',
	'rcx',
	'rdx',
	'rbx',
	'rsp',
	'rbp',
	'rsi',
	'rdi',
	'r8',
	'r9',
	'r10',
	'r11',
	'r12',
	'r13',
	'r14',
	'r15',
	'rip',
	'rflags',
] as const;
const SYSTEM = ['cr0', 'cr2', 'cr3', 'cr4', 'efer', 'cpl'] as const;

/** struct kvm_regs. */
export type KvmRegs = Readonly<Record<(typeof GENERAL)[number], bigint>>;
/** What is modelled of struct kvm_sregs. `cpl` stands for the segments. */
export type KvmSregs = Readonly<Record<(typeof SYSTEM)[number], bigint>>;

const MSR_EFER = 0xc0000080;

/** A vCPU as its VMM's main thread holds it. Registers only while no thread runs it. */
export interface Vcpu {
	readonly index: number;
	/** struct kvm_run: offsets are `RunOffset` of `@cvm/kvm/abi`. */
	readonly run: Uint8Array;
	/** KVM_MP_STATE_*. */
	mpState: number;
	getRegs(): KvmRegs;
	/** Registers that are left out stay. */
	setRegs(regs: Partial<KvmRegs>): void;
	getSregs(): KvmSregs;
	/** Starts a new TLB generation. */
	setSregs(sregs: Partial<KvmSregs>): void;
	/** KVM_GET_MSRS of one MSR; `undefined`: KVM does not have it. The migration MSR is the VMM's own: KVM never has it. */
	getMsr(index: number): bigint | undefined;
	/** KVM_SET_MSRS of one MSR: 0, or −EINVAL for one that KVM does not have. */
	setMsr(index: number, value: bigint): number;
	/** For the thread that runs the vCPU: `openVcpu` of `@cvm/kvm/vcpu`. */
	share(): VcpuHandle;
	/** Makes KVM_RUN return −EINTR, the present call or the next one. */
	kick(): void;
}

/** KVM_CREATE_VCPU and KVM_SET_CPUID2. `onSystemChange`: cached translations may be wrong. */
export function createVcpu(o: {
	vm: VmHandle;
	index: number;
	cpuid: readonly CpuidEntry[];
	onSystemChange: () => void;
}): Vcpu {
	const handle = createVcpuHandle(o.vm, o.index, o.cpuid);
	const { registers, words, run } = openVcpuState(handle);
	const read = <N extends keyof typeof Register>(names: readonly N[]) =>
		Object.fromEntries(names.map((name) => [name, registers[Register[name]] ?? 0n])) as Readonly<Record<N, bigint>>;
	const write = <N extends keyof typeof Register>(names: readonly N[], values: Partial<Record<N, bigint>>): void => {
		for (const name of names) {
			const value = values[name];
			if (value !== undefined) registers[Register[name]] = value;
		}
	};
	return {
		index: o.index,
		run,
		get mpState() {
			return Atomics.load(words, VcpuWord.mpState);
		},
		set mpState(value) {
			Atomics.store(words, VcpuWord.mpState, value);
		},
		getRegs: () => read(GENERAL),
		setRegs: (regs) => write(GENERAL, regs),
		getSregs: () => read(SYSTEM),
		setSregs: (sregs) => {
			write(SYSTEM, sregs);
			o.onSystemChange();
		},
		getMsr: (index) => (index === MSR_EFER ? registers[Register.efer] : undefined),
		setMsr: (index, value) => {
			if (index !== MSR_EFER) return -Errno.EINVAL;
			registers[Register.efer] = value;
			o.onSystemChange();
			return 0;
		},
		share: () => handle,
		kick: () => {
			Atomics.store(words, VcpuWord.kick, 1);
			Atomics.notify(words, VcpuWord.kick);
		},
	};
}
