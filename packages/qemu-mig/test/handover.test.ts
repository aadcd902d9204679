import { toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import type { LoadOutcome, PrecopyResult, ReturnPathMode } from '../src/index.js';
import { encodeReturnWord, ReturnMessage } from '../src/index.js';
import { createFakeClock, createFakeSource } from '../src/testing.js';
import { connect, fillMemory, prepare, receive, sameMemory, TWO_BLOCKS } from './migration.js';
import { thrown } from './streams.js';

const confidential = () => {
	const source = createFakeSource({ blocks: TWO_BLOCKS, confidential: true });
	fillMemory(source);
	return source;
};

describe('the hand-over', () => {
	it('lets the target run only after the source has committed, and the source end only after the target runs', async () => {
		const { precopy, loader, target, source, log } = connect({ source: confidential(), returnPath: 'handover' });
		expect(await precopy.run()).toEqual({ status: 'completed' });
		expect(await loader.outcome).toEqual({ status: 'running', complete: true, missing: [] });
		expect(log.slice(log.indexOf('stop'))).toEqual(['stop', 'pass 2', 'devices', 'commit', 'finish', 'completed']);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
	});

	it('sends the commands of the extension around an ordinary stream', async () => {
		const written: Uint8Array[] = [];
		const answers: string[] = [];
		const { precopy, source, log } = prepare({
			returnPath: 'handover',
			sink: {
				write: (chunk) => {
					written.push(chunk.slice());
					loader.push(chunk);
				},
			},
		});
		const { loader } = receive(
			source,
			log,
			(message) => {
				answers.push(toHex(message));
				precopy.returnPath.push(message);
			},
			{ handover: true },
		);
		await precopy.run();
		expect(answers).toEqual(['0002000400000001', '00070000', '0001000400000000']);
		const bytes = Buffer.concat(written);
		expect(bytes.subarray(-5).toString('hex')).toBe('0843560000');
		const capabilities = `051a${Buffer.from('configuration/capabilities').toString('hex')}0000000100000001`;
		const opening = `${Buffer.from('\x11x-handover-commit').toString('hex')}0800010000080002000400000001`;
		expect(bytes.subarray(17, 17 + (capabilities.length + opening.length) / 2).toString('hex')).toBe(
			capabilities + opening,
		);
	});

	it('fails without running anything when the commit fails', async () => {
		const commit = () => Promise.reject(new Error('SEND_FINISH'));
		const { precopy, loader, log } = connect({ source: confidential(), returnPath: 'handover', commit });
		const result = await precopy.run();
		expect(result).toMatchObject({ status: 'failed', error: { code: 'commit' }, stopped: true, mayResume: true });
		expect(thrown(() => loader.end())).toMatchObject({ code: 'incomplete' });
		expect(await loader.outcome).toMatchObject({ status: 'failed' });
		expect(log).not.toContain('finish');
	});

	it('does not send the commit when the connection ended while committing', async () => {
		let end = (): void => {};
		const commit = () => end();
		const { precopy, loader, log } = connect({ returnPath: 'handover', commit });
		end = () => precopy.returnPath.end();
		expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'return-path' }, mayResume: true });
		expect(thrown(() => loader.end())).toMatchObject({ code: 'incomplete' });
		expect(log).not.toContain('finish');
	});

	it('tells the source when the target cannot finish: nobody may resume then', async () => {
		const { precopy, clock, source, log } = prepare({ returnPath: 'handover', sink: { write: (c) => loader.push(c) } });
		const finish = () => Promise.reject(new Error('RECEIVE_FINISH'));
		const answer = (m: Uint8Array) => precopy.returnPath.push(m);
		const { loader } = receive(source, log, answer, { handover: true, finish });
		expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'target' }, mayResume: false });
		expect(await loader.outcome).toMatchObject({ status: 'failed', error: { code: 'finish' } });
		expect(clock.sleeps).toEqual([]);
	});

	it('is refused by a target that misses a part, which says so', async () => {
		const answers: string[] = [];
		const { precopy, source, log } = prepare({
			returnPath: 'handover',
			vm: { stop: async () => {}, devices: () => [] },
			sink: { write: (chunk) => loader.push(chunk) },
		});
		const { loader } = receive(source, log, (m) => answers.push(toHex(m)), { handover: true });
		expect(await precopy.run()).toMatchObject({
			status: 'failed',
			error: { code: 'sink', cause: { code: 'incomplete' } },
		});
		expect(answers.at(-1)).toBe('0001000400000001');
	});

	it('is refused by a target that was given no return path', async () => {
		const bytes: number[] = [];
		const { precopy, source, log } = prepare({ sink: { write: (chunk) => void bytes.push(...chunk) } });
		await precopy.run();
		const { loader } = receive(source, log, () => {}, { handover: true });
		const subsection = Buffer.from(
			'\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x11x-handover-commit',
			'latin1',
		);
		const error = thrown(() => loader.push(Buffer.from([...bytes.slice(0, 17), ...subsection, ...bytes.slice(17)])));
		expect(error).toMatchObject({ code: 'incomplete', message: expect.stringContaining('OPEN_RETURN_PATH') });
		expect(log).not.toContain('finish');
	});

	it('is refused when the commit comes early', async () => {
		const { source, log } = prepare({ sink: { write: () => {} } });
		const { loader } = receive(source, log, () => {}, { handover: true });
		const header = Buffer.from('5145564d0000000307000000046e6f6e65', 'hex');
		const capabilities = Buffer.concat([
			Buffer.from('051a', 'hex'),
			Buffer.from('configuration/capabilities'),
			Buffer.from('0000000100000001', 'hex'),
			Buffer.from('\x11x-handover-commit'),
		]);
		const error = thrown(() => loader.push(Buffer.concat([header, capabilities, Buffer.from('0843560000', 'hex')])));
		expect(error).toMatchObject({ code: 'command' });
		expect(await loader.outcome).toMatchObject({ status: 'failed' });
	});
});

