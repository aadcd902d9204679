import type { Vcpu } from '@cvm/kvm';
import { handleMirrorExit, loadMirrorRegisters, type MachineDevices } from '@cvm/kvm/mirror';
import { mirrorResetState } from '@cvm/ovmf-mh/host';
import type { HostOptions } from '../options.js';
import { VcpuThreads } from '../vcpu-threads.js';
import type { VirtualMachine } from '../virtual-machine.js';

/** What the mirror vCPUs reach of their machine, and whom they tell of their end. */
export interface MirrorSurroundings {
	/** A port of the machine's devices. */
	io(port: number, isOut: boolean, data: Uint8Array): void;
	/** The machine is to be reset: a helper shut down. */
	reset(reason: string): void;
	/** A helper can not go on. */
	failed(reason: string): void;
}

/**
 * The mirror vCPUs of a machine and their threads. Nothing that is done to the guest is done to them: they run while it is
 * stopped, and their registers do not move.
 */
export class MirrorVcpus {
	readonly #threads: VcpuThreads;
	readonly #devices: MachineDevices;
	#vcpus: readonly Vcpu[] = [];
	#started = false;
	#resets = false;
	#dead: string | undefined;

	constructor(around: MirrorSurroundings) {
		const refuse = () => undefined;
		this.#devices = {
			io: (port, isOut, data) => around.io(port, isOut, data),
			// A machine without MMIO: nobody answers, reads give ones.
			mmio: (_, isWrite, data) => void (isWrite || data.fill(0xff)),
			requestReset: () => {
				this.#resets = true;
			},
			requestShutdown: refuse,
			guestPanicked: refuse,
			other: () => -1,
		};
		this.#threads = new VcpuThreads(
			(vcpu) => (handleMirrorExit(vcpu.run, this.#devices) === 'run' ? 'continue' : { halt: 'shut down' }),
			(reason, vcpu) => {
				this.#dead = `mirror vCPU ${vcpu.index}: ${reason}`;
				if (this.#resets) around.reset(this.#dead);
				else around.failed(this.#dead);
			},
		);
	}

	/** Whether the helpers run. */
	get started(): boolean {
		return this.#started && this.#dead === undefined;
	}

	/** Why no helper runs here any more. */
	get dead(): string | undefined {
		return this.#dead;
	}

	get count(): number {
		return this.#vcpus.length;
	}

	/** Makes the mirror VM and a resting thread for each of its vCPUs. The guest's launch must have begun. @throws Error */
	async create(machine: VirtualMachine, options: HostOptions): Promise<void> {
		this.#vcpus = machine.shareWithMirror();
		await this.#threads.start(this.#vcpus, {
			abi: machine.kvm.abi,
			ticks: true,
			helper: options.helper,
			seed: options.insecureSeed,
			isMirror: true,
		});
	}

	/** QEMU's start-migration-handler: the mirrors are reset to the helper's entry and run from now on. Again: no effect. */
	start(): void {
		if (this.#started) return;
		for (const [helper, vcpu] of this.#vcpus.entries()) {
			const result = loadMirrorRegisters(vcpu, mirrorResetState({ helper }), 'reset');
			if (result !== 0) throw new Error(`mirror vCPU ${vcpu.index}: registers refused: errno ${-result}`);
		}
		this.#started = true;
		this.#threads.resume();
	}

	/** A helper that waits by spinning rests while nobody has work for it; {@link wake} before the next command. */
	rest(): void {
		if (this.started) this.#threads.rest();
	}

	wake(): void {
		if (this.started) this.#threads.resume();
	}

	/** Wakes the vCPU of a helper. */
	kick(helper: number): void {
		this.#vcpus[helper]?.kick();
	}

	stop(): Promise<void> {
		return this.#threads.stop();
	}
}
