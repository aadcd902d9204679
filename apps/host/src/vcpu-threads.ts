import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { Kvm, Vcpu } from '@cvm/kvm';
import type { HelperProfile } from './options.js';
import { VcpuState } from './vcpu-control.js';

/** How long a vCPU's thread has to come to the end of its block when the host ends. */
const QUIT_MS = 2000;

/** What all vCPU threads of a kind have in common. */
export interface ThreadOptions {
	readonly abi: Kvm['abi'];
	readonly ticks: boolean;
	/** Which helper is linked into the firmware. */
	readonly helper: HelperProfile | undefined;
	/** Reproducible RDRAND: `-insecure-seed`. */
	readonly seed: string | undefined;
	/** A kick wakes mirror vCPUs, or has them {@link VcpuThreads.rest}; {@link VcpuThreads.pause} is not for them. */
	readonly isMirror: boolean;
}

/** Answers an exit by filling in kvm_run. `halt` when the vCPU can not go on. */
export type ExitHandler = (vcpu: Vcpu) => 'continue' | { readonly halt: string };

interface Thread {
	readonly vcpu: Vcpu;
	readonly worker: Worker;
	readonly control: Int32Array;
	/** Resolves when the thread has reached a state other than running. */
	settled: () => void;
}

/**
 * The vCPUs of a VM, each in a worker, as a VMM has them in threads. Exits are answered on the main thread, one at a time.
 */
export class VcpuThreads {
	#threads: Thread[] = [];
	#handle: ExitHandler;
	#onHalt: (reason: string, vcpu: Vcpu) => void;
	#running = false;

	constructor(handle: ExitHandler, onHalt: (reason: string, vcpu: Vcpu) => void) {
		this.#handle = handle;
		this.#onHalt = onHalt;
	}

	/** Starts a parked thread for every vCPU. */
	async start(vcpus: readonly Vcpu[], options: ThreadOptions): Promise<void> {
		await Promise.all(
			vcpus.map(async (vcpu) => {
				const control = new Int32Array(new SharedArrayBuffer(4));
				const worker = new Worker(new URL('./vcpu-worker.js', import.meta.url), {
					workerData: { handle: vcpu.share(), control, ...options },
				});
				const thread: Thread = { vcpu, worker, control, settled: () => undefined };
				this.#threads.push(thread);
				await new Promise<void>((resolve, reject) => {
					worker.once('error', reject);
					worker.once('message', () => {
						worker.off('error', reject);
						resolve();
					});
				});
				worker.on('message', (fault: string | undefined) => this.#exited(thread, fault));
				worker.on('error', (error) => this.#halt(thread, `vCPU thread failed: ${error.message}`));
				// A parked vCPU must not keep a process alive that has nothing else to do.
				worker.unref();
			}),
		);
	}

	/** Lets every vCPU run. */
	resume(): void {
		this.#running = true;
		for (const { control } of this.#threads) {
			Atomics.compareExchange(control, 0, VcpuState.parked, VcpuState.running);
			Atomics.notify(control, 0);
		}
	}

	/** Has mirror vCPUs rest from their next block on, until {@link resume}. */
	rest(): void {
		for (const { control, vcpu } of this.#threads) {
			const was = Atomics.compareExchange(control, 0, VcpuState.running, VcpuState.parked);
			if (was === VcpuState.running) vcpu.kick();
		}
	}

	/** Stops every vCPU between two blocks of guest code, with no exit pending. */
	async pause(): Promise<void> {
		this.#running = false;
		await Promise.all(
			this.#threads.map((thread) => {
				if (this.#state(thread) !== VcpuState.running && this.#state(thread) !== VcpuState.exited) return undefined;
				const parked = new Promise<void>((resolve) => {
					thread.settled = resolve;
				});
				thread.vcpu.kick();
				return parked;
			}),
		);
	}

	async stop(): Promise<void> {
		const gone = this.#threads.map(async (thread) => {
			const { worker, control, vcpu } = thread;
			worker.ref();
			const exited = worker.threadId < 0 ? undefined : once(worker, 'exit').catch(() => undefined);
			Atomics.store(control, 0, VcpuState.quit);
			Atomics.notify(control, 0);
			vcpu.kick();
			// By itself, between two blocks: the VM must not go while a thread is in its guest.
			await Promise.race([exited, setTimeout(QUIT_MS, undefined, { ref: false })]);
			await worker.terminate();
		});
		await Promise.all(gone);
		this.#threads = [];
	}

	#state(thread: Thread): VcpuState {
		return Atomics.load(thread.control, 0) as VcpuState;
	}

	/** `fault`: what a real processor would not tell, why the guest shut down. */
	#exited(thread: Thread, fault: string | undefined): void {
		if (this.#state(thread) === VcpuState.exited) {
			const answer = this.#handle(thread.vcpu);
			if (answer !== 'continue') {
				this.#halt(thread, fault === undefined ? answer.halt : `${answer.halt}: ${fault}`);
				return;
			}
			// Also when the VM is being paused: the next KVM_RUN completes the exit and then returns -EINTR for the kick.
			Atomics.compareExchange(thread.control, 0, VcpuState.exited, VcpuState.running);
			Atomics.notify(thread.control, 0);
		} else if (this.#state(thread) === VcpuState.parked) {
			thread.settled();
			// Kicked for nothing, or resumed before it had parked.
			if (this.#running) {
				Atomics.compareExchange(thread.control, 0, VcpuState.parked, VcpuState.running);
				Atomics.notify(thread.control, 0);
			}
		}
	}

	#halt(thread: Thread, reason: string): void {
		Atomics.store(thread.control, 0, VcpuState.halted);
		thread.settled();
		this.#onHalt(reason, thread.vcpu);
	}
}
