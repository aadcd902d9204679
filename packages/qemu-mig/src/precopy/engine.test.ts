import { PAGE_SIZE, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { connect, fillMemory, prepare, receive, sameMemory, TWO_BLOCKS } from '../../test/migration.js';
import { read } from '../../test/streams.js';
import { createPrecopy, defaultParameters, StreamReader } from '../index.js';
import { createCollectingSink, createFakeClock, createFakeSource } from '../testing.js';

const PAGES = 133;
/** Bytes of a raw page with CONTINUE. */
const RAW = 8 + PAGE_SIZE;

const filled = (confidential = false) => {
	const source = createFakeSource({ blocks: TWO_BLOCKS, confidential });
	fillMemory(source);
	return source;
};
const touch = (source: ReturnType<typeof filled>, pages: number): void => {
	for (let page = 0; page < pages; page++) source.write(0, page * PAGE_SIZE, Uint8Array.of(0xf0, page));
};

describe('a migration of a plain guest', () => {
	it('goes through QEMU’s statuses and passes, and the target has the same memory and devices', async () => {
		const { precopy, loader, target, source, devices, log, sections } = connect({ source: filled() });
		expect(await precopy.run()).toEqual({ status: 'completed' });
		loader.end();
		expect(await loader.outcome).toEqual({ status: 'running', complete: true, missing: [] });
		expect(log).toEqual(['setup', 'pass 1', 'active', 'stop', 'pass 2', 'devices', 'finish', 'completed']);
		expect(sections).toMatchObject([
			{ type: 'part', pages: PAGES },
			{ type: 'end', pages: 0 },
		]);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
		expect([...devices.keys()]).toEqual(['timer', 'cpu']);
		expect(source.logging).toBe(false);
		expect(precopy.statistics.info()).toMatchObject({
			status: 'completed',
			downtime: 0,
			ram: { total: PAGES * PAGE_SIZE, duplicate: 27, normal: 106, remaining: 0, 'dirty-sync-count': 2 },
		});
	});

	it('writes a stream that is the same for the same memory', async () => {
		const streams = await Promise.all(
			[0, 1].map(async () => {
				const sink = createCollectingSink();
				await prepare({ sink, source: filled() }).precopy.run();
				return sink.bytes();
			}),
		);
		expect(streams[0]).toEqual(streams[1]);
		expect(read(streams[0] ?? new Uint8Array(0))).toEqual({ description: true, trailing: 0 });
	});

	it('cuts PART sections at the quota: 103 raw pages at 4 MiB/s, as QEMU 7.2 does', async () => {
		const blocks = [{ idstr: 'pc.ram', usedLength: 1000 * PAGE_SIZE }];
		const source = createFakeSource({ blocks });
		source.memory[0]?.fill(1);
		const parameters = { maxBandwidth: 4 * 1024 * 1024, downtimeLimit: 1 };
		const { precopy, sections, clock } = connect({ source, parameters });
		await precopy.run();
		const parts = sections.filter(({ type }) => type === 'part').map(({ pages }) => pages);
		expect(parts).toEqual([...Array.from({ length: 9 }, () => 103), 73]);
		expect(clock.sleeps).toEqual(Array.from({ length: 9 }, () => 100));
	});

	it('sends at least a page per period however small the quota', async () => {
		const blocks = [{ idstr: 'pc.ram', usedLength: 3 * PAGE_SIZE }];
		const source = createFakeSource({ blocks });
		source.memory[0]?.fill(1);
		const { precopy, sections } = connect({ source, parameters: { maxBandwidth: 10, downtimeLimit: 0 } });
		await precopy.run();
		expect(sections.map(({ pages }) => pages)).toEqual([1, 1, 1, 0]);
	});

	it('synchronises again while the rest fits the downtime, and goes on while it does not', async () => {
		const source = filled();
		const clock = createFakeClock();
		// 20 raw pages per period; with 200 ms of downtime the threshold is 40 pages.
		const parameters = { maxBandwidth: 20 * RAW * 10, downtimeLimit: 200 };
		const { precopy, log, sections, target } = connect({ source, clock, parameters });
		let periods = 0;
		clock.onIdle = () => {
			if (clock.sleeps.length === periods) return;
			periods = clock.sleeps.length;
			if (periods < 12) touch(source, 60);
			else if (periods === 12) touch(source, 5);
		};
		await precopy.run();
		const passes = log.filter((entry) => entry.startsWith('pass'));
		expect(passes.length).toBeGreaterThan(3);
		expect(log.indexOf('stop')).toBe(log.lastIndexOf(passes.at(-1) ?? '') - 1);
		const end = sections.at(-1);
		expect(end?.type).toBe('end');
		expect(end?.pages).toBeLessThan(40);
		expect(periods).toBeGreaterThan(11);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
	});

	it('ends after the first drained pass when downtime-limit is 0, as QEMU 7.2 does', async () => {
		const source = filled();
		const clock = createFakeClock();
		const parameters = { maxBandwidth: 20 * RAW * 10, downtimeLimit: 0 };
		const { precopy, log, sections, target } = connect({ source, clock, parameters });
		clock.onIdle = () => touch(source, 50);
		await precopy.run();
		expect(log.filter((entry) => entry.startsWith('pass'))).toEqual(['pass 1', 'pass 2']);
		expect(sections.at(-1)).toMatchObject({ type: 'end', pages: 50 });
		expect(sameMemory(target.memory, source.memory)).toBe(true);
	});

	it('obeys a bandwidth changed while it runs', async () => {
		const clock = createFakeClock();
		const parameters = { maxBandwidth: 10 * RAW * 10, downtimeLimit: 1 };
		const { precopy, sections } = connect({ source: filled(), clock, parameters });
		clock.onIdle = () => {
			if (clock.sleeps.length === 2) precopy.parameters.maxBandwidth = 0;
		};
		await precopy.run();
		expect(clock.sleeps.length).toBe(2);
		expect(sections.at(-2)?.pages).toBeGreaterThan(60);
	});

	it('reports bandwidth, dirty rate and expected downtime in the units of query-migrate', async () => {
		const source = filled();
		const clock = createFakeClock();
		const { precopy } = connect({ source, clock, parameters: { maxBandwidth: 1e6, downtimeLimit: 1 } });
		let seen: ReturnType<typeof precopy.statistics.info> | undefined;
		clock.onIdle = () => {
			if (clock.now() <= 3000) touch(source, 100);
			if (clock.now() === 3000) seen = precopy.statistics.info();
		};
		await precopy.run();
		expect(seen).toMatchObject({ status: 'active', 'total-time': 3000, ram: { 'page-size': 4096, skipped: 0 } });
		expect(seen?.ram?.mbps).toBeGreaterThan(7.5);
		expect(seen?.ram?.mbps).toBeLessThan(8.7);
		expect(seen?.ram?.['dirty-pages-rate']).toBeGreaterThan(0);
		expect(seen?.['expected-downtime']).toBeGreaterThan(0);
	});

	it('refuses blocks that are not whole pages, before anything runs', () => {
		const source = createFakeSource({ blocks: [{ idstr: 'x', usedLength: 4097 }] });
		const vm = { stop: async () => {}, devices: () => [] };
		const options = { source, vm, sink: createCollectingSink(), clock: createFakeClock(), machineType: 'none' };
		expect(() => createPrecopy({ ...options, dialect: 'qemu-7.2' })).toThrow("block 'x': expected a multiple of 4096");
	});

	it('carries the uuid and further subsections, and refuses a uuid of another length', async () => {
		const subsections = [{ name: 'configuration/target-page-bits', version: 1, data: Uint8Array.of(0, 0, 0, 12) }];
		const uuid = Uint8Array.from({ length: 16 }, (_, i) => i);
		const sink = createCollectingSink();
		await prepare({ sink, uuid, subsections }).precopy.run();
		const seen: string[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: {
				configuration: (configuration) => {
					for (const { name, data } of configuration.subsections) seen.push(`${name} ${toHex(data)}`);
				},
			},
		});
		reader.push(sink.bytes());
		expect(seen).toEqual([
			'configuration/uuid 000102030405060708090a0b0c0d0e0f',
			'configuration/target-page-bits 0000000c',
		]);
		expect(() => prepare({ sink, uuid: new Uint8Array(15) })).toThrow('uuid: expected 16 bytes, got 15');
	});

	it('writes no description when told not to, and one all the same for a hand-over', async () => {
		const sink = createCollectingSink();
		await prepare({ sink, vmDescription: false }).precopy.run();
		expect(read(sink.bytes())).toEqual({ description: false, trailing: 0 });
		const { precopy, loader } = connect({ vmDescription: false, returnPath: 'handover' });
		expect(await precopy.run()).toEqual({ status: 'completed' });
		expect(await loader.outcome).toMatchObject({ complete: true });
	});

	it('runs once', async () => {
		const { precopy } = connect();
		await precopy.run();
		expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'source' } });
	});

	it('has QEMU’s defaults', () => {
		expect(defaultParameters()).toEqual({ maxBandwidth: 128 * 1024 * 1024, downtimeLimit: 300 });
	});
});

