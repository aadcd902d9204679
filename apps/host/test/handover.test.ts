/** Whatever breaks, and whenever: exactly one host has the guest, or none if it was given away; never two. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { GuestDigest } from '../src/index.js';
import { Fleet, type TestHost } from './hosts.js';
import { type Guest, migrate, prepare, startSource, startTarget } from './migration.js';
import { isAcknowledgement, isShut, Relay, type RelayRules } from './relay.js';

const fleet = new Fleet();
const guest: Guest = { workload: 'random', steps: 40_000, seed: 6, policy: 0 };
let expected: GuestDigest;

beforeAll(async () => {
	const host = await startSource(fleet, 'reference', { ...guest, ticks: 'off' });
	await host.call('cont');
	expected = await host.finalDigest(guest.steps);
	await fleet.close();
});
afterEach(async () => {
	await fleet.close();
	expect(
		Math.max(...fleet.journal.splice(0).map((o) => o.running)),
		'hosts that run the guest at once',
	).toBeLessThanOrEqual(1);
});

/** A guest at work, and a host that waits for it. */
async function stage(): Promise<{ source: TestHost; target: TestHost }> {
	const source = await startSource(fleet, 'source', guest);
	await source.call('cont');
	const target = await startTarget(fleet, 'target', { ...guest, ticks: 'off' });
	await source.reached(1);
	return { source, target };
}

/** The target says in one line that it got only a part, and has never run the guest. */
async function expectRefused(target: TestHost, source: TestHost): Promise<void> {
	const { code, line } = await target.host.ended;
	expect(code).toBe(1);
	expect(line).toMatch(/^load of migration failed: [^\n]+$/);
	expect(target.events.map((o) => o.event)).not.toContain('RESUME');
	expect(await target.state()).toBe('inmigrate');
	// What it may have of the shared page of progress is a copy, and not a newer one than the source's.
	const [there, here] = [await target.steps(), await source.steps()];
	for (const [index, steps] of there.entries()) expect(steps).toBeLessThanOrEqual(here[index] ?? 0);
}

/** The guest works on at its source, lost nothing, and moves to another host. */
async function expectMovable(source: TestHost): Promise<void> {
	expect([await source.state(), (await source.call('query-sev')).state]).toEqual(['running', 'running']);
	const [steps = 0] = await source.steps();
	await source.reached(Math.min(steps + 1, guest.steps));
	const second = await startTarget(fleet, 'second target', { ...guest, ticks: 'off' });
	expect(await migrate(source, second)).toMatchObject({ status: 'completed' });
	expect(await second.finalDigest(guest.steps)).toEqual(expected);
}

/** The guest was given away: no command brings it back to life here. */
async function expectGone(source: TestHost): Promise<void> {
	expect(await source.state()).toBe('postmigrate');
	expect(await source.refusal('cont')).toBe('The guest was handed over to another host and must not run here again');
	expect(await source.refusal('migrate', { uri: 'tcp:127.0.0.1:1' })).toBe(
		`Can't migrate the vm that was paused due to previous migration`,
	);
	expect(source.running).toBe(false);
	const since = source.events.findLastIndex((o) => o.event === 'STOP');
	expect(source.events.slice(since).map((o) => o.event)).not.toContain('RESUME');
}

const MIB = 2 ** 20;

describe('the connection breaks', () => {
	it.each<[string, RelayRules]>([
		['before the first byte', { cutAt: 0 }],
		['after the first byte', { cutAt: 1 }],
		['in the configuration', { cutAt: 40, reset: true }],
		['in the list of blocks', { cutAt: 150 }],
		['in the first record, before the first page', { cutAt: 4000 }],
		['early in the first pass', { cutAt: MIB + 17 }],
		['in the middle', { cutAt: 20 * MIB, reset: true }],
		['before the acknowledgement', { answer: (piece) => (isAcknowledgement(piece) ? 'cut' : 'pass') }],
	])('%s: the source goes on, the target never begins', async (_, rules) => {
		const { source, target } = await stage();
		const relay = await Relay.open(await prepare(source, target), rules);
		await source.call('migrate', { uri: relay.uri });
		const info = await source.migrationEnd();
		expect(info.status).toBe('failed');
		expect(info['error-desc']).toMatch(/^[^\n]{10,}$/);
		await expectRefused(target, source);
		await expectMovable(source);
	});

	it('in stop-and-copy: the source, already stopped, goes on', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await prepare(source, target));
		await source.call('migrate', { uri: relay.uri });
		await source.event((event) => event === 'STOP');
		relay.cut();
		expect((await source.migrationEnd()).status).toBe('failed');
		expect(source.events.filter((o) => o.event === 'RESUME')).toHaveLength(2);
		await expectRefused(target, source);
		await expectMovable(source);
	});

	it('in stop-and-copy of a guest that was paused: it stays paused', async () => {
		const { source, target } = await stage();
		await source.call('stop');
		const relay = await Relay.open(await prepare(source, target), { cutAt: 20 * MIB });
		await source.call('migrate', { uri: relay.uri });
		expect((await source.migrationEnd()).status).toBe('failed');
		expect(await source.state()).toBe('paused');
		await expectRefused(target, source);
		await source.call('cont');
		await expectMovable(source);
	});

	it('with the commit on its way: nobody runs the guest again', async () => {
		const { source, target } = await stage();
		let acknowledged = false;
		const relay = await Relay.open(await prepare(source, target), {
			answer: (piece) => {
				acknowledged ||= isAcknowledgement(piece);
				return 'pass';
			},
			stream: () => (acknowledged ? 'cut' : 'pass'),
		});
		await source.call('migrate', { uri: relay.uri });
		const info = await source.migrationEnd();
		expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringContaining('handed over') });
		await expectGone(source);
		await expectRefused(target, source);
	});

	it('behind the commit: the target runs the guest, the source never again', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await prepare(source, target), {
			answer: (piece) => (isShut(piece) ? 'cut' : 'pass'),
		});
		await source.call('migrate', { uri: relay.uri });
		const info = await source.migrationEnd();
		expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringContaining('handed over') });
		await expectGone(source);
		expect(await target.finalDigest(guest.steps)).toEqual(expected);
		await expectGone(source);
	});
});