/** The bytes of both directions are delivered up to a limit; then the connection is dead for both sides. */
async function cutAfter(limit: number, mode: ReturnPathMode, direction: 'forward' | 'reverse') {
	let budget = limit;
	let dead = false;
	const die = (): void => {
		if (dead) return;
		dead = true;
		queueMicrotask(() => {
			thrown(() => loader.end());
			precopy.returnPath.end();
		});
	};
	const deliver = (way: 'forward' | 'reverse', bytes: Uint8Array, to: (bytes: Uint8Array) => void): void => {
		if (dead) return;
		const passing = way === direction ? Math.min(budget, bytes.length) : bytes.length;
		if (way === direction) budget -= passing;
		if (passing > 0) to(bytes.slice(0, passing));
		if (passing < bytes.length) die();
	};
	const { precopy, source, log } = prepare({
		source: confidential(),
		returnPath: mode,
		sink: { write: (chunk) => deliver('forward', chunk, (bytes) => loader.push(bytes)) },
	});
	const { loader } = receive(
		source,
		log,
		(message) => deliver('reverse', message, (bytes) => precopy.returnPath.push(bytes)),
		{ handover: mode === 'handover' },
	);
	let outcome: LoadOutcome | undefined;
	void loader.outcome.then((value) => {
		outcome = value;
	});
	const result: PrecopyResult = await precopy.run();
	for (let i = 0; i < 10; i++) await Promise.resolve();
	const targetRuns = outcome?.status === 'running';
	const sourceRuns = result.status === 'cancelled' || (result.status === 'failed' && result.mayResume);
	return { result, targetRuns, sourceRuns, budget };
}

describe('a connection that dies', () => {
	it('at any message, in either direction, never leaves two copies that may run', async () => {
		for (const mode of ['handover', 'return-path'] as const) {
			for (let limit = 0; limit <= 20; limit++) {
				const { targetRuns, sourceRuns } = await cutAfter(limit, mode, 'reverse');
				expect(targetRuns && sourceRuns, `${mode}, ${limit} bytes back`).toBe(false);
			}
		}
	});

	it('at any byte of the end of the stream, leaves one copy: only losing the commit itself leaves none', async () => {
		const whole = await cutAfter(Number.MAX_SAFE_INTEGER, 'handover', 'forward');
		expect(whole.targetRuns).toBe(true);
		const total = Number.MAX_SAFE_INTEGER - whole.budget;
		let none = 0;
		for (let limit = total - 200; limit <= total; limit++) {
			const { targetRuns, sourceRuns } = await cutAfter(limit, 'handover', 'forward');
			expect(targetRuns && sourceRuns, `${limit} of ${total} bytes`).toBe(false);
			if (!targetRuns && !sourceRuns) none++;
		}
		expect(none).toBe(5);
	});
});

describe('without hand-over', () => {
	it('a return path completes on SHUT 0 and fails on another', async () => {
		const { precopy, loader } = connect({ returnPath: 'return-path' });
		expect(await precopy.run()).toEqual({ status: 'completed' });
		expect(await loader.outcome).toMatchObject({ status: 'running' });
		const refused = prepare({ returnPath: 'return-path', sink: { write: () => {} } });
		const running = refused.precopy.run();
		refused.precopy.returnPath.push(encodeReturnWord(ReturnMessage.shut, 1));
		expect(await running).toMatchObject({ status: 'failed', error: { code: 'target' }, mayResume: true });
	});

	it('an answer that is out of order, unknown or cut fails the migration at once', async () => {
		for (const bytes of [
			[0, 7, 0, 0],
			[0, 1, 0, 4, 0, 0, 0, 0],
			[0, 9, 0, 0],
			[0, 4, 0, 12, ...new Uint8Array(12)],
			[0],
		]) {
			const clock = createFakeClock();
			const { precopy } = prepare({ returnPath: 'handover', clock, sink: { write: () => {} } });
			clock.onIdle = () => {
				precopy.returnPath.push(Uint8Array.from(bytes));
				if (bytes.length === 1) precopy.returnPath.end();
			};
			expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'return-path' }, stopped: false });
		}
	});

	it('the end of the stream is the end of the source’s say', async () => {
		const { precopy } = prepare({ returnPath: 'return-path', sink: { write: () => {} } });
		const running = precopy.run();
		for (let i = 0; i < 200; i++) await Promise.resolve();
		expect(precopy.cancel()).toBe(false);
		precopy.returnPath.end();
		expect(await running).toMatchObject({ status: 'failed', error: { code: 'return-path' }, mayResume: false });
	});
});
