import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { createCollectingSink, createFakeClock, createFakeSource } from '../src/testing.js';
import { fillMemory, prepare, TWO_BLOCKS } from './migration.js';

/** A migration in which `at` is called before each thing the engine waits for, with a running number. */
function counted(at: (step: number, cancel: () => boolean) => void) {
	let step = 0;
	let cancel = (): boolean => false;
	const next = (): void => at(step++, cancel);
	const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: true });
	fillMemory(source);
	for (let page = 0; page < 100; page += 3) source.setPrivate(0, page, false);
	const clock = createFakeClock(1);
	clock.onIdle = next;
	const migration = prepare({
		source,
		clock,
		returnPath: 'handover',
		parameters: { maxBandwidth: 1e6, downtimeLimit: 1 },
		downtimeBump: false,
		sink: {
			async write() {
				next();
				await Promise.resolve();
				next();
			},
		},
		vm: {
			async stop() {
				next();
				await Promise.resolve();
				next();
			},
			devices: () => {
				// The last thing before the answer that never comes.
				queueMicrotask(() => setTimeout(() => migration.precopy.returnPath.end()));
				return [{ idstr: 'timer', instanceId: 0, version: 1, body: new Uint8Array(1) }];
			},
		},
	});
	cancel = () => migration.precopy.cancel();
	return { ...migration, steps: () => step };
}

describe('a cancelled migration', () => {
	it('ends as cancelled wherever it is, with the dirty log stopped', async () => {
		const whole = counted(() => {});
		expect(await whole.precopy.run()).toMatchObject({
			status: 'failed',
			error: { code: 'return-path' },
			mayResume: true,
		});
		const total = whole.steps();
		expect(total).toBeGreaterThan(50);
		for (let cancelAt = 0; cancelAt < total; cancelAt++) {
			let accepted = false;
			const { precopy, source, log } = counted((step, cancel) => {
				if (step === cancelAt) accepted = cancel();
			});
			const result = await precopy.run();
			expect(accepted, `step ${cancelAt}`).toBe(true);
			expect(result, `step ${cancelAt}`).toEqual({ status: 'cancelled', stopped: expect.any(Boolean) });
			expect(source.logging).toBe(false);
			expect(log.slice(-2)).toEqual(['cancelling', 'cancelled']);
			expect(precopy.statistics.info()).toEqual({ status: 'cancelled' });
		}
	});

	it('does not wait for a sink that never answers, nor for a sleep', async () => {
		const { precopy, source } = prepare({ sink: createCollectingSink({ manual: true }) });
		const running = precopy.run();
		await Promise.resolve();
		expect(precopy.cancel()).toBe(true);
		expect(await running).toEqual({ status: 'cancelled', stopped: false });
		expect(source.logging).toBe(false);

		const clock = { ...createFakeClock(), sleep: () => new Promise<void>(() => {}) };
		const slow = createFakeSource({ blocks: [{ idstr: 'pc.ram', usedLength: 100 * PAGE_SIZE }] });
		slow.memory[0]?.fill(1);
		const sleeping = prepare({
			source: slow,
			clock,
			sink: { write: () => {} },
			parameters: { maxBandwidth: 1e5, downtimeLimit: 1 },
		});
		const result = sleeping.precopy.run();
		for (let i = 0; i < 100; i++) await Promise.resolve();
		expect(sleeping.precopy.cancel()).toBe(true);
		expect(await result).toEqual({ status: 'cancelled', stopped: false });
	});

	it('never starts when cancelled before, and cannot be cancelled after its end', async () => {
		const { precopy, log, source } = prepare({ sink: { write: () => {} } });
		expect(precopy.cancel()).toBe(true);
		expect(await precopy.run()).toEqual({ status: 'cancelled', stopped: false });
		expect(log).toEqual(['cancelled']);
		expect(source.logging).toBe(false);
		expect(precopy.cancel()).toBe(false);
	});
});

describe('a failing host', () => {
	it('a sink that fails at any write, at once or later, ends the migration with its error', async () => {
		for (const later of [false, true]) {
			for (let failAt = 0; failAt < 12; failAt++) {
				let writes = 0;
				const gone = new Error('connection reset');
				const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: true });
				fillMemory(source);
				const { precopy } = prepare({
					source,
					returnPath: 'handover',
					sink: {
						write() {
							if (writes++ !== failAt) return undefined;
							if (!later) throw gone;
							return Promise.resolve().then(() => {
								throw gone;
							});
						},
					},
				});
				setTimeout(() => precopy.returnPath.end());
				const result = await precopy.run();
				if (failAt < writes)
					expect(result).toMatchObject({ status: 'failed', error: { code: 'sink', cause: gone }, mayResume: true });
				expect(source.logging).toBe(false);
			}
		}
	});

	it('a VM that cannot stop or describe its devices, and a source that throws, give their reasons', async () => {
		const sink = { write: () => {} };
		const boom = new Error('boom');
		const stop = prepare({ sink, vm: { stop: () => Promise.reject(boom), devices: () => [] } });
		expect(await stop.precopy.run()).toMatchObject({
			error: { code: 'vm', cause: boom },
			stopped: true,
			mayResume: true,
		});
		const devices = () => {
			throw boom;
		};
		const described = prepare({ sink, vm: { stop: async () => {}, devices } });
		expect(await described.precopy.run()).toMatchObject({ error: { code: 'vm', cause: boom }, mayResume: true });
		const source = { ...createFakeSource({ blocks: TWO_BLOCKS }), plainPage: devices };
		expect(await prepare({ sink, source }).precopy.run()).toMatchObject({ error: { code: 'source', cause: boom } });
		const log = { ...createFakeSource({ blocks: TWO_BLOCKS }), startDirtyLog: devices };
		expect(await prepare({ sink, source: log }).precopy.run()).toMatchObject({ error: { code: 'source' } });
	});

	it('a dirty log that cannot be stopped does not undo the outcome', async () => {
		const stopDirtyLog = () => {
			throw new Error('boom');
		};
		const source = { ...createFakeSource({ blocks: TWO_BLOCKS }), stopDirtyLog };
		expect(await prepare({ sink: { write: () => {} }, source }).precopy.run()).toEqual({ status: 'completed' });
	});
});
