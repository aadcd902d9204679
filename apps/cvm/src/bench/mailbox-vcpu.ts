/** The thread of the mirror vCPU that the migration handler of 2021 runs on, for `cvm bench`. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import type { VcpuHandle } from '@cvm/kvm';
import { openVcpu } from '@cvm/kvm/vcpu';
import { mailboxGuest } from './mailbox-guest.js';

const { handle } = workerData as { readonly handle: VcpuHandle };
const thread = openVcpu(handle, { provider: nodeProvider, program: mailboxGuest(), ticks: false });
parentPort?.postMessage('ready');
// Exits are those of its debug line; a kick ends it.
while (thread.run() === 0 && thread.fault === undefined);
