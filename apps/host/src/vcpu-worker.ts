/** The thread of one vCPU: the only place of a host process where guest code runs. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import type { KvmAbi } from '@cvm/kvm/abi';
import { openVcpu } from '@cvm/kvm/vcpu';
import { guestProgram } from './guest/program.js';
import { VcpuState } from './vcpu-control.js';

const { handle, abi, ticks, control } = workerData as {
	readonly handle: VcpuHandle;
	readonly abi: KvmAbi;
	readonly ticks: boolean;
	readonly control: Int32Array;
};

const EINTR = -4;
const thread = openVcpu(handle, { provider: nodeProvider, program: guestProgram(abi), ticks });

/** Tells the main thread what happened, then waits for its answer. */
function wait(state: VcpuState): VcpuState {
	// The main thread may have asked to quit in the meantime; that must not be overwritten.
	Atomics.compareExchange(control, 0, VcpuState.running, state);
	Atomics.notify(control, 0);
	parentPort?.postMessage(thread.fault?.message);
	for (;;) {
		const now = Atomics.load(control, 0) as VcpuState;
		if (now === VcpuState.running || now === VcpuState.quit) return now;
		Atomics.wait(control, 0, now);
	}
}

parentPort?.postMessage(undefined);
while (Atomics.load(control, 0) === VcpuState.parked) Atomics.wait(control, 0, VcpuState.parked);
while (Atomics.load(control, 0) !== VcpuState.quit) {
	const result = thread.run();
	if (wait(result === EINTR ? VcpuState.parked : VcpuState.exited) === VcpuState.quit) break;
}