describe('one of the two ends', () => {
	it('the target quits in the middle: the source goes on', async () => {
		const { source, target } = await stage();
		await source.call('migrate', { uri: await prepare(source, target) });
		await source.migration('active');
		await target.call('quit');
		expect((await source.migrationEnd()).status).toBe('failed');
		expect(await target.host.ended).toEqual({ code: 0 });
		await expectMovable(source);
	});

	it('the source quits in the middle: the target ends with a line', async () => {
		const { source, target } = await stage();
		await source.call('migrate', { uri: await prepare(source, target) });
		await source.migration('active');
		await source.call('quit');
		expect(await source.host.ended).toEqual({ code: 0 });
		await expectRefused(target, source);
	});
});

describe('migrate_cancel', () => {
	const cancelled = async (source: TestHost, target: TestHost) => {
		await source.call('migrate_cancel');
		expect(await source.migrationEnd()).toEqual({ status: 'cancelled' });
		await expectRefused(target, source);
		await expectMovable(source);
	};

	it.each<[string, (source: TestHost) => Promise<unknown>]>([
		['in the setup', (source) => source.migration('setup')],
		['when it has become active', (source) => source.migration('active')],
		['in a later pass', (source) => source.event((event, { pass }) => event === 'MIGRATION_PASS' && pass === 2)],
		['in stop-and-copy', (source) => source.event((event) => event === 'STOP')],
	])('%s: the guest stays and can move later', async (_, moment) => {
		const { source, target } = await stage();
		await source.call('migrate', { uri: await prepare(source, target) });
		await moment(source);
		await cancelled(source, target);
	});

	it('of a peer that reads nothing: the guest stays and can move later', async () => {
		const { source, target } = await stage();
		let stalled: () => void = () => undefined;
		const stall = new Promise<void>((resolve) => {
			stalled = resolve;
		});
		const relay = await Relay.open(await prepare(source, target), {
			stream: () => {
				stalled();
				return 'hold';
			},
		});
		await source.call('migrate', { uri: relay.uri });
		await stall;
		await source.call('migrate_cancel');
		expect(await source.migrationEnd()).toEqual({ status: 'cancelled' });
		relay.cut();
		await expectRefused(target, source);
		await expectMovable(source);
	});

	it('while the acknowledgement is on its way: the guest stays, the target never begins', async () => {
		const { source, target } = await stage();
		let arrived: () => void = () => undefined;
		const acknowledgement = new Promise<void>((resolve) => {
			arrived = resolve;
		});
		const relay = await Relay.open(await prepare(source, target), {
			answer: (piece) => {
				if (!isAcknowledgement(piece)) return 'pass';
				arrived();
				return 'hold';
			},
		});
		await source.call('migrate', { uri: relay.uri });
		await acknowledgement;
		await cancelled(source, target);
	});

	it('after the commit: too late, the migration completes', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await prepare(source, target), {
			answer: (piece) => {
				if (isShut(piece)) void source.call('migrate_cancel');
				return 'pass';
			},
		});
		await source.call('migrate', { uri: relay.uri });
		expect((await source.migrationEnd()).status).toBe('completed');
		await expectGone(source);
		expect(await target.finalDigest(guest.steps)).toEqual(expected);
	});

	it('of nothing is no error', async () => {
		const { source, target } = await stage();
		await source.call('migrate_cancel');
		await target.call('migrate_cancel');
		expect(await source.call('query-migrate')).toEqual({});
		expect([source.running, await target.state()]).toEqual([true, 'inmigrate']);
	});
});
