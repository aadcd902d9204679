/** Either side of a migration dies, or the person changes their mind: the guest goes on in exactly one place, unharmed. */
import type { GuestDigest } from '@cvm/host';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { HostProcess } from '../src/demo/host-process.js';
import { beginMigration, migrationEnd, moreSteps, type Pace, Scene, type Target } from './guests.js';
import { PATIENCE } from './processes.js';

/** Half a minute of work on each vCPU, so that the guest is busy throughout; hosts on which it may end hurry it. */
const STEPS = 200_000;
const FAST: Pace = { bandwidth: 0, downtime: 2000 };
const MIB = 2 ** 20;

/** A point of a migration: how fast to go so that it lasts, and how to see that it is there. */
interface Moment {
	readonly when: string;
	readonly pace: Pace;
	readonly reached: (source: HostProcess) => Promise<void>;
}

const MOMENTS: readonly Moment[] = [
	{
		when: 'during the first pass',
		pace: { bandwidth: 8 * MIB, downtime: 1 },
		reached: async (source) => {
			const { status, ram } = await source.monitor.execute('query-migrate');
			expect(status).toBe('active');
			expect(ram?.transferred).toBeGreaterThan(2 * MIB);
			expect(ram?.['dirty-sync-count']).toBe(1);
		},
	},
	{
		when: 'at a late pass',
		// Slower than the guest dirties its pages: no pass leaves fewer, and so none is the last before we have looked.
		pace: { bandwidth: 24 * MIB, downtime: 1 },
		reached: async (source) => {
			const { status, ram } = await source.monitor.execute('query-migrate');
			expect(status).toBe('active');
			expect(ram?.['dirty-sync-count']).toBeGreaterThanOrEqual(4);
		},
	},
	{
		when: 'while the guest is stopped for its last pages',
		// All of its memory counts as the last pages: the limit is as long as it takes.
		pace: { bandwidth: 4 * MIB, downtime: 2_000_000 },
		reached: async (source) => {
			expect((await source.monitor.execute('query-status')).status).toBe('finish-migrate');
		},
	},
];

let scene: Scene;
let reference: GuestDigest;
beforeAll(async () => {
	const still = new Scene(STEPS);
	try {
		reference = await still.reference();
	} finally {
		await still.close();
	}
});
beforeEach(() => {
	scene = new Scene(STEPS);
});
afterEach(() => scene.close());

async function reach({ pace, reached }: Moment, source: HostProcess, target: Target): Promise<void> {
	await beginMigration(source, target, pace);
	await vi.waitFor(() => reached(source), { ...PATIENCE, interval: 5 });
}

/** The guest runs on the source as if nothing had been. */
async function expectRunning(source: HostProcess): Promise<void> {
	expect(await source.monitor.execute('query-status')).toMatchObject({ status: 'running', running: true });
	await moreSteps(source);
}

/** A migration to a new target works, and the guest ends there as one that was never moved. */
async function expectMovable(source: HostProcess): Promise<void> {
	const target = await scene.target(['-ticks', 'off']);
	await beginMigration(source, target, FAST);
	expect(await migrationEnd(source)).toMatchObject({ status: 'completed' });
	expect((await source.monitor.execute('query-status')).status).toBe('postmigrate');
	expect(await scene.finish(target.host)).toEqual(reference);
}

/** Whether a host ever let its guest run; watched from now on. */
function watchResume(host: HostProcess): { readonly resumed: boolean } {
	const seen = { resumed: false };
	host.monitor.waitFor('RESUME').then(
		() => {
			seen.resumed = true;
		},
		() => undefined, // the host ended without
	);
	return seen;
}

/** The target gives up: exit code 1, one line that says why. */
async function expectGivenUp(target: HostProcess): Promise<void> {
	expect(await target.ended).toBe(1);
	expect(target.complaints).toMatch(
		/^load of migration failed: [^\n]*: offset \d+ \([^\n]*\): stream: expected \d+ more bytes, got \d+$/,
	);
}

describe('the target dies', () => {
	it('before it accepts: the guest never noticed, and moves elsewhere', async () => {
		const source = await scene.source();
		const target = await scene.target();
		target.host.kill();
		expect(await target.host.ended).toBe('SIGKILL');
		await beginMigration(source, target, FAST);
		const { status, 'error-desc': reason } = await migrationEnd(source);
		expect(status).toBe('failed');
		expect(reason).toBe(`Failed to connect to '${target.uri.replace('tcp:', '')}': Connection refused`);
		await expectRunning(source);
		await expectMovable(source);
	});

	it.each(MOMENTS)('$when: the guest goes on at the source, and moves elsewhere', async (moment) => {
		const source = await scene.source();
		const target = await scene.target();
		const arrival = watchResume(target.host);
		await reach(moment, source, target);
		target.host.kill();
		const { status, 'error-desc': reason } = await migrationEnd(source);
		expect(status).toBe('failed');
		expect(reason).toMatch(/^[^\n]{10,}$/);
		await expectRunning(source);
		await expectMovable(source);
		expect(arrival.resumed).toBe(false);
	});
});

describe('the source dies', () => {
	it('before it connects: the target waits on', async () => {
		const source = await scene.source();
		const target = await scene.target();
		source.kill();
		expect(await source.ended).toBe('SIGKILL');
		expect((await target.host.monitor.execute('query-status')).status).toBe('inmigrate');
	});

	it.each(MOMENTS)('$when: the target gives up and never ran the guest', async (moment) => {
		const source = await scene.source();
		const target = await scene.target();
		const arrival = watchResume(target.host);
		await reach(moment, source, target);
		source.kill();
		await expectGivenUp(target.host);
		expect(arrival.resumed).toBe(false);
	});
});

describe('migrate_cancel', () => {
	it('without a migration does nothing', async () => {
		const source = await scene.source();
		await source.monitor.execute('migrate_cancel');
		expect((await source.monitor.execute('query-migrate')).status).toBeUndefined();
		await expectRunning(source);
	});

	it('at any moment leaves the guest at the source, from where it still moves', async () => {
		const source = await scene.source();
		for (const moment of MOMENTS) {
			const target = await scene.target();
			const arrival = watchResume(target.host);
			await reach(moment, source, target);
			await source.monitor.execute('migrate_cancel');
			expect(await migrationEnd(source), moment.when).toMatchObject({ status: 'cancelled' });
			await expectRunning(source);
			await expectGivenUp(target.host);
			expect(arrival.resumed).toBe(false);
		}
		await expectMovable(source);
	});
});
