import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { spinThenSleep } from '@cvm/ovmf-mh/host';
import { build } from 'esbuild';
import type { Machine } from './hardened-rig.js';

/** How a thread of {@link startHelpers} ended. */
export interface Ended {
	readonly ret: number;
	readonly kicks: number;
	readonly fault: string | undefined;
}

let script: URL | undefined;
async function workerScript(): Promise<URL> {
	if (script !== undefined) return script;
	const bundle = await build({
		entryPoints: [fileURLToPath(new URL('./hardened-worker.ts', import.meta.url))],
		...{ bundle: true, write: false, format: 'esm', platform: 'node', conditions: ['@cvm/source'] },
	});
	script = new URL(`data:text/javascript,${encodeURIComponent(bundle.outputFiles[0]?.text ?? '')}`);
	return script;
}

/** Starts a thread for each helper of a machine; the function ends them. */
export async function startHelpers(machine: Machine): Promise<() => Promise<Ended[]>> {
	const goesOn = new Int32Array(new SharedArrayBuffer(4)).fill(1);
	const url = await workerScript();
	const ends = machine.mirrors.map(async (vcpu) => {
		const worker = new Worker(url, { workerData: { handle: vcpu.share(), cBit: machine.cBit, goesOn } });
		const [ended] = (await once(worker, 'message')) as [Ended];
		await worker.terminate();
		return ended;
	});
	return async () => {
		Atomics.store(goesOn, 0, 0);
		for (const vcpu of machine.mirrors) vcpu.kick();
		return Promise.all(ends);
	};
}

/** How a host waits for helpers that run by themselves. */
export const waiting = { wait: spinThenSleep(), pause: async (): Promise<void> => void (await setImmediate()) };
