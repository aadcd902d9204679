import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { bytesSource, createMemoryStore, diffImages, openImage, salvage, verifyStream } from '../src/image.js';
import { Command, StreamReader } from '../src/index.js';
import { createFakeClock } from '../src/testing.js';
import type { LinkOptions } from './helper-link.js';
import { helperLink } from './helper-link.js';
import { relayed, thrown } from './streams.js';

/** The log without runs of the same. */
const brief = (log: readonly string[]): string[] => log.filter((entry, i) => entry !== log[i - 1]);

/** A clock whose migration dirties pages until `periods` are over: several epochs. */
function rounds(o: LinkOptions, periods = 12, pages = 60) {
	const clock = createFakeClock();
	const parameters = { maxBandwidth: 20 * (PAGE_SIZE + 100) * 10, downtimeLimit: 200 };
	const link = helperLink({ ...o, clock, parameters });
	let before = 0;
	clock.onIdle = () => {
		if (clock.sleeps.length === before) return;
		before = clock.sleeps.length;
		const many = before < periods ? pages : before === periods ? 5 : 0;
		for (let page = 0; page < many; page++) link.source.write(0, page * PAGE_SIZE, Uint8Array.of(before, page));
	};
	return link;
}

describe('a session of in-guest helpers', () => {
	it('has its hooks at the places of the protocol', async () => {
		const { run, log, helper, source, same } = helperLink();
		const { result, outcome } = await run();
		expect(result).toEqual({ status: 'completed' });
		expect(outcome).toMatchObject({ status: 'running', complete: true });
		expect(brief(log)).toEqual([
			...['pass', 'open', 'seal', 'stop', 'flush', 'pass', 'epoch', 'freeze', 'prove', 'devices'],
			...['host commit', 'commit', 'conclude', 'finish'].sort((a, b) => log.indexOf(a) - log.indexOf(b)),
		]);
		// RUNNING answers START, so that the target may be running before the source waits for it.
		expect(log.indexOf('commit')).toBeLessThan(log.indexOf('finish'));
		expect(helper.log).toEqual(['HELLO', 'CONFIRM', 'EPOCH', 'MANIFEST', 'START']);
		expect([source.helper.state, helper.state]).toEqual(['retired', 'owner']);
		expect([source.helper.failures, helper.failures]).toEqual([0, 0]);
		expect(same()).toBe(true);
	});

	it.each<LinkOptions>([
		{ batchPages: 1 },
		{ batchPages: 64 },
		{ batchPages: 64, depth: 100 },
		{ batchPages: 200, depth: 64, dialect: 'mh-v1' },
	])('sends every page of every epoch, however many at once and however late: %o', async (o) => {
		const { run, log, helper, source, same } = rounds(o);
		expect((await run()).result).toEqual({ status: 'completed' });
		expect(same()).toBe(true);
		const epochs = helper.log.filter((word) => word === 'EPOCH').length;
		expect(epochs).toBeGreaterThan(2);
		expect(epochs).toBe(log.filter((entry) => entry === 'pass').length - 1);
		expect(Math.max(...source.helper.batches)).toBeLessThanOrEqual(o.batchPages ?? 1);
		if ((o.batchPages ?? 1) > 1) expect(Math.max(...source.helper.batches)).toBeGreaterThan(1);
		expect(log.lastIndexOf('freeze')).toBe(log.lastIndexOf('epoch') + 1);
	});

	it('asks for as many pages at once as several helpers take, of one block each time', async () => {
		const { run, source } = helperLink({ batchPages: 200, blocks: [300, 150] });
		await run();
		expect(source.helper.batches).toEqual([200, 100, 100, 50]);
	});

	it('makes batches smaller when they take long', async () => {
		const { run, source, clock } = helperLink({ batchPages: 64, blocks: [300] });
		const seal = source.helper.seal.bind(source.helper);
		source.helper.seal = (...args) => {
			clock.advance(args[2] / 8);
			seal(...args);
		};
		await run();
		expect(source.helper.batches.slice(0, 5)).toEqual([64, 32, 16, 16, 16]);
	});

	it('respects the bandwidth within a batch', async () => {
		const { run, source } = helperLink({
			batchPages: 64,
			clock: createFakeClock(),
			parameters: { maxBandwidth: 10 * PAGE_SIZE * 10, downtimeLimit: 0 },
		});
		await run();
		expect(Math.max(...source.helper.batches)).toBeLessThan(13);
	});

	it('leaves out pages that stay here', async () => {
		const { run, source, target } = helperLink({ batchPages: 64 });
		source.omits = (block, page) => block === 0 && page >= 10 && page < 20;
		expect((await run()).result).toEqual({ status: 'completed' });
		const kept = target.memory[0]?.subarray(10 * PAGE_SIZE, 20 * PAGE_SIZE);
		expect(kept?.every((byte) => byte === 0xee)).toBe(true);
		expect(target.memory[0]?.[20 * PAGE_SIZE]).toBe(1);
	});

	test.prop(
		[fc.integer({ min: 1, max: 150 }), fc.nat(200), fc.nat(20), fc.nat(90), fc.array(fc.nat(132), { maxLength: 30 })],
		{ numRuns: 30 },
	)(
		'has the same memory on the target, with shared pages between',
		async (batchPages, depth, periods, pages, shared) => {
			const link = rounds({ batchPages, depth }, periods, pages);
			for (const page of shared) link.source.setPrivate(page < 100 ? 0 : 1, (page % 100) % 33, false);
			expect((await link.run()).result).toEqual({ status: 'completed' });
			expect(link.same()).toBe(true);
		},
	);
});

