/** A plain guest through every transport: sockets of both kinds, pipes and files, and what happens when they break. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { GuestDigest } from '../src/index.js';
import { Fleet, type TestHost } from './hosts.js';
import { type Guest, guestOptions, startSource, startTarget } from './migration.js';

const fleet = new Fleet();
const guest: Guest = { workload: 'random', steps: 15_000, seed: 3 };
const capabilities = [{ capability: 'x-handover-commit' as const, state: true }];
let folder: string;
let expected: GuestDigest;

beforeAll(async () => {
	const host = await startSource(fleet, 'reference', { ...guest, ticks: 'off' });
	await host.call('cont');
	expected = await host.finalDigest(guest.steps);
	await fleet.close();
});
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-transport-'));
});
afterEach(async () => {
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

async function working(): Promise<TestHost> {
	const source = await startSource(fleet, 'source', guest);
	await source.call('migrate-set-capabilities', { capabilities });
	await source.call('cont');
	await source.reached(1);
	return source;
}

it('a socket of the file system carries the guest over', async () => {
	const source = await working();
	const target = await startTarget(fleet, 'target', { ...guest, ticks: 'off' });
	await target.call('migrate-set-capabilities', { capabilities });
	const uri = `unix:${join(folder, 'socket')}`;
	await target.call('migrate-incoming', { uri });
	expect(await target.call('query-migrate')).toEqual({
		'socket-address': [{ type: 'unix', path: join(folder, 'socket') }],
	});
	await source.call('migrate', { uri });
	expect(await source.migrationEnd()).toMatchObject({ status: 'completed' });
	expect(await target.finalDigest(guest.steps)).toEqual(expected);
});

it.each([
	['a file', (path: string) => [`file:${path}`, `file:${path}`]],
	['two commands', (path: string) => [`exec:gzip -1 >'${path}'`, `exec:gzip -dc '${path}'`]],
])('%s keeps the guest until it goes on', async (_, uris) => {
	const source = await working();
	const [out = '', back = ''] = uris(join(folder, 'stream'));
	await source.call('migrate', { uri: out });
	expect(await source.migrationEnd()).toMatchObject({ status: 'completed' });
	expect([await source.state(), readdirSync(folder)]).toEqual(['postmigrate', ['stream']]);
	const target = await fleet.start('target', [...guestOptions({ ...guest, ticks: 'off' }), '-incoming', 'defer']);
	await target.call('migrate-incoming', { uri: back });
	await target.migration('completed');
	expect(await target.finalDigest(guest.steps)).toEqual(expected);
});

it.runIf(existsSync('/dev/full')).each([
	['a full disk', 'file:/dev/full', /No space left on device/],
	['a command that fails', 'exec:cat >/dev/null; exit 3', /command exited with status 3/],
	['a command that reads nothing', 'exec:exec <&-; exit 4', /Broken pipe|command exited with status 4/],
	['a folder that is not there', 'file:/no/such/folder/stream', /No such file or directory/],
])('%s fails the migration in one line, and the guest goes on as if nothing had been', async (_, uri, words) => {
	const source = await working();
	await source.call('migrate', { uri });
	const info = await source.migrationEnd();
	expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringMatching(words) });
	expect(info['error-desc']).not.toContain('\n');
	expect(source.running).toBe(true);
	expect(statSync('/dev/full').isCharacterDevice()).toBe(true);
	const digest = await source.finalDigest(guest.steps);
	expect(digest).toEqual(expected);
});

it('a stream without vCPUs does not become a guest', async () => {
	const source = await startSource(fleet, 'source', guest);
	await source.call('migrate', { uri: `file:${join(folder, 'stream')}` });
	expect(await source.migrationEnd()).toMatchObject({ status: 'completed' });
	const target = await startTarget(fleet, 'target', guest);
	await target.call('migrate-incoming', { uri: `file:${join(folder, 'stream')}` });
	const { code, line } = await target.host.ended;
	expect([code, line]).toEqual([
		1,
		expect.stringMatching(/^load of migration failed: .*holds no vCPU state of this model/),
	]);
	expect(target.events.map((o) => o.event)).not.toContain('RESUME');
});
