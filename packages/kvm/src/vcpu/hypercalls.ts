import { HypercallErrno, Hypercall as Nr } from '../abi/hypercall.js';
import { PvFeature } from '../abi/msr.js';
import { isPosting, isSince } from '../kernel.js';
import type { PageStatusInKvm } from '../page-status/in-kvm.js';
import { type VmState, VmWord } from '../vm/state.js';
import { Register, VcpuWord } from '../vm/vcpu-state.js';
import { pvHas } from './pv-features.js';
import type { RunPage } from './run-page.js';

/** Errors as RAX has them. */
const KVM_EPERM = BigInt(-HypercallErrno.EPERM);
const KVM_EINVAL = BigInt(-HypercallErrno.EINVAL);
const KVM_EOPNOTSUPP = BigInt(-HypercallErrno.EOPNOTSUPP);
const KVM_ENOSYS = BigInt(-HypercallErrno.ENOSYS);

/** Bits of SEND_IPI's last argument that must be 0: physical or logical destination, shorthand. */
const ICR_REFUSED = 0xc0800n;

const EFER_LMA = 1n << 10n;
const CR0_PG = 1n << 31n;
/** L of a code segment, as a save area packs attributes. */
const CS_LONG = 0x200n;

/** A hypercall as its instruction, or a GHCB, states it. */
export interface HypercallRequest {
	readonly nr: bigint;
	readonly a0: bigint;
	readonly a1: bigint;
	readonly a2: bigint;
	readonly a3: bigint;
	/** Of the code that made it; in a SEV-ES guest what the guest says it is. */
	readonly cpl: number;
	/** 64-bit code; always for a guest with protected registers. */
	readonly isLong: boolean;
}

/**
 * What became of a hypercall: the value for RAX; `exit`: kvm_run is filled, and {@link Hypercalls.complete} has the value at
 * the next KVM_RUN; `leave`: KVM_RUN returns 0 and nothing was written, neither to kvm_run nor to a register (v11 only).
 */
type HypercallOutcome = bigint | 'exit' | 'leave';

/** The hypercalls of one vCPU. */
export interface Hypercalls {
	dispatch(request: HypercallRequest): HypercallOutcome;
	/** RAX after the VMM answered an exit. */
	complete(isLong: boolean): bigint;
}

/**
 * Whether a vCPU runs 64-bit code: in long mode, and not in a segment of compatibility mode. PROJECT: a CS that nobody has
 * loaded, as after reset, is 64-bit in long mode.
 */
export const is64Bit = (registers: BigUint64Array): boolean => {
	if (((registers[Register.efer] ?? 0n) & EFER_LMA) === 0n || ((registers[Register.cr0] ?? 0n) & CR0_PG) === 0n)
		return false;
	const attributes = ((registers[Register.cs] ?? 0n) >> 16n) & 0xffffn;
	return attributes === 0n || (attributes & CS_LONG) !== 0n;
};

/** The hypercall that the registers of a guest without SEV-ES make. */
export const registerRequest = (registers: BigUint64Array): HypercallRequest => ({
	nr: registers[Register.rax] ?? 0n,
	a0: registers[Register.rbx] ?? 0n,
	a1: registers[Register.rcx] ?? 0n,
	a2: registers[Register.rdx] ?? 0n,
	a3: registers[Register.rsi] ?? 0n,
	cpl: Number(registers[Register.cpl] ?? 0n),
	isLong: is64Bit(registers),
});

/** A value as RAX holds it; 32-bit code has 32 bits of it. */
const forRax = (value: bigint, isLong: boolean): bigint => BigInt.asUintN(isLong ? 64 : 32, value);

/**
 * Linux 5.12 to 6.10 arch/x86/kvm/x86.c kvm_emulate_hypercall, without Xen and Hyper-V, and page status as the posting or
 * the release of `vm.kernel` has it.
 *
 * DEVIATION(Linux arch/x86/kvm/lapic.c): KICK_CPU, SCHED_YIELD and SEND_IPI find their vCPUs but deliver nothing: there are
 * no interrupts in this model.
 */
