/** The helper of August 2021 in our hosts: a guest that moves by it ends as one that never moved, in the clear. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PAGE_SIZE } from '@cvm/layout';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
	type HelpedGuest,
	listenHelped,
	migrateHelped,
	startHelped,
	startWaiting,
	withoutPlaintext,
} from './helped.js';
import { Fleet, type TestHost } from './hosts.js';
import { Relay } from './relay.js';

const fleet = new Fleet();
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-rfc-'));
});
afterEach(async () => {
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const guest: HelpedGuest = { workload: 'random', steps: 20_000, seed: 3, profile: 'rfc-2021' };

/** Below the handler's stack: as posted its pushes land in a page that nobody gave it (K4), and that page moves like any other. */
const PUSHED = 0xdff000;

/** The same guest on a host that it never leaves, at its end. */
async function reference(of: HelpedGuest): Promise<TestHost> {
	const host = await startHelped(fleet, folder, 'reference', { ...of, ticks: 'off' });
	await host.call('cont');
	await host.finalDigest(of.steps);
	return host;
}

/** Pages of RAM in which two stopped guests differ. */
async function differences(a: TestHost, b: TestHost): Promise<number[]> {
	const [one, other] = await Promise.all(
		[a, b].map(async (host) => {
			const filename = join(folder, `${host.name}.ram`);
			await host.call('x-guest-memsave', { block: 'pc.ram', filename });
			return readFileSync(filename);
		}),
	);
	const pages = Array.from({ length: (one?.length ?? 0) / PAGE_SIZE }, (_, i) => i * PAGE_SIZE);
	return pages.filter((at) => one?.compare(other ?? Buffer.alloc(0), at, at + PAGE_SIZE, at, at + PAGE_SIZE) !== 0);
}

async function expectEqual(target: TestHost, expected: TestHost, steps: number): Promise<void> {
	const [got, want] = [await target.finalDigest(steps), await expected.call('x-guest-digest')];
	expect({ ...got, blocks: got.blocks.slice(1) }).toEqual({ ...want, blocks: want.blocks.slice(1) });
	expect(await differences(target, expected)).toEqual([PUSHED]);
}

async function atWork(of: HelpedGuest): Promise<TestHost> {
	const host = await startHelped(fleet, folder, 'source', of);
	await host.call('cont');
	await host.reached(1);
	return host;
}

describe('the guest that never moved is equalled', () => {
	it.each([
		['ab', 10_000, 'mh-v2'],
		['random', 20_000, 'mh-v1'],
		['shared-io', 120, 'mh-v2'],
	] as const)('by one that moved at work: %s', async (workload, steps, dialect) => {
		const of: HelpedGuest = { ...guest, workload, steps, dialect };
		const expected = await reference(of);
		const source = await atWork(of);
		const target = await startWaiting(fleet, folder, 'target', { ...of, ticks: 'off' });
		const info = await migrateHelped(source, target);
		expect(info).toMatchObject({ status: 'completed' });
		expect(info.ram?.total).toBeGreaterThan(40 * 2 ** 20);
		expect([await source.state(), source.running]).toEqual(['postmigrate', false]);
		expect(await source.refusal('cont')).toMatch(/handed over/);
		await expectEqual(target, expected, of.steps);
	});

	it('by one that went from A to B to C, whose handler on B served both', async () => {
		const expected = await reference(guest);
		const a = await atWork(guest);
		const b = await startWaiting(fleet, folder, 'B', guest);
		expect(await migrateHelped(a, b)).toMatchObject({ status: 'completed' });
		expect(await b.refusal('start-migrate-incoming', { uri: 'tcp:127.0.0.1:0' })).toBe(
			'The guest here is no migration target: it runs, or ran',
		);
		const c = await startWaiting(fleet, folder, 'C', { ...guest, ticks: 'off' });
		expect(await migrateHelped(b, c)).toMatchObject({ status: 'completed' });
		await expectEqual(c, expected, guest.steps);
	});

	it('by one whose first attempt was cut: the target waits again, and takes it', async () => {
		const expected = await reference(guest);
		const source = await atWork(guest);
		const target = await startWaiting(fleet, folder, 'target', { ...guest, ticks: 'off' });
		const relay = await Relay.open(await listenHelped(target), { cutAt: 4 * 2 ** 20 });
		await source.call('migrate', { uri: relay.uri });
		expect((await source.migrationEnd()).status).toBe('failed');
		await target.migration('failed');
		expect(await target.call('query-migrate')).toMatchObject({
			status: 'failed',
			'error-desc': expect.stringMatching(/^load of migration failed: /),
		});
		expect(await target.state()).toBe('running');
		expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
		await expectEqual(target, expected, guest.steps);
	});
});

it('shows the whole guest to whoever listens', async () => {
	const source = await atWork({ ...guest, seed: 77 });
	await source.call('stop');
	const target = await startWaiting(fleet, folder, 'target', guest);
	const relay = await Relay.open(await listenHelped(target), { record: true });
	await source.call('migrate', { uri: relay.uri });
	expect((await source.migrationEnd()).status).toBe('completed');
	// The boot parameters, in a private page of the kernel, name the program.
	expect(Buffer.concat(relay.passed).includes(Buffer.from('CVMBOOT1', 'latin1'))).toBe(true);
	expect(Buffer.from(source.host.dram).includes(Buffer.from('CVMBOOT1', 'latin1'))).toBe(false);
});

describe('-insecure-plaintext', () => {
	it('is said once in a warning', async () => {
		const source = await atWork(guest);
		await source.call('start-migration-handler');
		expect(source.warnings).toEqual([
			'warning: -insecure-plaintext: a migration helper that encrypts nothing may show the whole guest',
		]);
	});

	it('is needed at both ends', async () => {
		const refusal = 'The migration helper rfc-2021 encrypts nothing: to move a guest by it needs -insecure-plaintext';
		const source = await startHelped(fleet, folder, 'source', withoutPlaintext(guest));
		await source.call('cont');
		await source.reached(1);
		expect(await source.refusal('migrate', { uri: 'tcp:127.0.0.1:1' })).toBe(refusal);
		expect((await source.call('query-migrate'))['blocked-reasons']).toEqual([refusal]);
		const target = await startWaiting(fleet, folder, 'target', withoutPlaintext(guest));
		expect(await target.refusal('start-migrate-incoming', { uri: 'tcp:127.0.0.1:0' })).toBe(refusal);
		expect([source.running, target.running]).toEqual([true, true]);
	});
});

it('proves nothing: there is no token, and none is taken', async () => {
	const source = await atWork(guest);
	const none = 'The migration helper rfc-2021 proves nothing';
	expect(await source.refusal('x-migration-token')).toBe(none);
	expect(await source.refusal('x-migration-revive', { token: 'AAAA' })).toBe('The guest was not given up');
});
