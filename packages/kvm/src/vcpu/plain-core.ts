import { PendingKind, Register } from '../vm/vcpu-state.js';
import { resetByInit, startAtPage } from './apic.js';
import { type Core, type CoreParts, EXIT, GO_ON } from './core.js';
import { Ending } from './guest-cpu.js';
import { accessMsr, completeIn, completeMsr, ecxOf, emulateCpuid } from './host-instructions.js';
import { is64Bit, registerRequest } from './hypercalls.js';
import { setEdxEax } from './msrs.js';
import { createProcessor } from './processor.js';
import { ProgramError } from './program.js';
import { hex, TripleFault } from './triple-fault.js';

/** @throws TripleFault `gp` for code that is not at CPL 0 */
export function requirePrivilege(registers: BigUint64Array): void {
	if ((registers[Register.cpl] ?? 0n) !== 0n) {
		throw new TripleFault('gp', 'privileged instruction: expected CPL 0: #GP');
	}
}

/** A vCPU whose registers KVM and the VMM see: every instruction that is intercepted is emulated from them. */
export function createPlainCore(parts: CoreParts): Core {
	const { vm, handle, registers, run, hypercalls, pvPages } = parts;
	const processor = createProcessor(parts);
	const { cpu } = processor;
	// Halves of the registers, low half first: every exit reads and writes some, and numbers are faster.
	const halves = new Uint32Array(registers.buffer, registers.byteOffset, registers.length * 2);
	const low = (index: number): number => halves[2 * index] ?? 0;

	const privileged = (): void => {
		if (low(Register.cpl) !== 0) requirePrivilege(registers);
	};
	const goOn = (): number => {
		processor.jump(cpu.to);
		return GO_ON;
	};
	const wait = (kind: number, size = 0): number => {
		const { to } = cpu;
		halves[2 * Register.pendingKind] = kind;
		halves[2 * Register.pendingRip] = to;
		halves[2 * Register.pendingRip + 1] = to / 2 ** 32;
		halves[2 * Register.pendingA] = size;
		return EXIT;
	};

	const hypercall = (): number => {
		const outcome = hypercalls.dispatch(registerRequest(registers));
		if (outcome === 'exit') return wait(PendingKind.hypercall);
		if (outcome === 'leave') return EXIT;
		registers[Register.rax] = outcome;
		return goOn();
	};

	const msr = (kind: number): number => {
		const outcome = accessMsr(parts, kind, registers);
		if (outcome === 'exit') return wait(kind);
		if (outcome === 'gp') {
			throw new TripleFault('gp', `MSR ${hex(ecxOf(registers))}: expected an access that is allowed: #GP`);
		}
		if (kind === PendingKind.rdmsr) setEdxEax(registers, outcome);
		else pvPages.serve();
		return goOn();
	};

	return {
		processor,
		complete: () => {
			const kind = low(Register.pendingKind);
			if (kind === PendingKind.none) return GO_ON;
			halves[2 * Register.pendingKind] = PendingKind.none;
			const next = low(Register.pendingRip) + (halves[2 * Register.pendingRip + 1] ?? 0) * 2 ** 32;
			if (kind === PendingKind.hypercall) {
				registers[Register.rax] = hypercalls.complete(is64Bit(registers));
			} else if (kind === PendingKind.ioIn) {
				completeIn(run, low(Register.pendingA), registers);
			} else if (kind === PendingKind.rdmsr || kind === PendingKind.wrmsr) {
				if (!completeMsr(run, kind, registers)) {
					const fault = new TripleFault('gp', 'MSR: expected an answer of the VMM, got an error: #GP');
					processor.deliver(fault, next);
					return GO_ON;
				}
			}
			processor.jump(next);
			return GO_ON;
		},
		enter: () => GO_ON,
		leave: () => undefined,
		finish: () => {
			switch (cpu.ending) {
				case Ending.jump:
					return goOn();
				case Ending.hlt:
					privileged();
					processor.jump(cpu.to);
					parts.halt();
					return GO_ON;
				case Ending.cpuid:
					emulateCpuid(handle, registers);
					return goOn();
				case Ending.rdmsr:
					privileged();
					return msr(PendingKind.rdmsr);
				case Ending.wrmsr:
					privileged();
					return msr(PendingKind.wrmsr);
				case Ending.vmcall:
					if (vm.sevActive) throw new TripleFault('ud', 'VMCALL in an SEV guest: #UD');
					return hypercall();
				case Ending.vmmcall:
				case Ending.vmgexit:
					return hypercall();
				case Ending.out:
					privileged();
					run.exitIo(true, cpu.port, cpu.ioSize, low(Register.rax));
					return wait(PendingKind.ioOut);
				case Ending.in:
					privileged();
					run.exitIo(false, cpu.port, cpu.ioSize, 0);
					return wait(PendingKind.ioIn, cpu.ioSize);
				case Ending.ud2:
					throw new TripleFault('ud', 'UD2: #UD');
				default:
					throw new ProgramError('unfinished', 'block: expected a terminator, got none');
			}
		},
		reset: () => {
			resetByInit(registers);
			processor.flushTlb();
		},
		start: (vector) => startAtPage(registers, vector),
	};
}