export function createHypercalls(o: {
	readonly vm: VmState;
	/** Of the vCPU: `VcpuWord`. */
	readonly words: Int32Array;
	readonly run: RunPage;
	/** What KVM itself keeps: postings up to v10. */
	readonly status: PageStatusInKvm | undefined;
}): Hypercalls {
	const { vm, words, run, status } = o;
	const { kernel } = vm;
	const isUpstream = kernel.abi === 'upstream';

	/** kvm_pv_send_ipi: how many of the vCPUs there are; bit n of a1:a0 is APIC id a2 + n. */
	const sendIpi = (lowBits: bigint, highBits: bigint, first: bigint, icr: bigint, isLong: boolean): bigint => {
		if ((icr & ICR_REFUSED) !== 0n) return KVM_EINVAL;
		if (!vm.hasIrqchip) return KVM_EOPNOTSUPP;
		const width = isLong ? 64n : 32n;
		const wanted = lowBits | (highBits << width);
		const present = BigInt(Atomics.load(vm.words, VmWord.vcpuMask) >>> 0);
		let count = 0n;
		for (let id = 0; id < 32; id++) {
			const bit = BigInt(id) - BigInt.asUintN(32, first);
			if (bit >= 0n && ((present >> BigInt(id)) & (wanted >> bit) & 1n) === 1n) count++;
		}
		return count;
	};

	/** Postings up to v10: KVM keeps the status. v11: the VMM is told by exits of its own. */
	const tellKvm = (gpa: bigint, npages: bigint, enc: bigint): HypercallOutcome => {
		if (!vm.sevActive) return KVM_EINVAL;
		if (status !== undefined) {
			return BigInt(status.record(gpa, npages, enc !== 0n, (at) => vm.translate(at) >= 0));
		}
		if (npages === 0n) return 'leave';
		const gfn = gpa >> 12n;
		if (BigInt.asUintN(64, gfn + npages) <= gfn) return KVM_EINVAL;
		run.exitDma(enc === 0n, gfn, BigInt.asUintN(64, npages << 12n));
		return 'exit';
	};

	const pageStatus = (request: HypercallRequest): HypercallOutcome => {
		const { nr, a0, a1, a2, isLong } = request;
		if (isPosting(kernel, 'v1', 'v11')) return tellKvm(a0, a1, a2);
		const isEnabled = isUpstream ? ((vm.exitHypercallMask >>> Number(nr)) & 1) === 1 : vm.pageEncHcEnable;
		if (!isEnabled) return KVM_ENOSYS;
		const gfn = a0 >> 12n;
		if ((a0 & 0xfffn) !== 0n || a1 === 0n || BigInt.asUintN(64, gfn + a1) <= gfn) return KVM_EINVAL;
		// a2 goes out as it is.
		run.exitHypercall(nr, a0, a1, a2, isLong, hasFlags);
		return 'exit';
	};
	/** 6.10 stands for all from about 6.5 on. */
	const hasFlags = isUpstream && isSince(kernel, '6.10');

	const perform = (request: HypercallRequest): HypercallOutcome => {
		if (request.cpl !== 0) return KVM_EPERM;
		// What does not fit stays far above every hypercall's number.
		switch (Number(request.nr)) {
			case Nr.VAPIC_POLL_IRQ:
				return 0n;
			case Nr.KICK_CPU:
				return pvHas(words, PvFeature.PV_UNHALT) ? 0n : KVM_ENOSYS;
			case Nr.CLOCK_PAIRING:
				// The host's clock is no TSC here.
				return KVM_EOPNOTSUPP;
			case Nr.SEND_IPI:
				if (!pvHas(words, PvFeature.PV_SEND_IPI)) return KVM_ENOSYS;
				return sendIpi(request.a0, request.a1, request.a2, request.a3, request.isLong);
			case Nr.SCHED_YIELD:
				return pvHas(words, PvFeature.PV_SCHED_YIELD) ? 0n : KVM_ENOSYS;
			case Nr.MAP_GPA_RANGE:
				return pageStatus(request);
			default:
				return KVM_ENOSYS;
		}
	};

	const count = (): void => void Atomics.add(words, VcpuWord.hypercalls, 1);

	return {
		dispatch: (raw) => {
			const { isLong } = raw;
			const cutTo = (value: bigint): bigint => BigInt.asUintN(isLong ? 64 : 32, value);
			const request: HypercallRequest = isLong
				? raw
				: { ...raw, nr: cutTo(raw.nr), a0: cutTo(raw.a0), a1: cutTo(raw.a1), a2: cutTo(raw.a2), a3: cutTo(raw.a3) };
			const outcome = perform(request);
			if (typeof outcome === 'string') return outcome;
			count();
			return forRax(outcome, isLong);
		},
		complete: (isLong) => {
			count();
			if (kernel.series === 'v11') return run.dmaAnswer();
			const answer = run.hypercallAnswer();
			// v12 copies all 64 bits whatever the mode; upstream cuts them for 32-bit code.
			return isUpstream ? forRax(answer, isLong) : answer;
		},
	};
}
