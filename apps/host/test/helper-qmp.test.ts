/** Machines with migration helpers, from the command line and QMP: what is refused, with which words, and what goes on. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
	type HelpedGuest,
	helpedOptions,
	listenHelped,
	MIGRATION_SECRET,
	migrateHelped,
	startHelped,
	startWaiting,
} from './helped.js';
import { Fleet, type TestHost } from './hosts.js';
import { examine, guestOptions, listen, sealFor, startSource } from './migration.js';
import { Relay } from './relay.js';

const fleet = new Fleet();
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-qmp-'));
});
afterEach(async () => {
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const guest: HelpedGuest = { workload: 'random', steps: 200_000, seed: 2 };
const secretless: HelpedGuest = { ...guest, secret: 'none' };
const nowhere = { uri: 'tcp:127.0.0.1:0' };

async function atWork(of: HelpedGuest): Promise<TestHost> {
	const host = await startHelped(fleet, folder, 'source', of);
	await host.call('cont');
	await host.reached(1);
	return host;
}
const reasons = async (host: TestHost) => (await host.call('query-migrate'))['blocked-reasons'];

describe('a source', () => {
	it('whose owner gave no migration secret says so and stays', async () => {
		const line = `The guest's owner gave it no migration secret (sev-inject-launch-secret before the guest runs)`;
		const source = await atWork(secretless);
		expect(await source.refusal('migrate', nowhere)).toBe(line);
		expect(await reasons(source)).toEqual([line]);
		expect(source.running).toBe(true);
	});

	it('whose helper was not started says so, but starts it when it is to move', async () => {
		const source = await atWork(guest);
		expect(await reasons(source)).toEqual(['The migration helper was not started (start-migration-handler)']);
		const target = await startWaiting(fleet, folder, 'target', guest);
		expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
		expect(await reasons(target)).toBeUndefined();
	});

	it('whose firmware was not told to set a helper up says which item it takes', async () => {
		const options = helpedOptions(secretless).filter(
			(word, i, all) => ![word, all[i + 1]].some((w) => w?.includes('Pcd')),
		);
		const object = ['-object', 'sev-guest,id=sev0,policy=0'];
		const source = await fleet.start('source', [...options, ...object, '-S']);
		await source.call('cont');
		await source.reached(1);
		const line =
			'The firmware was not told to set up a migration helper: -fw_cfg name=opt/ovmf/PcdStartConfidentialMigrationHandler,string=1';
		expect(await source.refusal('start-migration-handler')).toBe(line);
		expect(await source.refusal('migrate', nowhere)).toBe(line);
	});

	it('that has not begun has no helper to start', async () => {
		const source = await startHelped(fleet, folder, 'source', secretless);
		expect(await source.refusal('start-migration-handler')).toBe(
			'The firmware has not set up its migration helper: the guest must have started',
		);
	});

	it('takes start-migration-handler more than once', async () => {
		const source = await atWork(guest);
		await Promise.all([source.call('start-migration-handler'), source.call('start-migration-handler')]);
		await source.call('start-migration-handler');
		expect(await reasons(source)).toBeUndefined();
		expect(source.warnings).toEqual([]);
	});

	it('that is stopped moves as it is: its helper runs on', async () => {
		const source = await atWork(guest);
		await source.call('stop');
		const before = await source.call('x-guest-digest');
		const target = await startWaiting(fleet, folder, 'target', guest);
		expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
		expect(await target.state()).toBe('paused');
		expect(await target.call('x-guest-digest')).toEqual(before);
		await target.call('cont');
		await target.reached(((await target.steps())[0] ?? 0) + 1);
	});

	it('with another secret than its target fails in one line, and goes on', async () => {
		const source = await atWork(guest);
		const other = Uint8Array.from(MIGRATION_SECRET, (byte) => byte ^ 1);
		const target = await startWaiting(fleet, folder, 'target', { ...guest, secret: other });
		const info = await migrateHelped(source, target);
		expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringMatching(/^[^\n]+$/) });
		await target.migration('failed');
		expect((await target.call('query-migrate'))['error-desc']).toMatch(/authentication/);
		expect([await source.state(), await target.state()]).toEqual(['running', 'running']);
		await source.reached(((await source.steps())[0] ?? 0) + 1);
	});

	it('with the capability off moves by the firmware, to a machine without helpers', async () => {
		const source = await atWork(guest);
		await source.call('migrate-set-capabilities', {
			capabilities: [{ capability: 'x-migration-helper', state: false }],
		});
		expect(await source.refusal('migrate', nowhere)).toMatch(/^SEV: missing remote PDH/);
		const target = await fleet.start('target', [...guestOptions({ ...guest, policy: 0 }), '-incoming', 'defer']);
		await sealFor(source, await examine(target));
		const uri = await listen(target);
		await source.call('migrate', { uri });
		expect((await source.migrationEnd()).status).toBe('completed');
		expect(await target.state()).toBe('running');
		// Its helper was never asked, and so is no witness.
		expect(await source.refusal('x-migration-revive', { token: 'AAAA' })).toBe(
			'The guest was given up without its helper: no proof brings it back',
		);
		expect([await source.state(), source.running]).toEqual(['postmigrate', false]);
	});
});

describe('a target', () => {
	it('is no source yet', async () => {
		const target = await startWaiting(fleet, folder, 'target', guest);
		expect(await target.refusal('migrate', nowhere)).toMatch(/KVM_MIGRATION_READY is not set/);
	});

	it('listens once at a time, on sockets, and on loopback with a warning', async () => {
		const target = await startWaiting(fleet, folder, 'target', guest);
		const call = (uri: string) => target.refusal('start-migrate-incoming', { uri });
		expect(await call('rdma:x:1')).toBe('unknown migration protocol: rdma:x:1');
		expect(await call('file:/nowhere')).toBe(`A helper has to answer its peer: 'file:' has no way back`);
		expect(await call('tcp:192.0.2.1:0')).toMatch(/loopback interface only/);
		await target.call('start-migrate-incoming', { uri: 'tcp:0.0.0.0:0' });
		expect(target.warnings).toEqual([
			'warning: tcp:0.0.0.0:0: this model listens on the loopback interface only: 127.0.0.1',
		]);
		expect(await call('tcp:127.0.0.1:0')).toBe('The incoming migration has already been started');
		expect((await target.call('query-migrate'))['socket-address']).toEqual([
			{ type: 'inet', host: '127.0.0.1', port: expect.stringMatching(/^\d+$/) },
		]);
		expect(await target.state()).toBe('running');
	});

	it('that speaks another dialect than its source takes nothing', async () => {
		const source = await atWork({ ...guest, dialect: 'mh-v1' });
		const target = await startWaiting(fleet, folder, 'target', guest);
		expect((await migrateHelped(source, target)).status).toBe('failed');
		expect(await source.state()).toBe('running');
	});

	it('must run, and must be one', async () => {
		const source = await atWork(guest);
		expect(await source.refusal('start-migrate-incoming', nowhere)).toBe(
			'The guest here is no migration target: it runs, or ran',
		);
		await source.call('stop');
		expect(await source.refusal('start-migrate-incoming', nowhere)).toBe(
			`The guest must run up to where its firmware waits for another, got 'paused'`,
		);
	});

	it('is one by the names of the QEMU documentation, too', async () => {
		const rename = (options: string[]) =>
			options.map((word) =>
				word.replace('PcdStartConfidentialMigrationHandler,string=1', 'PcdSevIsMigrationHelper,string=0'),
			);
		const object = ['-object', 'sev-guest,id=sev0,policy=0', '-S'];
		const target = await fleet.start('target', [
			...rename(helpedOptions(secretless)),
			...['-fw_cfg', 'name=opt/ovmf/PcdSevIsMigrationTarget,string=1', ...object],
		]);
		await target.call('cont');
		expect(await listenHelped(target)).toMatch(/^tcp:127/);
	});
});

describe('a machine without mirror vCPUs', () => {
	it('has no helper', async () => {
		const host = await startSource(fleet, 'host', { ...guest, policy: 0 });
		const none = 'This machine has no mirror vCPUs: -smp N,mirrorvcpus=M';
		expect(await host.refusal('start-migration-handler')).toBe(none);
		expect(await host.refusal('start-migrate-incoming', nowhere)).toMatch(/needs a migration helper/);
		expect(await host.refusal('x-migration-token')).toBe('This machine has no migration helper');
		expect(await host.refusal('x-migration-revive', { token: 'AAAA' })).toBe('This machine has no migration helper');
	});
});

it('a helper that shuts down takes the machine along, as a reset would, and not the process', async () => {
	const source = await atWork({ ...guest, profile: 'rfc-2021' });
	await source.call('start-migration-handler');
	await source.call('stop');
	// Where the guest's RAM lies in DRAM: found by a page that the guest shares.
	const filename = join(folder, 'progress.bin');
	await source.call('pmemsave', { val: 0x1201000n, size: 4096n, filename });
	const { dram } = source.host;
	const haystack = Buffer.from(dram.buffer as ArrayBuffer, dram.byteOffset, dram.length);
	const block = haystack.indexOf(readFileSync(filename)) - 0x1201000 + 0x820000;
	// SAVE of an address that no page table maps (K10), posted by a host that is not the one that it says it is.
	haystack.writeBigUInt64LE(1n, block);
	haystack.writeBigUInt64LE(2n ** 41n, block + 8);
	haystack.writeUInt32LE(1, block + 0x18);
	const { data } = await source.event((event) => event === 'SHUTDOWN');
	expect(data).toEqual({ guest: true, reason: 'guest-reset' });
	expect(await source.state()).toBe('shutdown');
	expect(source.warnings.at(-1)).toMatch(/^mirror vCPU 2: [^\n]*: the machine was to be reset$/);
	expect(await source.refusal('cont')).toBe('Resetting the Virtual Machine is required');
	expect(await reasons(source)).toEqual([expect.stringMatching(/^The migration helper is gone: /)]);
});

/** What a source sends first: its configuration, and HELLO, in which its helper drew a key and a nonce. */
async function opening(...more: string[]): Promise<Buffer> {
	const source = await startHelped(fleet, folder, 'source', guest, ...more);
	await source.call('cont');
	await source.reached(1);
	const target = await startWaiting(fleet, folder, 'target', guest);
	const pieces: Uint8Array[] = [];
	const relay = await Relay.open(await listenHelped(target), {
		stream: (piece) => {
			pieces.push(piece.slice());
			return Buffer.concat(pieces).length < HEAD ? 'pass' : 'cut';
		},
	});
	await source.call('migrate', { uri: relay.uri });
	expect((await source.migrationEnd()).status).toBe('failed');
	await fleet.close();
	return Buffer.concat(pieces).subarray(0, HEAD);
}
const HEAD = 300;

it('-insecure-seed makes even the keys of a session the same again', async () => {
	const [one, two, other] = [
		await opening('-insecure-seed', 'fixed'),
		await opening('-insecure-seed', 'fixed'),
		await opening(),
	];
	expect(one).toHaveLength(HEAD);
	expect(two).toEqual(one);
	expect(other).not.toEqual(one);
});
