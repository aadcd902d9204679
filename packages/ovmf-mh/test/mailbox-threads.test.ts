import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';
import { expect, it } from 'vitest';
import { createMailboxHost } from '../src/host/mailbox.js';
import { mailboxMemory } from '../src/host/mailbox-memory.js';
import { createHandlerRig, MAILBOX, pageOf } from './handler-rig.js';

const PAGE = 0x300000;
const PAGES = 64;
const ROUNDS = 6;
/** Long: what is tested is the order of stores, not how busy this machine is. */
const TIMEOUT_MS = 60_000;

/** The handler's vCPU in a thread of its own. */
async function startWorker(
	handle: ReturnType<ReturnType<typeof createHandlerRig>['helper']['share']>,
): Promise<Worker> {
	const bundle = await build({
		entryPoints: [fileURLToPath(new URL('./mailbox-worker.ts', import.meta.url))],
		...{ bundle: true, write: false, format: 'esm', platform: 'node', conditions: ['@cvm/source'] },
	});
	const url = new URL(`data:text/javascript,${encodeURIComponent(bundle.outputFiles[0]?.text ?? '')}`);
	return new Worker(url, { workerData: { handle } });
}

it('host and handler in two threads: a completion is seen only with all that belongs to it', async () => {
	const rig = createHandlerRig();
	rig.start();
	const worker = await startWorker(rig.helper.share());
	const ended = once(worker, 'message');
	const memory = mailboxMemory(rig.ram.bytes.subarray(MAILBOX, MAILBOX + 0x3000));
	// A command that comes before the start is discarded (K12).
	const early = createMailboxHost({ memory, timeoutMs: 20 });
	for (let isThere = false; !isThere; ) {
		try {
			isThere = early.command(0, 0) === 0;
		} catch {
			await setTimeout(1);
		}
	}
	const host = createMailboxHost({ memory, timeoutMs: TIMEOUT_MS });
	for (let round = 0; round < ROUNDS; round++) {
		for (let i = 0; i < PAGES; i++) {
			expect(host.load(PAGE + 4096 * i, new Uint8Array(), pageOf(round * PAGES + i))).toBe(0);
		}
		for (let i = 0; i < PAGES; i++) {
			expect(Buffer.compare(host.save(PAGE + 4096 * i).body, pageOf(round * PAGES + i))).toBe(0);
		}
		expect(host.command(4, 0)).toBe(-1);
	}
	rig.helper.kick();
	expect(await ended).toEqual([{ ret: -4, fault: undefined }]);
	await worker.terminate();
	expect(rig.plain(PAGE, 4096)).toEqual(pageOf((ROUNDS - 1) * PAGES));
}, 60_000);
