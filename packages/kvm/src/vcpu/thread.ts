import type { CryptoProvider } from '@cvm/crypto';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { openVcpuState, PendingKind, Register, type VcpuHandle, VcpuWord } from '../vcpu-state.js';
import { openVmState } from '../vm-state.js';
import { answerCpuid } from './cpuid.js';
import { type BlockCpu, createGuestCpu, Ending } from './guest-cpu.js';
import { createGuestMemory } from './guest-memory.js';
import { emulateHypercall, hypercallResult } from './hypercalls.js';
import { createMmu } from './mmu.js';
import { createMsrs, setEdxEax } from './msrs.js';
import { type GuestProgram, ProgramError } from './program.js';
import { openRunPage } from './run-page.js';
import { createTlbShootdown } from './tlb-shootdown.js';
import { hex, TripleFault } from './triple-fault.js';

/** What KVM_RUN returns when it was kicked. */
const EINTR = 4;
/** SVM's VMEXIT_INVALID, −1: the processor refused the VMCB's ASID (Linux arch/x86/kvm/svm/svm.c `pre_svm_run`). */
const VMEXIT_INVALID = 0xffffffffffffffffn;
/** Period of the model's timer. */
const TICK_MS = 1;

export interface VcpuOptions {
	readonly provider: CryptoProvider;
	/** The same in every thread and on every host. */
	readonly program: GuestProgram;
	/** `false`: HLT returns at once instead of waiting for the timer; for vCPUs that run in the main thread. */
	readonly ticks?: boolean;
	/** Called between two blocks with the new RIP: for traces, and for tests that kick. */
	readonly afterBlock?: (rip: number) => void;
}

/** One vCPU, in the thread that runs it. */
export interface VcpuThread {
	/**
	 * KVM_RUN. First finishes the last exit with the VMM's answer in kvm_run, then runs guest code until it exits.
	 * 0: kvm_run says why. −EINTR: kicked, or `immediate_exit` is set.
	 *
	 * @throws ProgramError for a mistake in the guest program, SiliconError for one in the host
	 */
	run(): number;
	/** Why the last KVM_EXIT_SHUTDOWN happened. The real one does not say. */
	readonly fault: TripleFault | undefined;
}