describe('a migration of a confidential guest', () => {
	it('seals private pages in batches of at most 64, sends shared ones plain, and the list of them last', async () => {
		const source = filled(true);
		for (const page of [10, 11, 12, 99]) source.setPrivate(0, page, false);
		const { precopy, target, loader, sections } = connect({ source });
		expect(await precopy.run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, source.memory)).toBe(true);
		expect(source.sealer?.batches).toEqual([10, 62, 24, 33]);
		expect(target.opener.regions).toEqual([
			{ gfnStart: 10, gfnEnd: 13 },
			{ gfnStart: 99, gfnEnd: 100 },
		]);
		expect(loader.progress).toMatchObject({ privatePages: PAGES - 4, plainPages: 2 + 1, zeroPages: 1 });
		expect(sections).toMatchObject([
			{ type: 'part', pages: PAGES },
			{ type: 'end', pages: 0 },
		]);
	});

	it('sends a page again whose status flipped, both ways', async () => {
		const source = filled(true);
		source.setPrivate(0, 20, false);
		const clock = createFakeClock();
		const { precopy, target } = connect({ source, clock });
		let flipped = false;
		clock.onIdle = () => {
			if (flipped) return;
			flipped = true;
			source.setPrivate(0, 20, true);
			source.setPrivate(0, 21, false);
			source.write(0, 20 * PAGE_SIZE, Uint8Array.of(1, 2, 3));
			source.write(0, 21 * PAGE_SIZE, Uint8Array.of(4, 5, 6));
		};
		await precopy.run();
		expect(flipped).toBe(true);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
		expect(target.opener.regions).toEqual([{ gfnStart: 21, gfnEnd: 22 }]);
	});

	it('raises the downtime limit to 1000 ms when the bandwidth is first known, unless told not to', async () => {
		for (const [downtimeBump, expected] of [
			[undefined, 1000],
			[false, 300],
		] as const) {
			const parameters = { maxBandwidth: 1e6, downtimeLimit: 300 };
			const { precopy } = connect({
				source: filled(true),
				parameters,
				...(downtimeBump === undefined ? {} : { downtimeBump }),
			});
			await precopy.run();
			expect(parameters.downtimeLimit).toBe(expected);
		}
	});

	it('makes batches smaller while sealing 64 pages takes too long', async () => {
		const source = filled(true);
		const clock = createFakeClock(3);
		const { precopy } = connect({ source, clock });
		await precopy.run();
		expect(source.sealer?.batches.slice(0, 4)).toEqual([64, 32, 4, 8]);
	});

	it('fails with the sealer, at whichever page it fails, and the guest may resume', async () => {
		for (let failAt = 0; failAt < PAGES; failAt += 7) {
			const source = filled(true);
			if (source.sealer !== undefined) source.sealer.failAt = failAt;
			const { precopy, log } = connect({ source });
			const result = await precopy.run();
			expect(result).toMatchObject({ status: 'failed', stopped: false, mayResume: true });
			expect(result).toMatchObject({
				error: { name: 'PrecopyError', code: 'seal', cause: { message: /told to fail/ } },
			});
			expect(log.at(-1)).toBe('failed');
			expect(source.logging).toBe(false);
			expect(precopy.statistics.info()).toEqual({
				status: 'failed',
				'error-desc': expect.stringContaining('told to fail'),
			});
		}
	});

	it('fails when a page is private and the dialect or the source cannot carry it', async () => {
		const source = filled(true);
		const plain = connect({ source, dialect: 'qemu-7.2' });
		expect(await plain.precopy.run()).toMatchObject({ status: 'failed', error: { code: 'source' } });
		const { sealer: _, ...unsealed } = filled(true);
		const { precopy } = connect({ source: unsealed, dialect: 'sev-v4' });
		expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'source' } });
	});

	it('keeps at most three batches on their way, and reuses a buffer only when it has gone', async () => {
		const source = createFakeSource({
			blocks: [{ idstr: 'pc.ram', usedLength: 1000 * PAGE_SIZE }],
			confidential: true,
		});
		fillMemory(source);
		let allocations = 0;
		const sink = createCollectingSink({ manual: true });
		const counting = {
			...source,
			allocate: (bytes: number) => {
				allocations++;
				return source.allocate(bytes);
			},
		};
		const { precopy, log } = prepare({ source: counting, sink });
		const running = precopy.run();
		let most = 0;
		let ended = false;
		void running.then(() => {
			ended = true;
		});
		while (!ended) {
			// Let the engine go as far as it can before one write lands.
			for (let i = 0; i < 50; i++) await Promise.resolve();
			most = Math.max(most, sink.pending);
			sink.release();
		}
		expect(allocations).toBe(3);
		expect(most).toBeLessThanOrEqual(6);
		const { target, loader } = receive(source, log, () => {});
		loader.push(sink.bytes());
		expect(sameMemory(target.memory, source.memory)).toBe(true);
	});

	it('waits for a batch that lands after later writes', async () => {
		const blocks = [{ idstr: 'pc.ram', usedLength: 500 * PAGE_SIZE }];
		const source = createFakeSource({ blocks, confidential: true });
		fillMemory(source);
		const chunks: Uint8Array[] = [];
		let held: { index: number; chunk: Uint8Array; land: () => void } | undefined;
		const { precopy, log } = prepare({
			source,
			sink: {
				write(chunk) {
					chunks.push(chunk.slice());
					if (held !== undefined || chunk.length < 100000) return undefined;
					return new Promise<void>((land) => {
						held = { index: chunks.length - 1, chunk, land };
					});
				},
			},
		});
		const running = precopy.run();
		for (let i = 0; i < 1000; i++) await Promise.resolve();
		expect(source.sealer?.batches).toEqual([64, 64, 64]);
		// Only now does the sink look at what it was given.
		if (held !== undefined) chunks[held.index] = held.chunk.slice();
		held?.land();
		expect(await running).toEqual({ status: 'completed' });
		const { target, loader } = receive(source, log, () => {});
		for (const chunk of chunks) loader.push(chunk);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
	});
});
