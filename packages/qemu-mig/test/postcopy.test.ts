import { PAGE_SIZE, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import type { PageHelper } from '../src/index.js';
import { createLoader, StreamReader } from '../src/index.js';
import { createCollectingSink, createFakeSource, createFakeTarget } from '../src/testing.js';
import { fillMemory, prepare, sameMemory, TWO_BLOCKS } from './migration.js';
import { postcopy } from './postcopy-link.js';

describe('postcopy', () => {
	it('moves the guest first and its memory later, in QEMU’s order of statuses', async () => {
		const { run, log, statuses, precopy, target, expected, loader } = postcopy();
		expect(await run()).toEqual({ status: 'completed' });
		expect(log).toEqual([
			'setup',
			'pass 1',
			'active',
			'postcopy-active',
			'stop',
			'pass 2',
			'devices',
			'finish',
			'completed',
		]);
		expect(statuses).toEqual(['postcopy-active', 'completed']);
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(await loader.outcome).toEqual({ status: 'running', complete: true, missing: [] });
		const { ram } = precopy.statistics.info();
		expect(ram).toMatchObject({ remaining: 0, 'dirty-sync-count': 2, 'postcopy-requests': 0, 'downtime-bytes': 0 });
		expect(ram?.transferred).toBe((ram?.['precopy-bytes'] ?? 0) + (ram?.['postcopy-bytes'] ?? 0));
		expect(ram?.['postcopy-bytes']).toBeGreaterThan(80 * PAGE_SIZE);
	});

	it('writes the elements that QEMU writes, in its order', async () => {
		const source = createFakeSource({ blocks: TWO_BLOCKS });
		fillMemory(source);
		const sink = createCollectingSink();
		const { precopy, clock } = prepare({
			source,
			sink,
			capabilities: { postcopyRam: true },
			returnPath: 'return-path',
			parameters: { maxBandwidth: 600_000, downtimeLimit: 1 },
		});
		clock.advance(0);
		const ended = precopy.run();
		precopy.startPostcopy();
		while (sink.bytes().at(-1) !== 0 || precopy.statistics.remaining > 0)
			await new Promise((done) => setImmediate(done));
		precopy.returnPath.push(Uint8Array.of(0, 1, 0, 4, 0, 0, 0, 0));
		expect(await ended).toEqual({ status: 'completed' });
		const elements: string[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			check: 'target',
			handler: {
				command: (command, data) => elements.push(`${command} ${toHex(data)}`),
				sectionBegin: ({ idstr, type }) => {
					const name = `${idstr} ${type}`;
					if (elements.at(-1) !== name) elements.push(name);
				},
				packageBegin: () => elements.push('{'),
				packageEnd: () => elements.push('}'),
				eof: () => elements.push('eof'),
			},
		});
		reader.push(sink.bytes());
		expect(reader.end()).toEqual({ description: false, trailing: 0 });
		const discard = (name: string, length: number): string => {
			const bytes = new TextEncoder().encode(name);
			const hex = length.toString(16).padStart(16, '0');
			return `6 00${toHex(Uint8Array.of(bytes.length))}${toHex(bytes)}00${'0'.repeat(16)}${hex}`;
		};
		expect(elements).toEqual([
			'1 ',
			'2 00000001',
			'3 00000000000010000000000000001000',
			'ram 1',
			discard('pc.ram', 100 * PAGE_SIZE),
			discard('pc.bios', 33 * PAGE_SIZE),
			'2 00000002',
			expect.stringMatching(/^7 /),
			'{',
			'4 ',
			'timer 4',
			'cpu 4',
			'2 00000003',
			'5 ',
			'}',
			'2 00000004',
			'ram 2',
			'ram 3',
			'eof',
		]);
	});

	it('sends a page that the guest waits for before the others, and goes on behind it', async () => {
		const order: number[] = [];
		const parameters = { maxBandwidth: 600_000, downtimeLimit: 1, maxPostcopyBandwidth: 200_000 };
		const { run, target, waiting, precopy, loader } = postcopy({
			source: { parameters },
			writes: [
				{ block: 0, page: 90, byte: 1 },
				{ block: 1, page: 5, byte: 2 },
				{ block: 1, page: 30, byte: 3 },
			],
		});
		const { onPlaced } = target;
		target.onPlaced = (block, address, length) => {
			order.push(block * 1000 + address / PAGE_SIZE);
			onPlaced(block, address, length);
		};
		expect(await run()).toEqual({ status: 'completed' });
		for (const page of [90, 1005, 1030]) expect(order.indexOf(page)).toBeLessThan(30);
		expect(order[order.indexOf(1030) + 1]).toBe(1031);
		expect(waiting).toEqual([]);
		expect(precopy.statistics.info().ram?.['postcopy-requests']).toBe(3);
		expect(loader.fault(0, 0)).toBe(false);
	});

	it('asks once for a host page however often the guest stumbles over it', async () => {
		const blocks = [{ idstr: 'pc.ram', usedLength: 64 * PAGE_SIZE, pageSize: 16 * PAGE_SIZE }];
		const placed: string[] = [];
		const writes = [33, 34, 47].map((page) => ({ block: 0, page, byte: page }));
		const { run, target, precopy, expected } = postcopy({ blocks, writes });
		const { onPlaced } = target;
		target.onPlaced = (block, address, length) => {
			placed.push(`${address / PAGE_SIZE}+${length / PAGE_SIZE}`);
			onPlaced(block, address, length);
		};
		expect(await run()).toEqual({ status: 'completed' });
		// Never in parts.
		expect([...placed].sort()).toEqual(['0+16', '16+16', '32+16', '48+16']);
		expect(precopy.statistics.info().ram?.['postcopy-requests']).toBeLessThanOrEqual(1);
		expect(sameMemory(target.memory, expected)).toBe(true);
	});

	it('discards what changed since it was sent, twelve runs per command', async () => {
		const { run, target, expected, precopy } = postcopy({ turns: 8 });
		expect(await run()).toEqual({ status: 'completed' });
		expect(precopy.statistics.info().ram?.['precopy-bytes']).toBeGreaterThan(20 * PAGE_SIZE);
		expect(sameMemory(target.memory, expected)).toBe(true);
	});

	it('does not happen when all is sent before the guest would move', async () => {
		const { run, log } = postcopy({ source: { parameters: { maxBandwidth: 0, downtimeLimit: 300 } }, turns: 50 });
		expect(await run()).toEqual({ status: 'completed' });
		expect(log).not.toContain('postcopy-active');
	});

	it('cannot be cancelled, and is only begun where it was announced', async () => {
		const { run, precopy, clock, log } = postcopy();
		const cancelled: boolean[] = [];
		const { onIdle } = clock;
		clock.onIdle = () => {
			onIdle();
			if (log.includes('finish')) cancelled.push(precopy.cancel());
		};
		expect(await run()).toEqual({ status: 'completed' });
		expect(new Set(cancelled)).toEqual(new Set([false]));
		expect(prepare({ sink: createCollectingSink() }).precopy.startPostcopy()).toBe(false);
	});

	it('gives pages back when release-ram is on, none of which the target then lacks', async () => {
		const capabilities = { postcopyRam: true, releaseRam: true };
		const { run, source, target, expected } = postcopy({ source: { capabilities }, turns: 4 });
		expect(await run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, expected)).toBe(true);
		const count = source.released.reduce((sum, run) => sum + Number(run.split('+')[1]), 0);
		expect(count).toBe(133);
	});

	it('works for pages that the helper inside the guest opens', async () => {
		const writes = [80, 81, 99].map((page) => ({ block: 0, page, byte: page }));
		const { run, target, expected, source } = postcopy({ helper: true, writes, turns: 2 });
		expect(await run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(target.helper.opened).toBe(source.helper?.sealed);
		expect(target.helper.opened).toBeGreaterThanOrEqual(133);
	});

	it('works for a helper that gives its pages late', async () => {
		const writes = [80, 81, 99].map((page) => ({ block: 0, page, byte: page }));
		const { run, target, expected, source } = postcopy({ helper: true, writes, turns: 2 });
		const helper: (PageHelper & { sealed: number }) | undefined = source.helper;
		const late: (() => void)[] = [];
		const seal = helper?.seal.bind(helper);
		if (helper === undefined || seal === undefined) throw new Error('expected a helper');
		helper.seal = (block, pages, count, emit) => {
			const asked = pages.slice(0, count);
			late.push(() => seal(block, asked, count, emit));
			while (late.length > 10) late.shift()?.();
		};
		helper.flush = () => {
			for (const emit of late.splice(0)) emit();
		};
		expect(await run()).toEqual({ status: 'completed' });
		expect(sameMemory(target.memory, expected)).toBe(true);
		expect(target.helper.opened).toBe(helper.sealed);
		expect(helper.sealed).toBeGreaterThanOrEqual(133);
	});

	it('fails for good when the guest cannot start on the target', async () => {
		const finish = () => Promise.reject(new Error('no KVM'));
		const { run, loader } = postcopy({ target: { finish } });
		expect(await run()).toMatchObject({ status: 'failed', mayResume: false, error: { code: 'target' } });
		expect(await loader.outcome).toMatchObject({ status: 'failed', error: { code: 'finish' } });
	});

	it('is refused for pages sealed by SEV firmware, on either side, with the reason', () => {
		const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: true });
		const capabilities = { postcopyRam: true };
		const reason = /RECEIVE_UPDATE_DATA is not allowed after RECEIVE_FINISH/;
		expect(() => prepare({ source, sink: createCollectingSink(), capabilities, returnPath: 'return-path' })).toThrow(
			reason,
		);
		const sink = { ...createFakeTarget(TWO_BLOCKS), helper: undefined };
		const { helper: _, ...psp } = sink;
		const common = {
			dialect: 'sev-v4',
			machineType: 'none',
			device: () => 'loaded' as const,
			finish: () => {},
		} as const;
		const reply = createCollectingSink();
		expect(() => createLoader({ ...common, sink: psp, reply, postcopy: createFakeTarget([]).postcopy })).toThrow(
			reason,
		);
	});
});