describe('a refusal', () => {
	it.each(['open', 'seal', 'epoch', 'freeze', 'prove', 'commit'] as const)(
		'by the source’s helper in %s leaves the guest with the source',
		async (refuse) => {
			const { run, source, helper } = helperLink({ refuse });
			const { result, sourceRuns, targetRuns } = await run();
			const code = refuse === 'seal' ? 'seal' : 'helper';
			expect(result).toMatchObject({ status: 'failed', error: { code }, mayResume: true });
			expect([sourceRuns, targetRuns, source.helper.holdsGuest]).toEqual([true, false, true]);
			expect([source.helper.failures, source.helper.state]).toEqual([1, 'idle']);
			expect([helper.failures, helper.state]).toEqual([1, 'aborted']);
		},
	);

	it.each(['ACCEPT', 'READY'] as const)('of the answer %s leaves the guest with the source', async (refuseAnswer) => {
		const { run, source, helper } = helperLink({ refuseAnswer });
		const { result, targetRuns } = await run();
		expect(result).toMatchObject({ status: 'failed', error: { code: 'helper' }, mayResume: true });
		expect([targetRuns, source.helper.failures, helper.failures]).toEqual([false, 1, 1]);
	});

	it.each(['HELLO', 'CONFIRM', 'EPOCH', 'MANIFEST'])(
		'by the target’s helper of %s leaves the guest with the source',
		async (targetRefuses) => {
			const { run, source, helper } = helperLink({ targetRefuses });
			const { result, outcome } = await run();
			expect(result).toMatchObject({ status: 'failed', mayResume: true });
			expect(outcome).toMatchObject({ status: 'failed', error: { code: 'helper' } });
			expect([source.helper.state, source.helper.failures, helper.failures]).toEqual(['idle', 1, 1]);
		},
	);

	it('after START says that the guest is given up, and the helper is not told of a failure', async () => {
		for (const o of [{ refuseAnswer: 'RUNNING' }, { refuse: 'conclude' }] as const) {
			const { run, source } = helperLink(o);
			const { result, sourceRuns } = await run();
			expect(result).toMatchObject({ status: 'failed', error: { code: 'helper' }, mayResume: false });
			expect(result).toMatchObject({ error: { message: expect.stringMatching(/; the guest was given up$/) } });
			expect([sourceRuns, source.helper.failures]).toEqual([false, 0]);
		}
	});

	it('of START itself, proved by the target’s helper, gives the guest back', async () => {
		// The target takes the message apart and refuses it behind the source's back, so that nothing but its word comes.
		const { run, source, helper, loader } = helperLink();
		const message = helper.message.bind(helper);
		helper.message = (data, reply) => {
			if (new TextDecoder().decode(data) !== 'START') return message(data, reply);
			reply(new TextEncoder().encode('ABORT'));
			helper.state = 'aborted';
		};
		const { result, sourceRuns } = await run();
		expect(result).toMatchObject({ status: 'failed', error: { code: 'helper' }, mayResume: true });
		expect([sourceRuns, source.helper.state, source.helper.failures]).toEqual([true, 'idle', 0]);
		expect(loader.status).toBeDefined();
	});

	it('by the host’s own commit comes before the helper’s', async () => {
		const { run, source, helper } = helperLink({ commit: () => Promise.reject(new Error('no')) });
		expect((await run()).result).toMatchObject({ status: 'failed', error: { code: 'commit' }, mayResume: true });
		expect([source.helper.state, helper.state]).toEqual(['idle', 'aborted']);
	});

	it('to start the guest on the target is no way back', async () => {
		const { run, helper } = helperLink({ finish: () => Promise.reject(new Error('no')) });
		const { result, targetRuns } = await run();
		expect(result).toMatchObject({ status: 'failed', mayResume: false });
		expect([targetRuns, helper.failures]).toEqual([false, 1]);
	});
});

