import { type CryptoProvider, type RandomSource, systemRandom } from '@cvm/crypto';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { openPageStatus } from '../page-status/in-kvm.js';
import { openVmState, VmWord } from '../vm/state.js';
import { MpState, openVcpuState, type VcpuHandle, VcpuWord } from '../vm/vcpu-state.js';
import { createApic } from './apic.js';
import { type Core, type CoreParts, EXIT, GO_ON, VMEXIT_INVALID } from './core.js';
import { createHypercalls } from './hypercalls.js';
import { createMsrs } from './msrs.js';
import { createPlainCore } from './plain-core.js';
import type { GuestProgram } from './program.js';
import { createProtectedCore } from './protected-core.js';
import { createPvPages } from './pv-pages.js';
import { openRunPage } from './run-page.js';
import { createTlbShootdown } from './tlb-shootdown.js';
import { TripleFault } from './triple-fault.js';

/** Why KVM_RUN returns at once: kicked; the encryption context went to another VM; not started yet; no KVM_SEV_INIT2. */
const Errno = { EINTR: 4, EIO: 5, EAGAIN: 11, EINVAL: 22 } as const;

/** Period of the model's timer. */
const TICK_MS = 1;

export interface VcpuOptions {
	readonly provider: CryptoProvider;
	/** The same in every thread and on every host. */
	readonly program: GuestProgram;
	/**
	 * `false`: HLT returns at once instead of waiting for the timer, and KVM_RUN of a vCPU that waits for INIT or SIPI returns
	 * −EAGAIN; for vCPUs that run in the main thread.
	 */
	readonly ticks?: boolean;
	/** Time since the VM began, in nanoseconds, for the clocks that KVM writes to guest memory: 0 by default. */
	readonly now?: () => bigint;
	/**
	 * What RDRAND gives: by default the platform's generator, in its own thread. The processor's, and never the host's to
	 * choose; a seeded source only makes a run reproducible, and whoever knows its seed knows the guest's keys.
	 */
	readonly random?: RandomSource;
	/** Called between two blocks with the new RIP: for traces, and for tests that kick. */
	readonly afterBlock?: (rip: number) => void;
}

/** One vCPU, in the thread that runs it. */
export interface VcpuThread {
	/**
	 * KVM_RUN. First finishes the last exit with the VMM's answer in kvm_run, then runs guest code until it exits.
	 * 0: kvm_run says why. −EINTR: kicked, or `immediate_exit` is set. −EAGAIN: an AP that was not started yet got its INIT.
	 * −EIO: the VM's encryption context went to another, or the VM is closed. −EINVAL: KVM_SEV_INIT2 is missing, or a SEV-ES guest's VMGEXIT is
	 * not to be answered (how much is depends on the kernel's release).
	 *
	 * @throws ProgramError for a mistake in the guest program, SiliconError for one in the host
	 */
	run(): number;
	/** Why the last KVM_EXIT_SHUTDOWN happened. The real one does not say. */
	readonly fault: TripleFault | undefined;
}

