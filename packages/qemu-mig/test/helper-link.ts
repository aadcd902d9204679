import { PAGE_SIZE } from '@cvm/layout';
import type { LoadOutcome, PrecopyOptions, PrecopyResult } from '../src/index.js';
import { createLoader, createPrecopy } from '../src/index.js';
import type { FakeClock } from '../src/testing.js';
import { createFakeClock, createFakeTarget } from '../src/testing.js';
import type { SessionOptions } from './helper-session.js';
import { pagesOf, SessionTarget, sessionSource } from './helper-session.js';
import { sameMemory } from './migration.js';
import { thrown } from './streams.js';

export interface LinkOptions extends SessionOptions {
	/** Pages of each block. */
	readonly blocks?: readonly number[];
	readonly clock?: FakeClock;
	readonly dialect?: 'mh-v1' | 'mh-v2';
	readonly parameters?: PrecopyOptions['parameters'];
	readonly commit?: () => void | Promise<void>;
	readonly finish?: () => void | Promise<void>;
	/** The message that the target's helper refuses. */
	readonly targetRefuses?: string;
	/** Bytes after which the connection is dead for both sides. */
	readonly forward?: number;
	readonly reverse?: number;
}

/** A migration with a session of in-guest helpers, in memory. */
export function helperLink(o: LinkOptions = {}) {
	const blocks = (o.blocks ?? [100, 33]).map((pages, i) => ({ idstr: `ram${i}`, usedLength: pages * PAGE_SIZE }));
	const source = sessionSource(blocks, o);
	for (const [block, memory] of source.memory.entries()) memory.fill(block + 1);
	const base = createFakeTarget(blocks);
	const helper = new SessionTarget(pagesOf(base.memory));
	helper.refuse = o.targetRefuses;
	const target = { ...base, helper };
	const log = source.helper.log;
	const clock = o.clock ?? createFakeClock();
	const budget = { forward: o.forward ?? Number.MAX_SAFE_INTEGER, reverse: o.reverse ?? Number.MAX_SAFE_INTEGER };
	const used = { forward: 0, reverse: 0 };
	/** What went forward. */
	const written: Uint8Array[] = [];
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
		const passing = Math.min(budget[way] - used[way], bytes.length);
		used[way] += passing;
		const part = bytes.slice(0, passing);
		if (way === 'forward') written.push(part);
		if (passing < bytes.length) die();
		if (passing > 0) to(part);
	};
	const dialect = o.dialect ?? 'mh-v2';
	const loader = createLoader({
		sink: target,
		dialect,
		machineType: 'none',
		handover: true,
		reply: {
			write: (message) => {
				const copy = message.slice();
				queueMicrotask(() => deliver('reverse', copy, (bytes) => precopy.returnPath.push(bytes)));
			},
		},
		device: () => 'loaded',
		finish: async () => {
			log.push('finish');
			await o.finish?.();
		},
	});
	const precopy = createPrecopy({
		source,
		clock,
		dialect,
		machineType: 'none',
		returnPath: 'handover',
		parameters: o.parameters ?? { maxBandwidth: 0, downtimeLimit: 300 },
		vm: {
			async stop() {
				log.push('stop');
			},
			devices: () => {
				log.push('devices');
				return [{ idstr: 'timer', instanceId: 0, version: 1, body: Uint8Array.of(1, 2, 3) }];
			},
		},
		sink: {
			write: (chunk) =>
				deliver('forward', chunk, (bytes) => {
					try {
						loader.push(bytes);
					} catch (error) {
						die();
						throw error;
					}
				}),
		},
		commit: () => {
			log.push('host commit');
			return o.commit?.();
		},
		events: { pass: () => log.push('pass') },
	});
	let outcome: LoadOutcome | undefined;
	void loader.outcome.then((value) => {
		outcome = value;
	});
	/** Runs it to its end, and says who may run the guest. */
	const run = async () => {
		const result: PrecopyResult = await precopy.run();
		die();
		for (let i = 0; i < 20; i++) await Promise.resolve();
		const targetRuns = outcome?.status === 'running';
		const sourceRuns = result.status === 'cancelled' || (result.status === 'failed' && result.mayResume);
		return { result, outcome, targetRuns, sourceRuns, used };
	};
	const stream = (): Uint8Array => Uint8Array.from(Buffer.concat(written));
	return {
		stream,
		die,
		source,
		target,
		helper,
		log,
		clock,
		precopy,
		loader,
		run,
		same: () => sameMemory(target.memory, source.memory),
	};
}
