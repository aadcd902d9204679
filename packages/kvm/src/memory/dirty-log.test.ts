import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { build } from 'esbuild';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Errno } from '../abi/errno.js';
import { createKernel } from '../kernel.js';
import { createVmHandle, MemFlag, vmWords } from '../vm/state.js';
import { bitmapWords, clearBits, createBitmapSpace, fetch, fetchAndClear, setAll } from './dirty-log.js';
import { createRingBuffer, createRingReader, openDirtyRing, ringEntries } from './dirty-ring.js';
import { replaceSlot, SLOT_RING } from './slot-table.js';

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
			interfere();
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

	it.each(['GET', 'GET and CLEAR', 'ring'] as const)(
		'loses no store of another thread: a copy made by %s always catches up with the memory',
		async (way) => {
			const pages = 4096;
			const epochs = way === 'ring' ? 25 : 150;
			const handle = createVmHandle({
				kernel: createKernel('upstream'),
				cbitPosition: 51,
				ramBytes: pages * PAGE_SIZE,
				silicon: { kind: 'cvm-silicon' },
			});
			const view = vmWords(handle);
			const flags = MemFlag.logDirtyPages | (way === 'ring' ? SLOT_RING : 0);
			replaceSlot(view, undefined, { gpa: 0, bytes: pages * PAGE_SIZE, spa: 0, bitmap: 0, flags, id: 7 });
			// One counter per page stands for its contents. The two threads take turns by epochs, and race within each.
			const memory = words(pages);
			const turn = words(2);
			// The smallest ring, so that most pages have to queue.
			const ring = createRingBuffer(PAGE_SIZE, handle.dirty.byteLength);
			const worker = await storingThread({
				handle,
				memory,
				turn,
				epochs,
				pages,
				ring: way === 'ring' ? ring : undefined,
			});

			const copy = new Int32Array(pages);
			const bitmap = new Uint32Array(bitmapWords(pages));
			const copyDirty = (): number => {
				let count = 0;
				// The sparser the work here, the more often the two threads meet at the bitmap.
				for (let i = 0; i < bitmap.length; i++) {
					for (let bits = bitmap[i] ?? 0; bits !== 0; bits &= bits - 1, count++) {
						const page = i * 32 + 31 - Math.clz32(bits & -bits);
						copy[page] = Atomics.load(memory, page);
					}
				}
				return count;
			};
			const reader = createRingReader(ringEntries(ring));
			const opened = openDirtyRing(ring);
			const slots = () => [{ id: 7, bitmap: 0, words: bitmap.length }];
			const protect = (id: number, page: number): void => {
				expect(id).toBe(7);
				Atomics.and(view.dirty, page >>> 5, ~(1 << (page & 31)));
			};
			const harvest = {
				GET: () => fetchAndClear(view.dirty, 0, bitmap.length, bitmap),
				'GET and CLEAR': () => {
					fetch(view.dirty, 0, bitmap.length, bitmap);
					clearBits(view.dirty, 0, bitmap.length, bitmap);
				},
				ring: () => {
					bitmap.fill(0);
					const got = reader.harvest((_, page) => {
						bitmap[page >>> 5] = (bitmap[page >>> 5] ?? 0) | (1 << (page & 31));
					});
					expect(opened.reset(protect, slots)).toBe(got);
				},
			}[way];
			const round = (): number => {
				harvest();
				return copyDirty();
			};
			let lost = 0;
			for (let epoch = 1; epoch <= epochs; epoch++) {
				Atomics.store(turn, 0, epoch);
				Atomics.notify(turn, 0);
				do round();
				while (Atomics.load(turn, 1) < epoch);
				// What queued behind a ring comes out bit by bit.
				while (round() > 0);
				lost += copy.filter((count, page) => count !== memory[page]).length;
			}
			await worker.terminate();
			expect(lost).toBe(0);
			expect(copy.reduce((sum, count) => sum + count, 0)).toBe(epochs * pages);
		},
	);
});

describe('fetch and clear by hand', () => {
	it('leaves the bits where they are, and clears those that it is given', () => {
		const dirty = words(4).fill(-1);
		const out = new Uint32Array(2);
		expect(fetch(dirty, 1, 2, out)).toBe(0);
		expect([...out]).toEqual([0xffffffff, 0xffffffff]);
		expect(clearBits(dirty, 1, 2, Uint32Array.of(0x80000001, 0))).toBe(0);
		expect([...dirty]).toEqual([-1, 0x7ffffffe, -1, -1]);
	});

	it('clears nothing if the caller has too few words', () => {
		const dirty = words(2).fill(-1);
		expect(clearBits(dirty, 0, 2, new Uint32Array(1).fill(-1))).toBe(-Errno.EFAULT);
		expect(fetch(dirty, 0, 2, new Uint32Array(1))).toBe(-Errno.EFAULT);
		expect([...dirty]).toEqual([-1, -1]);
	});

	it.each([
		[1, [1, 0]],
		[32, [-1, 0]],
		[33, [-1, 1]],
		[64, [-1, -1]],
	])('sets the bits of %i pages and no more', (pages, expected) => {
		const dirty = words(3);
		setAll(dirty, 0, pages);
		expect([...dirty]).toEqual([...expected, 0]);
	});
});

/**
 * A thread that stores to every page once per epoch, so that no later store can hide a lost bit, and marks it dirty. The
 * order jumps from word to word of the bitmap, so that both threads are at every word all the time.
 */
async function storingThread(data: object): Promise<Worker> {
	const code = `
		import { parentPort, workerData } from 'node:worker_threads';
		import { openVmState } from '../vm/state.js';
		const { handle, memory, turn, epochs, pages, ring } = workerData;
		const state = openVmState(handle, ring);
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
