import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { createFakeClock, createFakeSource } from '../src/testing.js';
import { connect, fillMemory, sameMemory, TWO_BLOCKS } from './migration.js';

/** What the guest does whenever the engine lets it run. */
const action = fc.oneof(
	fc.record({
		kind: fc.constant('write' as const),
		block: fc.nat(1),
		page: fc.nat(32),
		offset: fc.nat(8000),
		byte: fc.nat(255),
	}),
	fc.record({
		kind: fc.constant('flip' as const),
		block: fc.nat(1),
		page: fc.nat(32),
		isPrivate: fc.boolean(),
		byte: fc.nat(255),
	}),
);

const workload = fc.record({
	confidential: fc.boolean(),
	zeroEvery: fc.integer({ min: 2, max: 9 }),
	shared: fc.array(fc.nat(99), { maxLength: 40 }),
	turns: fc.array(fc.array(action, { maxLength: 12 }), { maxLength: 40 }),
	maxBandwidth: fc.constantFrom(0, 200_000, 1_000_000, 5_000_000),
	downtimeLimit: fc.constantFrom(0, 10, 300),
	perReading: fc.constantFrom(0, 0.3, 5),
	mode: fc.constantFrom('none' as const, 'return-path' as const, 'handover' as const),
});

describe('a guest that keeps writing', () => {
	test.prop([workload], { numRuns: 40 })(
		'has the same memory on the target as on the source when it stopped',
		async (w) => {
			const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: w.confidential });
			fillMemory(source, w.zeroEvery);
			for (const page of w.shared) source.setPrivate(0, page, false);
			const clock = createFakeClock(w.perReading);
			const parameters = { maxBandwidth: w.maxBandwidth, downtimeLimit: w.downtimeLimit };
			const { precopy, target, loader, log } = connect({ source, clock, parameters, returnPath: w.mode });
			const turns = w.turns.values();
			clock.onIdle = () => {
				if (log.includes('stop')) return;
				for (const act of turns.next().value ?? []) {
					const at = act.page * PAGE_SIZE;
					if (act.kind === 'flip') {
						source.setPrivate(act.block, act.page, act.isPrivate);
						source.write(act.block, at, new Uint8Array(16).fill(act.byte));
					} else source.write(act.block, at + Math.min(act.offset, PAGE_SIZE - 8), new Uint8Array(8).fill(act.byte));
				}
			};
			expect(await precopy.run()).toEqual({ status: 'completed' });
			expect(sameMemory(target.memory, source.memory)).toBe(true);
			expect(await loader.outcome).toMatchObject({ status: 'running', complete: true });
			expect(target.opener.regions).toEqual(w.confidential ? source.sealer?.sharedRegions() : undefined);
		},
	);
});
