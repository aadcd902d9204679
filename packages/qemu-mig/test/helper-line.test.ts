import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import type { PageHelper, PrecopyOptions } from '../src/index.js';
import { createLoader, createPrecopy, MAX_HELPER_MESSAGE, ReturnMessage, StreamReader } from '../src/index.js';
import { createCollectingSink, createFakeClock, createFakeSource, createFakeTarget } from '../src/testing.js';
import { helperLink } from './helper-link.js';
import { connect, TWO_BLOCKS } from './migration.js';
import { thrown } from './streams.js';

describe('the line between helpers', () => {
	const simple = (o: Partial<PageHelper>): PageHelper => ({ seal: () => {}, ...o });
	const options = (helper: PageHelper, o: Partial<PrecopyOptions> = {}): PrecopyOptions => {
		const { helper: _, sealer: __, ...source } = createFakeSource({ blocks: TWO_BLOCKS, confidential: 'helper' });
		return {
			source: { ...source, helper },
			vm: { stop: async () => {}, devices: () => [] },
			sink: { write: () => {} },
			clock: createFakeClock(),
			dialect: 'mh-v2',
			machineType: 'none',
			returnPath: 'handover',
			...o,
		};
	};

	it.each<[string, Partial<PrecopyOptions>]>([
		["helper session: expected returnPath 'handover', got 'none'", { returnPath: 'none' }],
		['multifd: expected it without a session of in-guest helpers', { multifd: { sinks: [{ write: () => {} }] } }],
		[
			'postcopy-ram: expected it without a session of in-guest helpers',
			{ capabilities: { postcopyRam: true }, returnPath: 'return-path' },
		],
	])('needs a hand-over on one connection: %s', (message, o) => {
		const helper = simple({ open: async () => {} });
		expect(() => createPrecopy(options(helper, o))).toThrow(message);
		// Where the dialect has no helper, there is no session either.
		if (!('multifd' in o)) expect(() => createPrecopy(options(helper, { ...o, dialect: 'sev-v4' }))).not.toThrow();
	});

	it.each([0, 1.5, 1025])('takes no batches of %d pages', (batchPages) => {
		expect(() => createPrecopy(options(simple({ batchPages })))).toThrow('helper: expected batches of 1 to 1024 pages');
	});

	it.each<[string, Partial<PageHelper>]>([
		['header', { seal: (b, p, _count, emit) => emit(b, p[0] ?? 0, new Uint8Array(1025), new Uint8Array(PAGE_SIZE)) }],
		['one of a block', { seal: (_b, _p, _count, emit) => emit(7, 0, new Uint8Array(1), new Uint8Array(PAGE_SIZE)) }],
		['one of a block', { seal: (_b, _p, _count, emit) => emit(0, 100, new Uint8Array(1), new Uint8Array(PAGE_SIZE)) }],
		['4096 bytes', { seal: (_b, _p, _count, emit) => emit(0, 0, new Uint8Array(1), new Uint8Array(PAGE_SIZE - 1)) }],
	])('takes no record that is none: %s', async (text, helper) => {
		const result = await createPrecopy(options(simple(helper))).run();
		expect(result).toMatchObject({ status: 'failed', error: { code: 'seal', message: expect.stringContaining(text) } });
	});

	it('takes messages inside hooks only, and no longer ones than fit', async () => {
		const errors: unknown[] = [];
		let late: (() => void) | undefined;
		const helper = simple({
			open: async (peer) => {
				errors.push(thrown(() => peer.send(new Uint8Array(MAX_HELPER_MESSAGE + 1))));
				peer.send(new Uint8Array(MAX_HELPER_MESSAGE));
				late = () => peer.send(new Uint8Array(1));
			},
			freeze: () => {
				throw new Error('enough');
			},
			seal: () => errors.push(thrown(() => late?.())),
		});
		const sink = createCollectingSink();
		await createPrecopy(options(helper, { sink })).run();
		expect(errors[0]).toMatchObject({ message: 'helper message: expected at most 60000 bytes, got 60001' });
		expect(errors[1]).toMatchObject({ message: 'helper message: expected it inside a hook, got it outside' });
		expect(sink.length).toBeGreaterThan(MAX_HELPER_MESSAGE);
	});

	it('is not there without a session, but the hooks are', async () => {
		const seen: string[] = [];
		const helper = simple({
			batchPages: 64,
			epoch: () => seen.push('epoch'),
			freeze: () => seen.push('freeze'),
			prove: async (peer) => {
				seen.push(String(thrown(() => peer.send(new Uint8Array(1)))));
			},
			failed: () => seen.push('failed'),
		});
		expect(await createPrecopy(options(helper, { returnPath: 'none' })).run()).toEqual({ status: 'completed' });
		expect(seen).toEqual(['epoch', 'freeze', 'RangeError: helper message: expected a helper with a session, got none']);
	});

	it('bounds what a target may send unasked', async () => {
		const clock = createFakeClock();
		const precopy = createPrecopy(options(simple({ open: async () => {} }), { clock }));
		clock.onIdle = () => precopy.returnPath.push(Uint8Array.of(0x43, 0x57, 0, 1, 0));
		const flood = async () => {
			const running = precopy.run();
			for (let i = 0; i < 65; i++) precopy.returnPath.push(Uint8Array.of(0x43, 0x57, 0, 1, 0));
			return running;
		};
		expect(await flood()).toMatchObject({
			error: { code: 'return-path', message: expect.stringContaining('more than 64 messages') },
			mayResume: true,
		});
	});

	it('is refused by a target whose helper takes no messages, and by one without a hand-over', async () => {
		const { precopy, source } = helperLink();
		const sink = createCollectingSink();
		const toFile = createPrecopy({
			...options(source.helper),
			sink,
			source,
			clock: createFakeClock(),
		});
		const running = toFile.run();
		for (let i = 0; i < 20; i++) await Promise.resolve();
		toFile.cancel();
		await running;
		expect(precopy.statistics.passes).toBe(0);
		const load = (handover: boolean, helper: object) =>
			createLoader({
				sink: { ...createFakeTarget(source.blocks), ...helper },
				dialect: 'mh-v2',
				machineType: 'none',
				handover,
				reply: { write: () => {} },
				device: () => 'loaded',
				finish: () => {},
			});
		const bytes = sink.bytes();
		expect(thrown(() => load(true, {}).push(bytes))).toMatchObject({
			code: 'command',
			message: expect.stringContaining('HELPER_MESSAGE: expected none'),
		});
		// The dialect of a guest without helper does not know the command.
		const reader = new StreamReader({ dialect: 'sev-v4', handler: {}, check: 'target' });
		expect(thrown(() => reader.push(bytes))).toMatchObject({
			code: 'command',
			qemu: ['MIG_CMD 0x4357 unknown (len 0x5)'],
		});
	});

	it('carries a simple helper’s pages in any mode, as before', async () => {
		const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: 'helper' });
		for (const returnPath of ['none', 'return-path', 'handover'] as const) {
			const { precopy, target, loader } = connect({ source, dialect: 'mh-v2', returnPath }, { dialect: 'mh-v2' });
			expect(await precopy.run()).toEqual({ status: 'completed' });
			expect(await loader.outcome).toMatchObject({ status: 'running' });
			expect(target.helper.opened).toBe(133);
		}
		expect(ReturnMessage.helperMessage).toBe(0x4357);
	});
});
