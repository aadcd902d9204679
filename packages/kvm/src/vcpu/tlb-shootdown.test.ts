import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { createKernel } from '../kernel.js';
import { createVmHandle, openVmState, VmWord } from '../vm/state.js';
import { createTlbShootdown } from './tlb-shootdown.js';

const OBSERVED = 15;

const vmState = () => {
	const silicon = { kind: 'cvm-silicon' } as const;
	return openVmState(
		createVmHandle({ kernel: createKernel('upstream'), cbitPosition: 51, ramBytes: 1 << 20, silicon }),
	);
};

describe('a TLB shootdown', () => {
	it('flushes the vCPU that asks, once', () => {
		let flushes = 0;
		const shootdown = createTlbShootdown(vmState(), 0, () => flushes++);
		shootdown.enter();
		shootdown.sync();
		expect(flushes).toBe(1);
		shootdown.shootDown();
		shootdown.sync();
		expect(flushes).toBe(2);
	});

	it('does not wait for a vCPU that is not in the guest, which flushes when it enters', () => {
		const vm = vmState();
		let flushes = 0;
		const asking = createTlbShootdown(vm, 0, () => {});
		const outside = createTlbShootdown(vm, 1, () => flushes++);
		outside.enter();
		outside.leave();
		asking.enter();
		asking.shootDown();
		expect(flushes).toBe(1);
		outside.enter();
		expect(flushes).toBe(2);
	});

	it('waits until a vCPU in another thread has reached the end of its block', async () => {
		const vm = vmState();
		const { words } = vm;
		// The other vCPU is in mid-block; it sees the new generation only after it has done something else.
		words[VmWord.running + 1] = 1;
		const before = vm.tlbGeneration;
		const code = `
			const { workerData } = require('node:worker_threads');
			const words = new Int32Array(workerData.shared);
			while (Atomics.load(words, workerData.generation) === workerData.before);
			Atomics.store(words, workerData.observed, 1);
			Atomics.store(words, workerData.seen, Atomics.load(words, workerData.generation));
		`;
		const workerData = {
			shared: words.buffer,
			generation: VmWord.tlbGeneration,
			before,
			observed: OBSERVED,
			seen: VmWord.tlbSeen + 1,
		};
		const worker = new Worker(code, { eval: true, workerData });
		const exited = new Promise((resolve) => worker.once('exit', resolve));
		await new Promise((resolve) => worker.once('online', resolve));
		const asking = createTlbShootdown(vm, 0, () => {});
		asking.enter();
		asking.shootDown();
		expect(Atomics.load(words, OBSERVED)).toBe(1);
		await exited;
	});
});
