/** The thread of a vCPU that dirties memory for good, for `cvm bench`. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import { openVcpu } from '@cvm/kvm/vcpu';
import { dirtyGuest } from './dirty-guest.js';

const { handle } = workerData as { readonly handle: VcpuHandle };
const thread = openVcpu(handle, { provider: nodeProvider, program: dirtyGuest(), ticks: false });
parentPort?.postMessage('ready');
thread.run();