describe('a session that is cancelled or cut', () => {
	it.each(['HELLO', 'MANIFEST'])('ends while the source waits for the answer to %s', async (word) => {
		for (const how of ['cancel', 'closed', 'sink'] as const) {
			const link = helperLink();
			const { source, helper, precopy } = link;
			const message = helper.message.bind(helper);
			helper.message = (data, reply) => {
				if (!new TextDecoder().decode(data).startsWith(word)) return message(data, reply);
				if (how === 'sink') throw new Error('gone');
				queueMicrotask(() => (how === 'cancel' ? precopy.cancel() : precopy.returnPath.end()));
			};
			const { result, sourceRuns, targetRuns } = await link.run();
			expect(result.status, how).toBe(how === 'cancel' ? 'cancelled' : 'failed');
			expect([sourceRuns, targetRuns], how).toEqual([true, false]);
			expect([source.helper.failures, source.helper.state, helper.failures], how).toEqual([1, 'idle', 1]);
			expect(source.helper.log.at(-1)).toBe('failed');
		}
	});

	it('cannot be cancelled once the helper commits', async () => {
		const link = helperLink({ commit: () => expect(link.precopy.cancel()).toBe(false) });
		expect((await link.run()).result).toEqual({ status: 'completed' });
	});

	/** What becomes of a small migration to which something happens after so many turns. */
	const after = async (turns: number, happens: (link: ReturnType<typeof helperLink>) => void) => {
		const link = helperLink({ blocks: [2], batchPages: 4, commit: () => Promise.resolve() });
		const running = link.run();
		for (let i = 0; i < turns; i++) await Promise.resolve();
		happens(link);
		return { link, ...(await running) };
	};

	it('ends alike wherever it is cancelled: with the source, or not at all', async () => {
		const statuses = new Set<string>();
		for (let turns = 0, completed = 0; completed < 10; turns++) {
			let accepted = false;
			const { link, result, sourceRuns, targetRuns } = await after(turns, ({ precopy }) => {
				accepted = precopy.cancel();
			});
			expect(result.status, `turn ${turns}`).toBe(accepted ? 'cancelled' : 'completed');
			expect([sourceRuns, targetRuns], `turn ${turns}`).toEqual([accepted, !accepted]);
			expect(link.source.helper.failures, `turn ${turns}`).toBe(accepted ? 1 : 0);
			expect(link.source.helper.holdsGuest, `turn ${turns}`).toBe(accepted);
			statuses.add(result.status);
			if (!accepted) completed++;
		}
		expect(statuses.size).toBe(2);
	});

	it('never has two copies wherever the connection ends', async () => {
		let none = 0;
		for (let turns = 0, completed = 0; completed < 10; turns++) {
			const { link, result, sourceRuns, targetRuns } = await after(turns, ({ die }) => die());
			const { helper, source } = link;
			expect(sourceRuns && targetRuns, `turn ${turns}`).toBe(false);
			expect(source.helper.holdsGuest && helper.state === 'owner', `turn ${turns}`).toBe(false);
			expect(source.helper.failures, `turn ${turns}`).toBe(sourceRuns ? 1 : 0);
			expect(sourceRuns, `turn ${turns}`).toBe(source.helper.holdsGuest);
			if (!sourceRuns && !targetRuns) none++;
			if (result.status === 'completed') completed++;
		}
		expect(none).toBeLessThan(10);
	});

	const small = { blocks: [2], batchPages: 4 };
	const ends = async (o: LinkOptions) => {
		const link = helperLink({ ...small, ...o });
		link.source.setPrivate(0, 0, false);
		link.source.memory[0]?.fill(0, 0, PAGE_SIZE);
		const { sourceRuns, targetRuns, used } = await link.run();
		const { helper, source } = link;
		return { sourceRuns, targetRuns, used, helpers: [source.helper.holdsGuest, helper.state === 'owner'], source };
	};

	it('at any byte of the stream, leaves one copy: only losing the commit itself leaves none', async () => {
		const { used, targetRuns } = await ends({});
		expect(targetRuns).toBe(true);
		let none = 0;
		for (let forward = 0; forward <= used.forward; forward++) {
			const at = await ends({ forward });
			expect(at.sourceRuns && at.targetRuns, `${forward} bytes`).toBe(false);
			expect(at.helpers[0] && at.helpers[1], `${forward} bytes, helpers`).toBe(false);
			// A guest may only run where its helper says so.
			expect(at.sourceRuns ? at.helpers[0] : at.targetRuns ? at.helpers[1] : true, `${forward} bytes`).toBe(true);
			expect(at.source.helper.failures, `${forward} bytes`).toBe(at.sourceRuns ? 1 : 0);
			if (!at.sourceRuns && !at.targetRuns) none++;
		}
		// COMMAND 0x4357 with START, and COMMAND 0x4356.
		expect(none).toBe(10 + 5);
	}, 60_000);

	it('at any byte of the answers, never leaves two', async () => {
		const { used } = await ends({});
		for (let reverse = 0; reverse <= used.reverse; reverse++) {
			const at = await ends({ reverse });
			expect(at.sourceRuns && at.targetRuns, `${reverse} bytes back`).toBe(false);
			expect(at.helpers[0] && at.helpers[1], `${reverse} bytes back, helpers`).toBe(false);
		}
	});
});