/** Opens a vCPU in the thread that will run it. One thread at a time. */
export function openVcpu(handle: VcpuHandle, o: VcpuOptions): VcpuThread {
	const vm = openVmState(handle.vm, handle.dirtyRing);
	const { registers, words, run: runBytes, xsave } = openVcpuState(handle);
	const controller = openMemoryController(handle.vm.silicon, o.provider);
	const run = openRunPage(runBytes);
	const canBlock = o.ticks !== false;
	let core: Core | undefined;
	let isProtected = false;
	const flush = (): void => core?.processor.flushTlb();
	const shootdown = createTlbShootdown(vm, handle.index, flush);
	let fault: TripleFault | undefined;

	/** Waits for the next tick, or the VMM. Others need not wait for this vCPU meanwhile. */
	const sleep = (): void => {
		shootdown.leave();
		Atomics.wait(words, VcpuWord.kick, 0, TICK_MS);
		shootdown.enter();
	};
	const { pageStatus } = handle.vm;
	const status = pageStatus === undefined ? undefined : openPageStatus(vm.kernel, pageStatus);
	const apic = createApic({
		vm,
		index: handle.index,
		words,
		onInit: () => core?.reset(),
		onSipi: (vector) => core?.start(vector),
	});
	const parts: CoreParts = {
		vm,
		handle,
		controller,
		program: o.program,
		registers,
		xsave,
		random: o.random ?? systemRandom(),
		words,
		run,
		msrs: createMsrs({ vm, registers, words, cpuid: handle.cpuid, run, onEfer: flush }),
		hypercalls: createHypercalls({ vm, words, run, status }),
		pvPages: createPvPages({ vm, controller, registers, words, now: o.now ?? (() => 0n) }),
		apic,
		halt: () => {
			if (canBlock) sleep();
		},
		flushAllTlbs: shootdown.shootDown,
	};

	/** The VM may have become a SEV-ES guest since the last KVM_RUN. */
	const currentCore = (): Core => {
		if (core !== undefined && isProtected === vm.sevEs) return core;
		isProtected = vm.sevEs;
		core = isProtected ? createProtectedCore(parts) : createPlainCore(parts);
		return core;
	};

	/** Takes the VMM's wish to get the thread back. */
	const isKicked = (): boolean => {
		if (run.wantsImmediateExit()) return true;
		if (Atomics.load(words, VcpuWord.kick) === 0) return false;
		Atomics.store(words, VcpuWord.kick, 0);
		return true;
	};
	const mpState = (): number => Atomics.load(words, VcpuWord.mpState);
	const isDead = (): boolean => Atomics.load(vm.words, VmWord.dead) !== 0;

	/** KVM_RUN of an AP that no INIT has reached yet (Linux arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl_run). */
	const waitForInit = (): number => {
		if (run.wantsImmediateExit()) return -Errno.EINTR;
		while (canBlock && !apic.hasEvents()) {
			sleep();
			if (isKicked()) return -Errno.EINTR;
		}
		apic.acceptEvents();
		return -Errno.EAGAIN;
	};

	/** Takes INIT and SIPI, and waits for them where the vCPU does not run. `GO_ON`, or what KVM_RUN returns. */
	const waitUntilRunnable = (): number => {
		for (;;) {
			if (apic.hasEvents() || mpState() === MpState.sipiReceived) apic.acceptEvents();
			const state = mpState();
			if (state === MpState.runnable || state === MpState.halted) return GO_ON;
			if (!canBlock) return -Errno.EAGAIN;
			sleep();
			if (isKicked()) return -Errno.EINTR;
		}
	};

	/** One block and the instruction that it ends in, or the way into the guest's handler. */
	const step = ({ processor, finish }: Core): number => {
		try {
			processor.runBlock();
			return finish();
		} catch (error) {
			if (!(error instanceof TripleFault)) throw error;
			processor.deliver(error);
			return GO_ON;
		}
	};

	const runGuest = (guest: Core): number => {
		const { hasIrqchip } = vm;
		shootdown.enter();
		// Again: from here on, whoever destroys the VM waits for this thread.
		if (isDead()) return -Errno.EIO;
		if (hasIrqchip && mpState() === MpState.uninitialized) return waitForInit();
		let result = guest.complete();
		if (result !== GO_ON) return result;
		if (isKicked()) return -Errno.EINTR;
		if (vm.sevActive && !controller.isRunnable(vm.asid)) {
			run.exitFailEntry(VMEXIT_INVALID, handle.index);
			return EXIT;
		}
		if (hasIrqchip) {
			result = waitUntilRunnable();
			if (result !== GO_ON) return result;
		}
		result = guest.enter();
		if (result !== GO_ON) return result;
		parts.pvPages.serve();
		for (;;) {
			if (vm.isRingFull) {
				run.exitDirtyRingFull();
				return EXIT;
			}
			shootdown.sync();
			result = step(guest);
			o.afterBlock?.(guest.processor.rip());
			if (result !== GO_ON) return result;
			if (isKicked()) return -Errno.EINTR;
			if (!hasIrqchip) continue;
			result = waitUntilRunnable();
			if (result !== GO_ON) return result;
		}
	};

	return {
		run: () => {
			if (isDead()) return -Errno.EIO;
			if (Atomics.load(vm.words, VmWord.sevNeedInit) !== 0) return -Errno.EINVAL;
			fault = undefined;
			const guest = currentCore();
			try {
				return runGuest(guest);
			} catch (error) {
				if (!(error instanceof TripleFault)) throw error;
				fault = error;
				run.exitShutdown();
				return EXIT;
			} finally {
				guest.leave();
				shootdown.leave();
			}
		},
		get fault() {
			return fault;
		},
	};
}
