/** One vCPU of test/es-threads.test.ts, with the part of its VMM that answers exits, in a thread of its own. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeProvider } from '@cvm/crypto/node';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { VcpuHandle } from '../src/index.js';
import { type Block, openVcpu } from '../src/vcpu/index.js';
import { openVcpuState } from '../src/vm/vcpu-state.js';
import { answer, programOf } from './boot-rig.js';
import { newLog } from './guest-rig.js';

const PAGE = 4096;
const EINTR = -4;
const EAGAIN = -11;
/** Reading it asks the VMM whether to go on; writing it says how many rounds there were. */
const ROUNDS_PORT = 0x70;

/** What a vCPU tells when it has ended. */
export interface Ended {
	readonly reason: number;
	readonly fault: string | undefined;
	readonly hypercalls: ReturnType<typeof newLog>['hypercalls'];
	readonly rounds: number;
}

/**
 * Each vCPU by itself: shares the first two pages of its memory, writes both, takes the second one back and writes it, and,
 * unless the VMM wants the end, takes back the first too and goes on.
 */
const workload: Record<string, Block> = {
	test_start: (cpu) => {
		cpu.setNum('r12', cpu.num('rdx'));
		cpu.setNum('r13', 0);
		return cpu.jump('test_round');
	},
	test_round: (cpu) => {
		cpu.setNum('r13', cpu.num('r13') + 1);
		cpu.setNum('rdi', cpu.num('r12'));
		cpu.setNum('rsi', 2);
		return cpu.call('set_memory_decrypted', 'test_shared');
	},
	test_shared: (cpu) => {
		cpu.fill(cpu.num('r12'), 2 * PAGE, cpu.num('r13') & 0xff);
		cpu.setNum('rdi', cpu.num('r12') + PAGE);
		cpu.setNum('rsi', 1);
		return cpu.call('set_memory_encrypted', 'test_private');
	},
	test_private: (cpu) => {
		cpu.fill(cpu.num('r12') + PAGE, PAGE, cpu.num('r13') & 0xff);
		return cpu.in(ROUNDS_PORT, 4, 'test_asked');
	},
	test_asked: (cpu) => {
		if (cpu.num('rax') === 0) return cpu.jump('test_end_rounds');
		cpu.setNum('rdi', cpu.num('r12'));
		cpu.setNum('rsi', 1);
		return cpu.call('set_memory_encrypted', 'test_round');
	},
	test_end_rounds: (cpu) => {
		cpu.setNum('rax', cpu.num('r13'));
		return cpu.out(ROUNDS_PORT, 4, 'test_last');
	},
	test_last: (cpu) => cpu.out(0xf4, 1, 'test_last'),
};

const { handle, abi, vcpus, goesOn } = workerData as {
	handle: VcpuHandle;
	abi: 'v12' | 'upstream';
	vcpus: number;
	/** Word 0: whether the guest is to go on. */
	goesOn: Int32Array;
};
const program = programOf({ abi, es: true, vcpus, workload });
const thread = openVcpu(handle, { provider: nodeProvider, program });
const { run } = openVcpuState(handle);
const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
const log = newLog();
let rounds = 0;

function runToEnd(): number {
	for (;;) {
		const ret = thread.run();
		if (ret === EINTR || ret === EAGAIN) continue;
		if (ret < 0) return ret;
		const end = answer(view, log);
		if (end !== undefined) return end;
		const isIo = view.getUint32(RunOffset.exitReason, true) === ExitReason.IO;
		if (!isIo || view.getUint16(RunOffset.ioPort, true) !== ROUNDS_PORT) continue;
		const data = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
		if (view.getUint8(RunOffset.ioDirection) === 1) rounds = view.getUint32(data, true);
		else view.setUint32(data, Atomics.load(goesOn, 0), true);
	}
}

const reason = runToEnd();
const ended: Ended = { reason, fault: thread.fault?.message, hypercalls: log.hypercalls, rounds };
parentPort?.postMessage(ended);