/** Opens a vCPU in the thread that will run it. One thread at a time. */
export function openVcpu(handle: VcpuHandle, o: VcpuOptions): VcpuThread {
	const vm = openVmState(handle.vm);
	const { registers, words, run: runBytes } = openVcpuState(handle);
	const controller = openMemoryController(handle.vm.silicon, o.provider);
	const run = openRunPage(runBytes);
	const mmu = createMmu(vm, controller, registers);
	const shootdown = createTlbShootdown(vm, handle.index, mmu.flush);
	const cpu: BlockCpu = createGuestCpu({
		registers,
		memory: createGuestMemory(vm, controller, mmu),
		program: o.program,
		flushOwnTlb: mmu.flush,
		flushAllTlbs: shootdown.shootDown,
	});
	const msrs = createMsrs(vm, registers, run, mmu.flush);
	let fault: TripleFault | undefined;

	const get = (index: number): bigint => registers[index] ?? 0n;
	const setRip = (address: number): void => {
		registers[Register.rip] = BigInt(address);
	};
	const wait = (kind: number, size = 0): true => {
		registers[Register.pendingKind] = BigInt(kind);
		registers[Register.pendingRip] = BigInt(cpu.to);
		registers[Register.pendingA] = BigInt(size);
		return true;
	};

	/** Finishes the exit that the VMM has answered. @throws TripleFault `gp` if it refused an MSR access */
	const completePending = (): void => {
		const kind = Number(get(Register.pendingKind));
		if (kind === PendingKind.none) return;
		registers[Register.pendingKind] = BigInt(PendingKind.none);
		if (kind === PendingKind.hypercall) {
			// v12 copies all 64 bits whatever the mode; upstream cuts them for 32-bit code.
			const answer = run.hypercallAnswer();
			registers[Register.rax] = vm.kernel.abi === 'v12' ? answer : hypercallResult(registers, answer);
		} else if (kind === PendingKind.ioIn) {
			inputToRax(Number(get(Register.pendingA)));
		} else if (kind === PendingKind.rdmsr || kind === PendingKind.wrmsr) {
			if (run.msrError()) throw new TripleFault('gp', 'MSR: expected an answer of the VMM, got an error: #GP');
			if (kind === PendingKind.rdmsr) setEdxEax(registers, run.msrAnswer());
		}
		registers[Register.rip] = get(Register.pendingRip);
	};

	const inputToRax = (size: number): void => {
		const value = BigInt(run.ioAnswer(size));
		// A 32-bit operation clears the upper half, a smaller one keeps the rest (APM vol. 1 §3.1.2).
		const kept = size === 4 ? 0n : (get(Register.rax) >> BigInt(8 * size)) << BigInt(8 * size);
		registers[Register.rax] = kept | value;
	};

	const hypercall = (): boolean => {
		const result = emulateHypercall(vm, registers, run);
		if (result === undefined) return wait(PendingKind.hypercall);
		registers[Register.rax] = result;
		setRip(cpu.to);
		return false;
	};

	const cpuid = (): void => {
		const leaf = Number(BigInt.asUintN(32, get(Register.rax)));
		const subleaf = Number(BigInt.asUintN(32, get(Register.rcx)));
		const [eax, ebx, ecx, edx] = answerCpuid(handle.cpuid, handle.index, leaf, subleaf);
		registers[Register.rax] = BigInt(eax);
		registers[Register.rbx] = BigInt(ebx);
		registers[Register.rcx] = BigInt(ecx);
		registers[Register.rdx] = BigInt(edx);
		setRip(cpu.to);
	};

	const halt = (): void => {
		setRip(cpu.to);
		if (o.ticks === false) return;
		shootdown.leave();
		Atomics.wait(words, VcpuWord.kick, 0, TICK_MS);
		shootdown.enter();
	};

	const requirePrivilege = (): void => {
		if (get(Register.cpl) !== 0n) throw new TripleFault('gp', 'privileged instruction: expected CPL 0: #GP');
	};

	/** Carries out the instruction that a block ended in. Whether KVM_RUN returns. */
	const finishBlock = (): boolean => {
		switch (cpu.ending) {
			case Ending.jump:
				setRip(cpu.to);
				return false;
			case Ending.hlt:
				requirePrivilege();
				halt();
				return false;
			case Ending.cpuid:
				cpuid();
				return false;
			case Ending.rdmsr:
				requirePrivilege();
				if (msrs.read()) return wait(PendingKind.rdmsr);
				setRip(cpu.to);
				return false;
			case Ending.wrmsr:
				requirePrivilege();
				if (msrs.write()) return wait(PendingKind.wrmsr);
				setRip(cpu.to);
				return false;
			case Ending.vmcall:
				if (vm.sevActive) throw new TripleFault('ud', 'VMCALL in an SEV guest: #UD');
				return hypercall();
			case Ending.vmmcall:
				return hypercall();
			case Ending.out:
				requirePrivilege();
				run.exitIo(true, cpu.port, cpu.ioSize, Number(BigInt.asUintN(32, get(Register.rax))));
				return wait(PendingKind.ioOut);
			case Ending.in:
				requirePrivilege();
				run.exitIo(false, cpu.port, cpu.ioSize, 0);
				return wait(PendingKind.ioIn, cpu.ioSize);
			case Ending.ud2:
				throw new TripleFault('ud', 'UD2: #UD');
			default:
				throw new ProgramError('unfinished', 'block: expected a terminator, got none');
		}
	};

	const step = (): boolean => {
		const rip = Number(get(Register.rip));
		const block = o.program.block(rip);
		if (block === undefined) throw new TripleFault('code', `RIP ${hex(rip)}: expected a block, got none`);
		cpu.begin();
		block(cpu);
		return finishBlock();
	};

	/** Takes the VMM's wish to get the thread back. */
	const isKicked = (): boolean => {
		if (run.wantsImmediateExit()) return true;
		if (Atomics.load(words, VcpuWord.kick) === 0) return false;
		Atomics.store(words, VcpuWord.kick, 0);
		return true;
	};

	const enterGuest = (): number => {
		completePending();
		if (isKicked()) return -EINTR;
		if (vm.sevActive && !controller.isRunnable(vm.asid)) {
			run.exitFailEntry(VMEXIT_INVALID, handle.index);
			return 0;
		}
		shootdown.enter();
		for (;;) {
			shootdown.sync();
			const isExit = step();
			o.afterBlock?.(Number(get(Register.rip)));
			if (isExit) return 0;
			if (isKicked()) return -EINTR;
		}
	};

	return {
		run: () => {
			fault = undefined;
			try {
				return enterGuest();
			} catch (error) {
				if (!(error instanceof TripleFault)) throw error;
				fault = error;
				run.exitShutdown();
				return 0;
			} finally {
				shootdown.leave();
			}
		},
		get fault() {
			return fault;
		},
	};
}
