/** A helper's vCPU in a thread of its own, with the part of its VMM that starts it again when it was kicked. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import { openVcpu } from '@cvm/kvm/vcpu';
import { programOf } from './hardened-rig.js';

const { handle, cBit, goesOn } = workerData as { handle: VcpuHandle; cBit: number; goesOn: Int32Array };
const thread = openVcpu(handle, { provider: nodeProvider, program: programOf(cBit) });
const EINTR = -4;
let ret = EINTR;
let kicks = 0;
while (ret === EINTR && Atomics.load(goesOn, 0) !== 0) {
	ret = thread.run();
	kicks++;
}
parentPort?.postMessage({ ret, kicks, fault: thread.fault?.message });
