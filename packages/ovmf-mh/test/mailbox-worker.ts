/** The mirror vCPU of the posted handler in a thread of its own; a kick ends it. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import { link, openVcpu } from '@cvm/kvm/vcpu';
import { rfcHandler } from '../src/firmware/handler/index.js';

const { handle } = workerData as { readonly handle: VcpuHandle };
const thread = openVcpu(handle, { provider: nodeProvider, program: link(...rfcHandler()), ticks: false });
let ret = 0;
// Its exits are those of the debug line.
while (ret === 0 && thread.fault === undefined) ret = thread.run();
parentPort?.postMessage({ ret, fault: thread.fault?.message });
