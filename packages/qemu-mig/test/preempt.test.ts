import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createLoader } from '../src/index.js';
import { createCollectingSink, createFakeTarget } from '../src/testing.js';
import { prepare, sameMemory, TWO_BLOCKS } from './migration.js';
import { HUGE, MOVE, postcopy } from './postcopy-link.js';

const SLOW = { maxBandwidth: 600_000, downtimeLimit: 1, maxPostcopyBandwidth: 200_000 };
const WRITES = [
	{ block: 0, page: 90, byte: 1 },
	{ block: 1, page: 5, byte: 2 },
	{ block: 1, page: 30, byte: 3 },
];
describe('postcopy-preempt', () => {
	it('sends what is asked for on the second connection, and the walk goes on where it was', async () => {
		const order: number[] = [];
		const { run, target, expected, waiting, precopy, loader, links } = postcopy({
			source: { parameters: SLOW },
			preempt: {},
			writes: WRITES,
		});
		const { onPlaced } = target;
		target.onPlaced = (block, address, length) => {
			order.push(block * 1000 + address / PAGE_SIZE);
			onPlaced(block, address, length);
		};
		expect(await run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(waiting).toEqual([]);
		for (const page of [90, 1005, 1030]) expect(order.indexOf(page)).toBeLessThan(30);
		// Without the second connection 1031 would come next.
		expect(order[order.indexOf(1030) + 1]).not.toBe(1031);
		expect(precopy.statistics.urgentPages).toBe(3);
		// Page 90 and 1005 with their blocks' names, of which page 90 is one of zeros; 1030 too; EOS.
		const zero = 8 + 1;
		expect(links[0]?.urgentBytes).toBe(zero + 7 + zero + 8 + zero + 8);
		const { ram } = precopy.statistics.info();
		expect(ram?.transferred).toBe((ram?.['precopy-bytes'] ?? 0) + (ram?.['postcopy-bytes'] ?? 0));
		const { plainPages, zeroPages } = loader.progress;
		expect(plainPages + zeroPages).toBe(precopy.statistics.plainPages + precopy.statistics.zeroPages);
		expect(await loader.outcome).toEqual({ status: 'running', complete: true, missing: [] });
	});

	it('does not run out of host pages half of which came on each connection', async () => {
		const writes = [33, 34, 47, 80].map((page) => ({ block: 0, page, byte: page }));
		const { run, target, expected, precopy } = postcopy({
			blocks: HUGE,
			writes,
			preempt: {},
			source: { parameters: SLOW },
		});
		expect(await run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(precopy.statistics.urgentPages % 16).toBe(0);
		expect(precopy.statistics.urgentPages).toBeGreaterThan(0);
	});

	it('pauses when only the second connection breaks, and recovers with a new pair', async () => {
		const { run, log, target, expected, waiting, links } = postcopy({
			source: { parameters: SLOW },
			preempt: { cuts: [5, 20] },
			writes: [...WRITES, { block: 0, page: 71, byte: 9 }, { block: 0, page: 97, byte: 9 }],
		});
		expect(await run()).toEqual({ status: 'completed' });
		expect(links.length).toBeGreaterThan(1);
		expect(log).toContain('postcopy-recover');
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(waiting).toEqual([]);
	});

	it('is not over before both connections have said so', async () => {
		// The end of records is cut: the target cannot know that nothing is missing.
		const { run, log, links, loader } = postcopy({ preempt: { cuts: [7] } });
		expect(await run()).toEqual({ status: 'completed' });
		expect(log).toContain('postcopy-paused');
		expect(links.map(({ urgentBytes }) => urgentBytes)).toEqual([7, 8]);
		expect(await loader.outcome).toMatchObject({ status: 'running', complete: true });
	});

	it('is refused without postcopy-ram, and where the second connection is missing', () => {
		const sink = createCollectingSink();
		const urgent = createCollectingSink();
		const both = { postcopyRam: true, postcopyPreempt: true };
		const options = { sink, returnPath: 'return-path' } as const;
		expect(() => prepare({ ...options, capabilities: { postcopyPreempt: true }, urgent })).toThrow(
			'Postcopy preempt requires postcopy-ram',
		);
		expect(() => prepare({ ...options, capabilities: both })).toThrow(/expected one .* got none/);
		expect(() => prepare({ ...options, capabilities: { postcopyRam: true }, urgent })).toThrow(/expected none/);
		expect(() => prepare({ ...options, capabilities: both, urgent }).precopy.recover(sink)).toThrow(/expected one/);
		const target = createFakeTarget(TWO_BLOCKS);
		const common = { sink: target, dialect: 'qemu-7.2', machineType: 'none', finish: () => {} } as const;
		const device = () => 'loaded' as const;
		expect(() => createLoader({ ...common, device, preempt: true })).toThrow('Postcopy preempt requires postcopy-ram');
		expect(() => createLoader({ ...common, device }).urgent()).toThrow(/expected option preempt/);
	});

	it('refuses records that postcopy has none of, and pauses', async () => {
		const { run, loader, statuses, clock, links, log } = postcopy({ preempt: {}, source: { parameters: SLOW } });
		const { onIdle } = clock;
		let sent = false;
		clock.onIdle = () => {
			onIdle();
			if (sent || !log.includes('finish')) return;
			sent = true;
			// XBZRLE, with CONTINUE before any name.
			links[0]?.urgent.write(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x60));
			links[0]?.cut();
		};
		expect(await run()).toEqual({ status: 'completed' });
		expect(statuses).toContain('postcopy-paused');
		expect(loader.progress.warnings.join()).toMatch(/got CONTINUE|got flags 0x60/);
	});
});

const setup = fc.record({
	...MOVE,
	cuts: fc.array(fc.nat(600_000), { maxLength: 3 }),
	urgentCuts: fc.array(fc.nat(60_000), { maxLength: 3 }),
});

describe('a guest that moves by postcopy with urgent pages apart', () => {
	test.prop([setup], { numRuns: 60 })(
		'ends with its memory and its own writes, or stays, wherever either connection is cut',
		async (o) => {
			const { helper, huge, releaseRam, turns, maxPostcopyBandwidth, writes, cuts, urgentCuts } = o;
			const { run, target, expected, waiting, loader, log } = postcopy({
				helper,
				blocks: huge && !helper ? HUGE : TWO_BLOCKS,
				turns,
				writes,
				cuts,
				preempt: { cuts: urgentCuts },
				source: {
					capabilities: { postcopyRam: true, releaseRam },
					parameters: { maxBandwidth: 600_000, downtimeLimit: 1, maxPostcopyBandwidth },
				},
			});
			const result = await run();
			if (result.status === 'completed') {
				expect(await loader.outcome).toMatchObject({ status: 'running' });
				if (expected.length > 0) expect(sameMemory(target.memory, expected)).toBe(true);
				expect(waiting).toEqual([]);
				return;
			}
			const lost = result.status === 'failed' && result.error.message.startsWith('release-ram');
			expect(log.includes('finish')).toBe(lost);
			expect([...cuts, ...urgentCuts]).not.toEqual([]);
		},
	);
});
