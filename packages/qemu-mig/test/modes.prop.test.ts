import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { Loader } from '../src/index.js';
import { createFakeClock, createFakeSource, createFakeTarget } from '../src/testing.js';
import { fillMemory, prepare, receive, sameMemory, TWO_BLOCKS } from './migration.js';

const write = fc.record({
	block: fc.nat(1),
	page: fc.nat(32),
	offset: fc.nat(4088),
	/** 0 makes the page zero. */
	byte: fc.nat(3),
	length: fc.constantFrom(1, 8, PAGE_SIZE),
});

const setup = fc.record({
	mode: fc.constantFrom('xbzrle' as const, 'compress' as const, 'both' as const, 'helper' as const),
	xbzrleCacheSize: fc.constantFrom(PAGE_SIZE, 16 * PAGE_SIZE, 1024 * PAGE_SIZE),
	maxBandwidth: fc.constantFrom(0, 50_000, 400_000, 5_000_000),
	downtimeLimit: fc.constantFrom(0, 1, 50),
	autoConverge: fc.boolean(),
	passes: fc.array(fc.array(write, { maxLength: 10 }), { maxLength: 12 }),
	cut: fc.option(fc.nat(700_000)),
});

describe('a guest that keeps writing', () => {
	test.prop([setup], { numRuns: 60 })(
		'has the same memory on the target in every mode, or stays when cut',
		async (o) => {
			const { mode, xbzrleCacheSize, maxBandwidth, downtimeLimit, autoConverge, cut } = o;
			const memory = createFakeSource({ blocks: TWO_BLOCKS, confidential: mode === 'helper' ? 'helper' : false });
			fillMemory(memory);
			const dialect = mode === 'helper' ? 'mh-v1' : 'qemu-7.2';
			const passes = o.passes.values();
			// The guest acts right before the log is read: all it does then is sent in the pass that follows.
			const source = {
				...memory,
				syncDirty(block: number, into: Uint32Array) {
					for (const act of (block === 0 && passes.next().value) || []) {
						const at =
							act.page * PAGE_SIZE + (act.length === PAGE_SIZE ? 0 : Math.min(act.offset, PAGE_SIZE - act.length));
						memory.write(act.block, at, new Uint8Array(act.length).fill(act.byte));
					}
					memory.syncDirty(block, into);
				},
			};
			let loader: Loader | undefined;
			let left = cut ?? Number.POSITIVE_INFINITY;
			const { precopy, log } = prepare({
				source,
				dialect,
				clock: createFakeClock(0.3),
				returnPath: 'return-path',
				capabilities: {
					xbzrle: mode === 'xbzrle' || mode === 'both',
					compress: mode === 'compress' || mode === 'both',
					autoConverge,
				},
				parameters: { maxBandwidth, downtimeLimit, xbzrleCacheSize },
				vm: { stop: async () => {}, devices: () => [], throttle: () => {} },
				sink: {
					write(chunk) {
						const part = chunk.subarray(0, left);
						left -= part.length;
						loader?.push(part);
						if (part.length < chunk.length) throw new Error('cut');
					},
				},
			});
			const target = createFakeTarget(TWO_BLOCKS);
			const { opener: _, ...sink } = target;
			const answer = (message: Uint8Array): void => queueMicrotask(() => precopy.returnPath.push(message));
			loader = receive(source, log, answer, { dialect, sink, compress: true }).loader;
			const result = await precopy.run();
			if (result.status === 'completed') {
				expect(sameMemory(target.memory, source.memory)).toBe(true);
				return;
			}
			expect(result).toMatchObject({ status: 'failed', error: { code: 'sink' } });
			expect(thrownBy(() => loader?.end())).toBe(!log.includes('finish'));
		},
	);
});

function thrownBy(work: () => void): boolean {
	try {
		work();
		return false;
	} catch {
		return true;
	}
}
