/** The thread of one vCPU: the only place of a host process where guest code runs. */
import { parentPort, workerData } from 'node:worker_threads';
import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import type { KvmAbi } from '@cvm/kvm/abi';
import { openVcpu } from '@cvm/kvm/vcpu';
import { guestProgram } from './guest/program.js';
import { VcpuState } from './vcpu-control.js';
import type { ThreadOptions } from './vcpu-threads.js';

const { handle, abi, ticks, helper, seed, isMirror, control } = workerData as {
	readonly handle: VcpuHandle;
	readonly abi: KvmAbi;
	readonly control: Int32Array;
} & ThreadOptions;

const EINTR = -4;
const thread = openVcpu(handle, {
	provider: nodeProvider,
	program: guestProgram(abi, helper),
	ticks,
	// Another source for each vCPU, or two of them would draw the same keys.
	...(seed !== undefined && { random: seededRandom(`${seed}: ${isMirror ? 'mirror' : 'vCPU'} ${handle.index}`) }),
});

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
	// Of a mirror vCPU nobody waits for the end: a kick wakes it, or has it rest.
	if (isMirror && result === EINTR) {
		while (Atomics.load(control, 0) === VcpuState.parked) Atomics.wait(control, 0, VcpuState.parked);
		continue;
	}
	if (wait(result === EINTR ? VcpuState.parked : VcpuState.exited) === VcpuState.quit) break;
}
