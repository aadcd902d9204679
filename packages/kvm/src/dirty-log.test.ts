import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { build } from 'esbuild';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Errno } from './abi/errno.js';
import { bitmapWords, createBitmapSpace, fetchAndClear } from './dirty-log.js';
import { createKernel } from './kernel.js';
import { createVmHandle, MemFlag, VmWord, vmWords } from './vm-state.js';

afterEach(() => {
	vi.restoreAllMocks();
});

const words = (count: number) => new Int32Array(new SharedArrayBuffer(4 * count));

describe('the size of a bitmap', () => {
	it.each([
		[1, 2],
		[63, 2],
		[64, 2],
		[65, 4],
		[2 ** 20, 2 ** 15],
	])('of %i pages is %i words: whole u64s', (pages, expected) => {
		expect(bitmapWords(pages)).toBe(expected);
	});
});

describe('fetch and clear', () => {
	it('moves the bits', () => {
		const dirty = words(8);
		dirty.set([1, -1, 0, 0x40], 2);
		const out = new Uint32Array(4).fill(7);
		expect(fetchAndClear(dirty, 2, 4, out)).toBe(0);
		expect([...out]).toEqual([1, 0xffffffff, 0, 0x40]);
		expect([...dirty]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
	});

	it('leaves the words of other slots, and of the caller, alone', () => {
		const dirty = words(4).fill(5);
		const out = new Uint32Array(3).fill(9);
		fetchAndClear(dirty, 1, 2, out);
		expect([...dirty]).toEqual([5, 0, 0, 5]);
		expect([...out]).toEqual([5, 5, 9]);
	});

	it('clears nothing if the caller has no room', () => {
		const dirty = words(4).fill(5);
		expect(fetchAndClear(dirty, 0, 4, new Uint32Array(3))).toBe(-Errno.EFAULT);
		expect([...dirty]).toEqual([5, 5, 5, 5]);
	});

	it('neither loses nor doubles a bit that is set between any two of its steps', () => {
		const dirty = words(2);
		const { or, load, exchange, store, and } = Atomics;
		let set = 0;
		let clears = 0;
		/** What a vCPU does meanwhile: one more bit, in turn in either word. */
		const interfere = () => {
			if (set < 64) or(dirty, set & 1, 1 << (set >>> 1));
			set++;
		};
		const around =
			<A extends unknown[], R>(operation: (...args: A) => R) =>
			(...args: A): R => {
				interfere();
				const result = operation(...args);
				interfere();
				if (operation.name !== 'load') clears++;
				return result;
			};
		for (const [name, operation] of Object.entries({ load, exchange, store, and })) {
			vi.spyOn(Atomics, name as 'load').mockImplementation(around(operation as typeof load));
		}
		const fetched = [0, 0];
		let doubled = 0;
		while (set < 64) {
			const before = set;
			const out = new Uint32Array(2);
			fetchAndClear(dirty, 0, 2, out);
			for (const [i, bits] of out.entries()) {
				doubled |= (fetched[i] ?? 0) & bits;
				fetched[i] = (fetched[i] ?? 0) | bits;
			}
			if (set === before) break;
		}
		expect(clears).toBeGreaterThan(0);
		expect(set).toBeGreaterThanOrEqual(64);
		expect(doubled).toBe(0);
		expect(fetched.map((bits, i) => bits | (dirty[i] ?? 0))).toEqual([-1, -1]);
	});

	it('loses no store of another thread: a copy made by dirty bits always catches up with the memory', async () => {
		const pages = 4096;
		const epochs = 200;
		const handle = createVmHandle({
			kernel: createKernel('upstream'),
			cbitPosition: 51,
			ramBytes: pages * PAGE_SIZE,
			silicon: { kind: 'cvm-silicon' },
		});
		const view = vmWords(handle);
		view.slots.set([0, pages * PAGE_SIZE, 0, 0]);
		view.words[VmWord.slotFlags] = MemFlag.logDirtyPages;
		view.words[VmWord.slotCount] = 1;
		// One counter per page stands for its contents. The two threads take turns by epochs, and race within each.
		const memory = words(pages);
		const turn = words(2);
		const worker = await storingThread({ handle, memory, turn, epochs, pages });

		const copy = new Int32Array(pages);
		const bitmap = new Uint32Array(bitmapWords(pages));
		const round = () => {
			fetchAndClear(view.dirty, 0, bitmap.length, bitmap);
			// The sparser the work here, the more often the two threads meet at the bitmap.
			for (let i = 0; i < bitmap.length; i++) {
				for (let bits = bitmap[i] ?? 0; bits !== 0; bits &= bits - 1) {
					const page = i * 32 + 31 - Math.clz32(bits & -bits);
					copy[page] = Atomics.load(memory, page);
				}
			}
		};
		let lost = 0;
		for (let epoch = 1; epoch <= epochs; epoch++) {
			Atomics.store(turn, 0, epoch);
			Atomics.notify(turn, 0);
			do round();
			while (Atomics.load(turn, 1) < epoch);
			round();
			lost += copy.filter((count, page) => count !== memory[page]).length;
		}
		await worker.terminate();
		expect(lost).toBe(0);
		expect(copy.reduce((sum, count) => sum + count, 0)).toBe(epochs * pages);
	});
});

/**
 * A thread that stores to every page once per epoch, so that no later store can hide a lost bit, and marks it dirty. The
 * order jumps from word to word of the bitmap, so that both threads are at every word all the time.
 */
async function storingThread(data: object): Promise<Worker> {
	const code = `
		import { parentPort, workerData } from 'node:worker_threads';
		import { openVmState } from './vm-state.js';
		const { handle, memory, turn, epochs, pages } = workerData;
		const state = openVmState(handle);
		parentPort.postMessage('ready');
		for (let epoch = 1; epoch <= epochs; epoch++) {
			Atomics.wait(turn, 0, epoch - 1);
			for (let i = 0; i < pages; i++) {
				const page = Math.imul(i, 1021) % pages;
				memory[page]++;
				state.markDirty(page * ${PAGE_SIZE} + 8);
			}
			Atomics.store(turn, 1, epoch);
		}
	`;
	const bundle = await build({
		stdin: { contents: code, resolveDir: import.meta.dirname, sourcefile: 'storing-thread.ts' },
		bundle: true,
		write: false,
		format: 'esm',
		platform: 'node',
		conditions: ['@cvm/source'],
	});
	const [script] = bundle.outputFiles;
	if (script === undefined) throw new Error('esbuild: expected a bundle, got none');
	const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script.text)}`), { workerData: data });
	await once(worker, 'message');
	return worker;
}

describe('room for bitmaps', () => {
	it('hands out cleared words', () => {
		const dirty = words(8).fill(-1);
		expect(createBitmapSpace(dirty).allocate(4)).toBe(0);
		expect([...dirty]).toEqual([0, 0, 0, 0, -1, -1, -1, -1]);
	});

	it('says −1 when nothing fits, and hands out a freed run again', () => {
		const space = createBitmapSpace(words(8));
		const first = space.allocate(4);
		space.allocate(2);
		expect(space.allocate(4)).toBe(-1);
		expect(space.allocate(2)).toBe(6);
		space.free(first);
		expect(space.allocate(4)).toBe(first);
	});

	it('ignores a free of what nobody has', () => {
		const space = createBitmapSpace(words(4));
		space.allocate(4);
		space.free(2);
		expect(space.allocate(2)).toBe(-1);
	});

	const STEP = fc.oneof(fc.record({ take: fc.integer({ min: 1, max: 9 }) }), fc.record({ give: fc.nat({ max: 7 }) }));
	test.prop([fc.array(STEP, { maxLength: 40 })])(
		'never hands out a word twice, and fails only if no gap is long enough',
		(steps) => {
			const space = createBitmapSpace(words(32));
			const runs: { first: number; count: number }[] = [];
			for (const step of steps) {
				if ('give' in step) {
					const [run] = runs.splice(step.give % Math.max(1, runs.length), 1);
					if (run !== undefined) space.free(run.first);
					continue;
				}
				const free = new Array<boolean>(32).fill(true);
				for (const { first, count } of runs) free.fill(false, first, first + count);
				const fits = free.some((_, i) => i + step.take <= 32 && free.slice(i, i + step.take).every(Boolean));
				const first = space.allocate(step.take);
				expect(first >= 0).toBe(fits);
				if (first < 0) continue;
				expect(free.slice(first, first + step.take)).toEqual(new Array<boolean>(step.take).fill(true));
				runs.push({ first, count: step.take });
			}
		},
	);
});
