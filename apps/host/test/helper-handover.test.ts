/** Whatever breaks while helpers move a guest: one host has it, its work is not lost, and the next attempt moves it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { GuestDigest } from '../src/index.js';
import { type HelpedGuest, listenHelped, migrateHelped, startHelped, startWaiting } from './helped.js';
import { Fleet, type TestHost } from './hosts.js';
import { isAcknowledgement, isShut, Relay, type RelayRules } from './relay.js';

const fleet = new Fleet();
const guest: HelpedGuest = { workload: 'random', steps: 20_000, seed: 6 };
const MIB = 2 ** 20;
let folder: string;
let expected: GuestDigest;

beforeAll(async () => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-handover-'));
	const host = await startHelped(fleet, folder, 'reference', { ...guest, ticks: 'off' });
	await host.call('cont');
	expected = await host.finalDigest(guest.steps);
	await fleet.close();
});
afterEach(() => fleet.close());
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A guest at work, and a machine that waits for it. */
async function stage(): Promise<{ source: TestHost; target: TestHost }> {
	const source = await startHelped(fleet, folder, 'source', guest);
	await source.call('cont');
	const target = await startWaiting(fleet, folder, 'target', { ...guest, ticks: 'off' });
	await source.reached(1);
	return { source, target };
}

/** The target says in one line what went wrong, goes back to waiting, and nothing of the guest has run there. */
async function expectWaiting(target: TestHost): Promise<void> {
	await target.migration('failed');
	expect((await target.call('query-migrate'))['error-desc']).toMatch(/^load of migration failed: [^\n]+$/);
	expect(target.warnings.at(-1)).toMatch(/^load of migration failed: [^\n]+$/);
	expect(await target.state()).toBe('running');
}

/** The guest works on at its source, and the same target takes it at the next attempt. */
async function expectMovable(source: TestHost, target: TestHost): Promise<void> {
	expect(await source.state()).toBe('running');
	const [steps = 0] = await source.steps();
	await source.reached(Math.min(steps + 1, guest.steps));
	target.forgetEvents();
	expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
	expect(await target.finalDigest(guest.steps)).toEqual(expected);
	expect(await source.state()).toBe('postmigrate');
}

/** Cuts the way from the source once the target has said that it holds everything. */
function lostCommit(): RelayRules {
	let acknowledged = false;
	return {
		answer: (piece) => {
			acknowledged ||= isAcknowledgement(piece);
			return 'pass';
		},
		stream: () => (acknowledged ? 'cut' : 'pass'),
	};
}

describe('the connection breaks', () => {
	it.each<[string, RelayRules]>([
		['before the first byte', { cutAt: 0 }],
		['in the list of blocks', { cutAt: 150 }],
		['while the helpers agree', { answer: () => 'cut' }],
		['early in the first pass', { cutAt: MIB + 17 }],
		['in the middle', { cutAt: 8 * MIB, reset: true }],
		['before the acknowledgement', { answer: (piece) => (isAcknowledgement(piece) ? 'cut' : 'pass') }],
	])('%s: the source goes on, the target waits again and takes the next attempt', async (_, rules) => {
		const { source, target } = await stage();
		const relay = await Relay.open(await listenHelped(target), rules);
		target.forgetEvents();
		await source.call('migrate', { uri: relay.uri });
		const info = await source.migrationEnd();
		expect(info.status).toBe('failed');
		expect(info['error-desc']).toMatch(/^[^\n]{10,}$/);
		await expectWaiting(target);
		await expectMovable(source, target);
	});

	it('in stop-and-copy: the source, whose gate was closed, goes on', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await listenHelped(target));
		target.forgetEvents();
		await source.call('migrate', { uri: relay.uri });
		await source.event((event) => event === 'STOP');
		relay.cut();
		expect((await source.migrationEnd()).status).toBe('failed');
		await expectWaiting(target);
		await expectMovable(source, target);
	});

	it('with the commit on its way: nobody runs the guest, until the target proves that it never will', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await listenHelped(target), lostCommit());
		target.forgetEvents();
		await source.call('migrate', { uri: relay.uri });
		const info = await source.migrationEnd();
		expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringContaining('handed over') });
		await expectWaiting(target);
		expect(await source.state()).toBe('postmigrate');
		expect(await source.refusal('cont')).toBe('The guest was handed over to another host and must not run here again');
		const forged = Buffer.alloc(96, 7).toString('base64');
		expect(await source.refusal('x-migration-revive', { token: forged })).toMatch(
			/^migration helper 0, revive: [^\n]+$/,
		);
		expect([await source.state(), source.running]).toEqual(['postmigrate', false]);

		const { token } = await target.call('x-migration-token');
		expect(await target.call('x-migration-token')).toEqual({ token });
		await source.call('x-migration-revive', { token });
		expect(await source.refusal('x-migration-revive', { token })).toBe('The guest was not given up');
		await expectMovable(source, target);
	});

	it('behind the commit: the target runs the guest, the source never again, and no token is to be had', async () => {
		const { source, target } = await stage();
		const relay = await Relay.open(await listenHelped(target), {
			answer: (piece) => (isShut(piece) ? 'cut' : 'pass'),
		});
		await source.call('migrate', { uri: relay.uri });
		await source.migrationEnd();
		expect(await source.state()).toBe('postmigrate');
		expect(await source.refusal('cont')).toMatch(/handed over/);
		expect(await target.refusal('x-migration-token')).toBe(
			'No guest arrived here of which it is certain that it will not run',
		);
		expect(await target.finalDigest(guest.steps)).toEqual(expected);
	});
});

it('the commit arrives changed: the target refuses and says so, and the source takes the guest back by itself', async () => {
	const { source, target } = await stage();
	let acknowledged = false;
	let changed = false;
	const relay = await Relay.open(await listenHelped(target), {
		answer: (piece) => {
			acknowledged ||= isAcknowledgement(piece);
			return 'pass';
		},
		stream: (piece) => {
			// The tag of START, which stands before the stream's own commit: be16 type, length; 8 bytes; the message.
			if (acknowledged && !changed) piece[60] = (piece[60] ?? 0) ^ 1;
			changed = acknowledged;
			return 'pass';
		},
	});
	target.forgetEvents();
	await source.call('migrate', { uri: relay.uri });
	expect((await source.migrationEnd()).status).toBe('failed');
	await expectWaiting(target);
	expect(changed).toBe(true);
	await expectMovable(source, target);
});

describe('migrate_cancel', () => {
	it.each<[string, (source: TestHost) => Promise<unknown>]>([
		['when it has become active', (source) => source.migration('active')],
		['in a later pass', (source) => source.event((event, { pass }) => event === 'MIGRATION_PASS' && pass === 2)],
		['in stop-and-copy', (source) => source.event((event) => event === 'STOP')],
	])('%s: the guest stays, and moves at the next attempt', async (_, moment) => {
		const { source, target } = await stage();
		const uri = await listenHelped(target);
		target.forgetEvents();
		await source.call('migrate', { uri });
		await moment(source);
		await source.call('migrate_cancel');
		expect(await source.migrationEnd()).toMatchObject({ status: 'cancelled' });
		await expectWaiting(target);
		await expectMovable(source, target);
	});
});

it('the target quits in the middle: the source goes on and moves elsewhere', async () => {
	const { source, target } = await stage();
	await source.call('migrate', { uri: await listenHelped(target) });
	await source.migration('active');
	await target.call('quit');
	expect((await source.migrationEnd()).status).toBe('failed');
	await expectMovable(source, await startWaiting(fleet, folder, 'another', { ...guest, ticks: 'off' }));
});