describe('the stream of a session', () => {
	const recorded = async (dialect: 'mh-v1' | 'mh-v2') => {
		const link = helperLink({ blocks: [20], batchPages: 8, dialect });
		await link.run();
		return link.stream();
	};

	it.each(['mh-v1', 'mh-v2'] as const)('is read, judged and written again like any other: %s', async (dialect) => {
		const data = await recorded(dialect);
		for (const size of [1, 7, 100, 100_000]) {
			const [again, end] = await relayed(data, size, dialect, { check: 'target' });
			expect(Buffer.compare(again, data)).toBe(0);
			expect(end).toMatchObject({ description: true, trailing: 0 });
		}
		for (const as of [undefined, dialect]) {
			expect((await verifyStream(data, { dialect, ...(as && { as }) })).findings).toEqual([]);
		}
		const image = await openImage(data, { dialect, store: createMemoryStore() });
		const messages = image.commands.filter(({ command }) => command === Command.helperMessage);
		expect(messages.map((one) => Buffer.from(one.data).toString().split(' ')[0])).toEqual([
			...['HELLO', 'CONFIRM', 'EPOCH', 'MANIFEST', 'START'],
		]);
		const again = await openImage(await recorded(dialect), { dialect, store: createMemoryStore() });
		expect(diffImages(image, again)).toMatchObject({ equal: true });
	});

	it('keeps its pages when it is salvaged', async () => {
		const data = await recorded('mh-v2');
		const { image } = await salvage(bytesSource(data.subarray(0, data.length - 100)), {
			dialect: 'mh-v2',
			store: createMemoryStore(),
		});
		expect(image?.counts.helper).toBe(20);
	});

	it('is no stream of a target without hand-over', async () => {
		const data = await recorded('mh-v2');
		// The same without its first subsection: type byte, name, version and 22 bytes.
		const head = data.indexOf(0x05);
		const plain = new Uint8Array([...data.subarray(0, head), ...data.subarray(head + 1 + 27 + 4 + 22)]);
		const { findings } = await verifyStream(plain, { dialect: 'mh-v2' });
		expect(findings.map(({ rule }) => rule)).toContain('helper/message');
		const asTarget = await verifyStream(plain, { as: 'mh-v2' });
		expect(asTarget.findings[0]).toMatchObject({ rule: 'stream/command', qemu: ['MIG_CMD 0x4357 unknown (len 0x5)'] });
	});

	it('has no longer messages than a target takes', () => {
		const reader = new StreamReader({ dialect: 'mh-v2', handler: {}, check: 'target' });
		const announced = '051a636f6e66696775726174696f6e2f6361706162696c697469657300000001000000011178';
		const head = Buffer.concat([
			Buffer.from('5145564d0000000307000000046e6f6e65', 'hex'),
			Buffer.from(announced, 'hex'),
			Buffer.from('-handover-commit'),
		]);
		reader.push(head);
		expect(thrown(() => reader.push(Uint8Array.of(8, 0x43, 0x57, 0xea, 0x61)))).toMatchObject({
			code: 'too-large',
			message: expect.stringContaining('HELPER_MESSAGE: expected at most 60000 bytes, got 60001'),
		});
	});
});
