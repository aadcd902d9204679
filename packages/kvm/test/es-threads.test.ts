import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';
import { afterEach, describe, expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { MemoryMap } from '../src/guest/index.js';
import { type Boot, launch } from './boot-rig.js';
import type { Ended } from './es-threads-worker.js';
import { RAM } from './kernel-rig.js';

const PAGE = 4096;
const VCPUS = 4;
/** Bytes of workload memory of each vCPU. */
const SLICE = 0x200000;
/** Logs with dirty pages in them that the VMM fetches before it lets the guest end. */
const HARVESTS = 30;

const workers: Worker[] = [];
afterEach(async () => {
	await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

async function scriptOf(entry: string): Promise<URL> {
	const bundle = await build({
		entryPoints: [`${import.meta.dirname}/${entry}`],
		bundle: true,
		write: false,
		format: 'esm',
		platform: 'node',
		conditions: ['@cvm/source'],
	});
	return new URL(`data:text/javascript,${encodeURIComponent(bundle.outputFiles[0]?.text ?? '')}`);
}

/** What a VMM has fetched of a guest that runs: the pages as the host sees them, each when its bit was last found set. */
function createHarvest({ vm, ram }: Boot) {
	const copy = Buffer.from(ram);
	const live = Buffer.from(ram.buffer, ram.byteOffset, ram.byteLength);
	const bitmap = new Uint32Array(RAM / PAGE / 32);
	return {
		/** Whether there was something. */
		once: (): boolean => {
			expect(vm.getDirtyLog(0, bitmap)).toBe(0);
			for (let page = 0; page < RAM / PAGE; page++) {
				if ((((bitmap[page >>> 5] ?? 0) >>> (page & 31)) & 1) === 0) continue;
				live.copy(copy, page * PAGE, page * PAGE, (page + 1) * PAGE);
			}
			return bitmap.some((word) => word !== 0);
		},
		isComplete: (): boolean => copy.equals(live),
	};
}

describe.each(['v12', 'upstream'] as const)('a SEV-ES guest of %s with a thread for each of its vCPUs', (abi) => {
	it('starts them, shares and takes back pages in all of them, and no harvest misses a page', async () => {
		const boot = launch({ abi, es: true, vcpus: VCPUS, logsDirty: true });
		const harvest = createHarvest(boot);
		const goesOn = new Int32Array(new SharedArrayBuffer(4)).fill(1);
		const script = await scriptOf('es-threads-worker.ts');
		let isOver = false;
		const ending = Promise.all(
			boot.handles.map(async (handle) => {
				const worker = new Worker(script, { workerData: { handle, abi, vcpus: VCPUS, goesOn } });
				workers.push(worker);
				const [ended] = (await once(worker, 'message')) as [Ended];
				return ended;
			}),
		).finally(() => {
			isOver = true;
		});
		// What went wrong in a thread is reported below, once harvesting is over.
		ending.catch(() => undefined);
		// Counted from when the last vCPU has something shared: before, the guest boots.
		const lastSlice = boot.ram.subarray(MemoryMap.workload + (VCPUS - 1) * SLICE);
		const before = lastSlice.slice(0, 16);
		let harvests = 0;
		while (!isOver) {
			const found = harvest.once();
			if (found && lastSlice.subarray(0, 16).some((byte, i) => byte !== before[i])) harvests++;
			if (harvests >= HARVESTS) Atomics.store(goesOn, 0, 0);
			await setImmediate();
		}
		const results = await ending;
		expect(results.map(({ reason, fault }) => [reason, fault])).toEqual(results.map(() => [ExitReason.IO, undefined]));
		expect(harvests).toBeGreaterThanOrEqual(HARVESTS);
		harvest.once();
		expect(harvest.isComplete()).toBe(true);
		expect(harvest.once()).toBe(false);

		for (const [vcpu, { hypercalls, rounds }] of results.entries()) {
			const at = MemoryMap.workload + vcpu * SLICE;
			const shared = new Set<number>();
			for (const { gpa, pages, attributes } of hypercalls) {
				for (let page = gpa; page < gpa + pages * PAGE; page += PAGE) {
					if (attributes === 0) shared.add(page);
					else shared.delete(page);
				}
			}
			expect([...shared].filter((page) => page >= MemoryMap.workload)).toEqual([at]);
			const isRound = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === (rounds & 0xff));
			expect(rounds).toBeGreaterThan(0);
			expect(isRound(boot.ram.subarray(at, at + PAGE))).toBe(true);
			expect(isRound(boot.ram.subarray(at + PAGE, at + 2 * PAGE))).toBe(false);
			expect(isRound(boot.plain(at + PAGE, PAGE))).toBe(true);
		}
	});
});
