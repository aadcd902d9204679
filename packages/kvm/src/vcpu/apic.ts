import { MAX_VCPUS, type VmState, VmWord } from '../vm/state.js';
import { MpState, Register, VcpuWord } from '../vm/vcpu-state.js';
import { ApicEvent } from '../vm/words.js';

/** Registers of a local APIC in x2APIC mode as MSRs. */
const X2apicMsr = { ID: 0x802, ICR: 0x830 } as const;
const DeliveryMode = { init: 5, startup: 6 } as const;
const Shorthand = { none: 0, self: 1, all: 2, others: 3 } as const;
const LEVEL_ASSERT = 1 << 14;
const TRIGGER_LEVEL = 1 << 15;
const BROADCAST = 0xffffffff;

/**
 * What is modelled of a vCPU's local APIC: INIT and SIPI, by which one vCPU starts another (Linux arch/x86/kvm/lapic.c).
 * No interrupts are delivered.
 *
 * PROJECT: with KVM_CREATE_IRQCHIP the APIC answers as in x2APIC mode, whatever MSR APIC_BASE says.
 */
export interface Apic {
	/** RDMSR of an APIC register; `undefined` if it is not one of these, or there is no APIC. */
	read(msr: number): bigint | undefined;
	/** WRMSR of an APIC register; false as for `read`. */
	write(msr: number, value: bigint): boolean;
	/** Whether an INIT or a SIPI waits. */
	hasEvents(): boolean;
	/** kvm_apic_accept_events: takes INIT and SIPI, and changes `mpState`. */
	acceptEvents(): void;
}

export function createApic(o: {
	readonly vm: VmState;
	readonly index: number;
	/** Words of the vCPU: `VcpuWord`. */
	readonly words: Int32Array;
	/** INIT: the registers as after a reset. */
	onInit(): void;
	/** A SIPI that starts the vCPU. */
	onSipi(vector: number): void;
}): Apic {
	const { vm, index, words } = o;
	const events = VmWord.apicEvents;

	const sendInit = (target: number): void => {
		Atomics.store(vm.words, events + target, ApicEvent.init);
	};
	const sendSipi = (target: number, vector: number): void => {
		for (;;) {
			const old = Atomics.load(vm.words, events + target);
			const next = (old & 0xff) | ApicEvent.sipi | (vector << 8);
			if (Atomics.compareExchange(vm.words, events + target, old, next) === old) return;
		}
	};
	const targetsOf = (low: number, destination: number): number[] => {
		const all = Array.from({ length: MAX_VCPUS }, (_, i) => i);
		switch ((low >>> 18) & 3) {
			case Shorthand.self:
				return [index];
			case Shorthand.all:
				return all;
			case Shorthand.others:
				return all.filter((i) => i !== index);
			default:
				return destination === BROADCAST ? all : all.filter((i) => i === destination);
		}
	};
	const writeIcr = (value: bigint): void => {
		const low = Number(value & 0xffffffffn);
		const mode = (low >>> 8) & 7;
		const isDeassert = (low & TRIGGER_LEVEL) !== 0 && (low & LEVEL_ASSERT) === 0;
		for (const target of targetsOf(low, Number(value >> 32n))) {
			if (mode === DeliveryMode.init && !isDeassert) sendInit(target);
			if (mode === DeliveryMode.startup) sendSipi(target, low & 0xff);
		}
	};

	return {
		read: (msr) => (vm.hasIrqchip && msr === X2apicMsr.ID ? BigInt(index) : undefined),
		write: (msr, value) => {
			if (!vm.hasIrqchip || msr !== X2apicMsr.ICR) return false;
			writeIcr(value);
			return true;
		},
		hasEvents: () => Atomics.load(vm.words, events + index) !== 0,
		acceptEvents: () => {
			if (Atomics.load(words, VcpuWord.mpState) === MpState.sipiReceived) {
				// KVM_SET_MP_STATE: what is between an INIT and its SIPI's effect.
				Atomics.store(words, VcpuWord.mpState, MpState.initReceived);
				Atomics.or(vm.words, events + index, ApicEvent.sipi);
			}
			const pending = Atomics.exchange(vm.words, events + index, 0);
			if ((pending & ApicEvent.init) !== 0) {
				o.onInit();
				Atomics.store(words, VcpuWord.mpState, index === 0 ? MpState.runnable : MpState.initReceived);
			}
			if ((pending & ApicEvent.sipi) === 0) return;
			// A SIPI that no INIT preceded is lost.
			if (Atomics.load(words, VcpuWord.mpState) !== MpState.initReceived) return;
			o.onSipi((pending >>> 8) & 0xff);
			Atomics.store(words, VcpuWord.mpState, MpState.runnable);
		},
	};
}

/** Registers after an INIT, as far as this model has them (APM vol. 2 §14.1.3). */
export function resetByInit(registers: BigUint64Array): void {
	registers.fill(0n, Register.rax, Register.rip);
	registers[Register.rip] = 0xfffffff0n;
	registers[Register.rflags] = 2n;
	registers[Register.cr0] = 0x60000010n;
	for (const at of [Register.cr2, Register.cr3, Register.cr4, Register.efer, Register.cpl, Register.pendingKind]) {
		registers[at] = 0n;
	}
	registers.fill(0n, Register.esBase, Register.idtrLimit + 1);
}

/** Registers at the first instruction after a SIPI: CS at the page that it names. */
export function startAtPage(registers: BigUint64Array, vector: number): void {
	registers[Register.csBase] = BigInt(vector << 12);
	registers[Register.cs] = (0xffffn << 32n) | (0x9bn << 16n) | BigInt(vector << 8);
	registers[Register.rip] = 0n;
}
