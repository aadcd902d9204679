/** What a host answers: QEMU's words where QEMU has them, the firmware's where it refuses. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildFirmwareImage } from '@cvm/ovmf-mh';
import { SEV_CERT_SIZE, Status } from '@cvm/sev-hw/owner';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Fleet, fromBase64, type TestHost } from './hosts.js';
import {
	examine,
	type Guest,
	guestOptions,
	listen,
	migrate,
	type Platform,
	prepare,
	sealFor,
	startSource,
	startTarget,
} from './migration.js';
import { GuestOwner } from './owner.js';
import { RawMonitor } from './raw-monitor.js';
import { isAcknowledgement, Relay } from './relay.js';

const fleet = new Fleet();
const monitors: RawMonitor[] = [];
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-qmp-'));
});
afterEach(async () => {
	for (const monitor of monitors.splice(0)) monitor.close();
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const plain: Guest = { workload: 'ab', steps: 100_000 };
const sealed: Guest = { ...plain, policy: 0 };
const strict: Guest = { ...plain, policy: 0x20 };
const support = ['-machine', 'q35,confidential-guest-support=sev0'];

async function running(guest: Guest): Promise<TestHost> {
	const source = await startSource(fleet, 'source', guest);
	await source.call('cont');
	await source.reached(1);
	return source;
}

describe('over its socket a host', () => {
	it('greets, negotiates, answers, tells events and says goodbye', async () => {
		const path = join(folder, 'qmp');
		const options = [...guestOptions(plain), '-S', '-qmp', `unix:${path},server,nowait`, '-name', 'it'];
		const host = await fleet.start('host', [...options, '-uuid', '01234567-89ab-cdef-0123-456789abcdef']);
		const monitor = await RawMonitor.connect(path);
		monitors.push(monitor);
		expect(await monitor.execute('query-status')).toEqual({
			return: { status: 'prelaunch', singlestep: false, running: false },
		});
		expect(await monitor.execute('query-name')).toEqual({ return: { name: 'it' } });
		expect(await monitor.execute('query-uuid')).toEqual({ return: { UUID: '01234567-89ab-cdef-0123-456789abcdef' } });
		expect(await monitor.execute('query-sev')).toMatchObject({
			return: { enabled: false, policy: 0, state: 'uninit' },
		});
		expect(await monitor.execute('no-such-command')).toEqual({
			error: { class: 'CommandNotFound', desc: 'The command no-such-command has not been found' },
		});
		expect(await monitor.execute('migrate')).toEqual({
			error: { class: 'GenericError', desc: `Parameter 'uri' is missing` },
		});
		expect(await monitor.execute('cont')).toEqual({ return: {} });
		expect(await monitor.execute('stop')).toEqual({ return: {} });
		expect(await monitor.execute('stop')).toEqual({ return: {} });
		expect(await monitor.execute('quit')).toEqual({ return: {} });
		expect(await host.host.ended).toEqual({ code: 0 });
		const events = [
			...Buffer.from(monitor.transcript)
				.toString()
				.matchAll(/"event": ?"(\w+)"/g),
		].map(([, event]) => event);
		expect(events).toEqual(['RESUME', 'STOP', 'SHUTDOWN']);
	});
});

describe('migrate is refused', () => {
	it.each([
		['rdma:host:1', `Parameter 'uri' expects a valid migration protocol`],
		['tcp:127.0.0.1:99999', `error parsing address '127.0.0.1:99999'`],
		['', `Parameter 'uri' expects a valid migration protocol`],
	])('for the URI "%s", and query-migrate remembers it', async (uri, words) => {
		const source = await startSource(fleet, 'source', plain);
		expect(await source.refusal('migrate', { uri })).toBe(words);
		expect((await source.call('query-migrate')).status).toBe('failed');
	});

	it('with options that this model does not have', async () => {
		const source = await startSource(fleet, 'source', plain);
		const uri = 'tcp:127.0.0.1:1';
		expect(await source.refusal('migrate', { uri, blk: true })).toBe('Block migration is not supported by this model');
		expect(await source.refusal('migrate', { uri, resume: true })).toBe(
			'Cannot resume if there is no paused migration',
		);
		expect(await source.call('query-migrate')).toEqual({});
	});

	it('on a host that waits for a guest itself', async () => {
		const target = await startTarget(fleet, 'target', plain);
		expect(await target.refusal('migrate', { uri: 'tcp:127.0.0.1:1' })).toBe(
			'Guest is waiting for an incoming migration',
		);
	});

	it('before the guest has said that its page status is complete', async () => {
		const source = await startSource(fleet, 'source', sealed);
		const reason =
			'SEV: the guest has not enabled migration (KVM_MIGRATION_READY is not set in MSR_KVM_MIGRATION_CONTROL)';
		expect(await source.call('query-migrate')).toEqual({ 'blocked-reasons': [reason] });
		expect(await source.refusal('migrate', { uri: 'tcp:127.0.0.1:1' })).toBe(reason);
		await source.call('cont');
		await source.reached(1);
		expect(await source.call('query-migrate')).toEqual({});
	});

	it('of a confidential guest into a file, which can not answer, or without certificates', async () => {
		const source = await running(sealed);
		for (const [kind, uri] of [
			['file', `file:${join(folder, 'stream')}`],
			['exec', 'exec:cat'],
		] as const) {
			expect(await source.refusal('migrate', { uri })).toBe(
				`A confidential guest needs a target that answers: '${kind}:' has no way back for the hand-over`,
			);
		}
		const missing = /^SEV: missing remote PDH or PLAT_CERT: Parameter 'sev-pdh' is not set$/;
		expect(await source.refusal('migrate', { uri: 'tcp:127.0.0.1:1' })).toMatch(missing);
		expect(source.running).toBe(true);
	});

	it('while another one is in progress, as are new capabilities', async () => {
		const source = await running(plain);
		const target = await startTarget(fleet, 'target', plain);
		const relay = await Relay.open(await prepare(source, target), { stream: () => 'hold' });
		await source.call('migrate', { uri: relay.uri });
		expect(await source.refusal('migrate', { uri: relay.uri })).toBe(`There's a migration process in progress`);
		expect(await source.refusal('migrate-set-capabilities', { capabilities: [] })).toBe(
			`There's a migration process in progress`,
		);
		await source.call('migrate_cancel');
		relay.cut();
		expect((await source.migrationEnd()).status).toBe('cancelled');
	});

	it('by nobody there: it fails later, with the reason, and the guest runs on', async () => {
		const source = await running(plain);
		await source.call('migrate', { uri: `unix:${join(folder, 'nobody')}` });
		expect(await source.migrationEnd()).toEqual({
			status: 'failed',
			'error-desc': `Failed to connect to '${join(folder, 'nobody')}': No such file or directory`,
		});
		expect(source.running).toBe(true);
		expect(source.events.map((o) => o.event)).not.toContain('STOP');
	});
});

describe('migrate-incoming is refused', () => {
	it('by a host that was not started for it', async () => {
		const host = await startSource(fleet, 'host', plain);
		expect(await host.refusal('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })).toBe(
			`'-incoming' was not specified on the command line`,
		);
	});

	it('twice, for unknown protocols, for addresses that others could reach, and where somebody else listens', async () => {
		const first = await startTarget(fleet, 'first', plain);
		const uri = await listen(first);
		expect(await first.refusal('migrate-incoming', { uri })).toBe('The incoming migration has already been started');
		const second = await startTarget(fleet, 'second', plain);
		expect(await second.refusal('migrate-incoming', { uri: 'rdma:x:1' })).toBe('unknown migration protocol: rdma:x:1');
		expect(await second.refusal('migrate-incoming', { uri: 'tcp:192.0.2.1:0' })).toBe(
			`this model listens on the loopback interface only, not on '192.0.2.1'`,
		);
		expect(await second.refusal('migrate-incoming', { uri })).toBe(
			`Failed to bind '${uri.slice(4)}': Address already in use`,
		);
		expect(await listen(second)).toMatch(/^tcp:127\.0\.0\.1:\d+$/);
		expect(await second.state()).toBe('inmigrate');
	});
});

it('migrate-incoming for everybody becomes one for this machine, with a warning', async () => {
	const target = await startTarget(fleet, 'target', plain);
	await target.call('migrate-incoming', { uri: 'tcp::0' });
	expect(target.warnings).toEqual(['warning: tcp::0: this model listens on the loopback interface only: 127.0.0.1']);
	expect((await target.call('query-migrate'))['socket-address']).toMatchObject([{ type: 'inet', host: '127.0.0.1' }]);
});

describe('cont', () => {
	it('is refused while the target may still take the guest, and works when it did not', async () => {
		const source = await running(sealed);
		const target = await startTarget(fleet, 'target', sealed);
		let held: () => void = () => undefined;
		const acknowledged = new Promise<void>((resolve) => {
			held = resolve;
		});
		const relay = await Relay.open(await prepare(source, target), {
			answer: (piece) => {
				if (!isAcknowledgement(piece)) return 'pass';
				held();
				return 'hold';
			},
		});
		await source.call('migrate', { uri: relay.uri });
		await acknowledged;
		expect(await source.state()).toBe('finish-migrate');
		expect(await source.refusal('cont')).toBe('Migration is not finalized yet');
		await source.call('migrate_cancel');
		expect((await source.migrationEnd()).status).toBe('cancelled');
		expect(await source.state()).toBe('running');
	});

	it('on a host that waits only says that the guest may start, and stop that it may not', async () => {
		const source = await running(sealed);
		const target = await startTarget(fleet, 'target', sealed);
		await target.call('stop');
		expect(await migrate(source, target)).toMatchObject({ status: 'completed' });
		expect(await target.state()).toBe('paused');
		expect(target.events.map((o) => o.event)).not.toContain('RESUME');
		await target.call('cont');
		expect(target.running).toBe(true);
	});
});

describe('reading a guest', () => {
	it('takes a stopped one, a block that exists, memory that exists and a place to write to', async () => {
		const host = await running(plain);
		expect(await host.refusal('x-guest-digest')).toBe('The VM must be stopped');
		const filename = join(folder, 'out');
		expect(await host.refusal('x-guest-memsave', { block: 'pc.ram', filename })).toBe('The VM must be stopped');
		await host.call('stop');
		expect(await host.refusal('x-guest-memsave', { block: 'vga', filename })).toBe(`RAM block 'vga' not found`);
		const nowhere = join(folder, 'no', 'out');
		for (const refused of [
			host.refusal('x-guest-memsave', { block: 'pc.ram', filename: nowhere }),
			host.refusal('x-dram-save', { filename: nowhere }),
			host.refusal('pmemsave', { val: 0n, size: 16n, filename: nowhere }),
		]) {
			expect(await refused).toBe(`Could not open '${nowhere}': No such file or directory`);
		}
		expect(await host.refusal('pmemsave', { val: 0n, size: 16n, filename: '/dev/full' })).toBe(
			`Could not write '/dev/full': No space left on device`,
		);
		expect(await host.refusal('pmemsave', { val: 2n ** 30n, size: 16n, filename })).toBe(
			'Invalid addr 0x40000000/size 16 specified',
		);
		expect(await host.refusal('pmemsave', { val: 0n, size: 0n, filename })).toBe('Invalid addr 0x0/size 0 specified');
	});
});

describe('a confidential guest', () => {
	it('goes through the states that QEMU shows, on both hosts', async () => {
		const source = await startSource(fleet, 'source', sealed);
		const state = async (host: TestHost) => (await host.call('query-sev')).state;
		const info = await source.call('query-sev');
		expect(info).toMatchObject({ enabled: true, policy: 0, state: 'launch-secret' });
		expect(info.handle).toBeGreaterThan(0);
		await source.call('cont');
		await source.reached(1);
		expect(await state(source)).toBe('running');
		const target = await startTarget(fleet, 'target', sealed);
		expect(await target.call('query-sev')).toMatchObject({ enabled: true, state: 'uninit', handle: 0 });
		const uri = await prepare(source, target);
		await source.call('migrate', { uri });
		await source.event((event) => event === 'STOP');
		expect([await state(source), await state(target)]).toEqual(['send-update', 'receive-update']);
		expect((await source.migrationEnd()).status).toBe('completed');
		expect([await state(source), await state(target)]).toEqual(['running', 'running']);
		expect((await target.call('query-sev')).handle).toBeGreaterThan(0);
		expect(await target.call('query-migrate')).toEqual({ status: 'completed' });
	});

	it('is measured as its owner expects, and not as anybody else does', async () => {
		const owner = await GuestOwner.open(fleet, folder, 0);
		const host = await fleet.start('host', [...guestOptions(plain), ...support, ...owner.options, '-S']);
		const firmware = buildFirmwareImage();
		expect(await owner.verify(host, [firmware])).toBe(Status.SUCCESS);
		firmware[0] = (firmware[0] ?? 0) ^ 1;
		expect(await owner.verify(host, [firmware])).not.toBe(Status.SUCCESS);
		const other = mkdtempSync(join(folder, 'other-'));
		expect(await (await GuestOwner.open(fleet, other, 0)).verify(host, [buildFirmwareImage()])).not.toBe(
			Status.SUCCESS,
		);
	});

	it('takes secrets only before it runs, only for its measurement and only into its memory', async () => {
		const owner = await GuestOwner.open(fleet, folder, 0);
		const host = await fleet.start('host', [...guestOptions(plain), ...support, ...owner.options, '-S']);
		const packet = await owner.seal(host, Uint8Array.of(1, 2, 3));
		const changed = fromBase64(packet.secret);
		changed[0] = (changed[0] ?? 0) ^ 1;
		expect(await host.refusal('sev-inject-launch-secret', { ...packet, secret: base64(changed) })).toMatch(
			/^LAUNCH_SECRET ret=-5 fw_error=11 'Bad measurement'$/,
		);
		expect(await host.refusal('sev-inject-launch-secret', { ...packet, gpa: 2n ** 40n })).toBe(
			'SEV: Failed to inject secret: no RAM at 0x10000000000',
		);
		expect(await host.refusal('sev-inject-launch-secret', { ...packet, 'packet-header': '?' })).toBe(
			`Parameter 'packet-header' expects base64 text`,
		);
		await host.call('sev-inject-launch-secret', packet);
		await host.call('cont');
		expect(await host.refusal('sev-inject-launch-secret', packet)).toBe(
			`LAUNCH_SECRET ret=-5 fw_error=2 'Guest state is invalid'`,
		);
	});

	it('has no measurement and takes no secret if it is no confidential guest', async () => {
		const host = await startSource(fleet, 'host', plain);
		expect(await host.refusal('query-sev-launch-measure')).toBe('SEV launch measurement is not available');
		expect(await host.refusal('sev-inject-launch-secret', { 'packet-header': 'AAAA', secret: 'AAAA' })).toBe(
			'SEV not enabled for guest',
		);
	});

	it.each([
		['a session for another platform', [], { platform: true }, /^LAUNCH_START ret=-5 fw_error=11 'Bad measurement'$/],
		['a session for another policy', ['policy=1'], {}, /^LAUNCH_START ret=-5 fw_error=11 'Bad measurement'$/],
		['a session that is none', ['session-file=GARBAGE'], {}, /^LAUNCH_START ret=-5 fw_error=4 'Buffer too small'$/],
		[
			'half of an owner',
			['dh-cert-file=GARBAGE'],
			{ half: true },
			/^-object sev-guest: dh-cert-file and session-file belong together$/,
		],
		[
			'a file that is not there',
			['session-file=NOWHERE'],
			{},
			/^-object sev-guest,session-file: could not open '.*': No such file or directory$/,
		],
		['SEV-ES, which the host has not', ['policy=4'], { half: true }, /SEV-ES support unavailable$/],
	] as const)(
		'is not launched with %s',
		async (_, properties, { platform, half }: { platform?: boolean; half?: boolean }, words) => {
			const owner = await GuestOwner.open(fleet, folder, 0);
			writeFileSync(join(folder, 'garbage'), 'AAAA');
			const [, identity = '', , object = ''] = owner.options;
			const changed = [half ? 'sev-guest,id=sev0' : object, ...properties]
				.join(',')
				.replace('GARBAGE', join(folder, 'garbage'))
				.replace('NOWHERE', join(folder, 'nowhere'));
			const options = [
				...support,
				'-object',
				changed,
				'-platform',
				platform ? join(folder, 'another') : identity,
				'-S',
			];
			await expect(fleet.start('host', [...guestOptions(plain), ...options])).rejects.toThrow(words);
		},
	);
});

describe('a migration of a guest whose policy wants a genuine target', () => {
	const swapped = (chain: Uint8Array, other: Uint8Array, index: number) => {
		const out = chain.slice();
		out.set(other.subarray(index * SEV_CERT_SIZE, (index + 1) * SEV_CERT_SIZE), index * SEV_CERT_SIZE);
		return out;
	};
	const damaged = (blob: Uint8Array, at: number) => blob.map((byte, i) => (i === at ? byte ^ 1 : byte));

	it.each<[string, (target: Platform, foreign: Platform) => Platform, RegExp]>([
		['the PDH of one platform with the chain of another', (t, f) => ({ ...t, chain: f.chain }), /'Bad signature'/],
		['a swapped PEK', (t, f) => ({ ...t, chain: swapped(t.chain, f.chain, 0) }), /'Bad signature'/],
		['a swapped CEK', (t, f) => ({ ...t, chain: swapped(t.chain, f.chain, 2) }), /'Bad signature'/],
		[
			'a root that is not AMD’s',
			(t) => ({ ...t, askArk: damaged(t.askArk, t.askArk.length - 100) }),
			/'(Certificate is invalid|Bad signature)'/,
		],
		[
			'a PDH that was touched',
			(t) => ({ ...t, pdh: damaged(t.pdh, 0x20) }),
			/'(Certificate is invalid|Bad signature)'/,
		],
	])('fails for %s, and the source goes on', async (_, forge, words) => {
		const source = await running(strict);
		const target = await startTarget(fleet, 'target', strict);
		const foreign = await fleet.start('foreign', ['-machine', 'none', '-S']);
		const uri = await prepare(source, target);
		await sealFor(source, forge(await examine(target), await examine(foreign)));
		await source.call('migrate', { uri });
		const info = await source.migrationEnd();
		expect(info).toMatchObject({
			status: 'failed',
			'error-desc': expect.stringMatching(/SEND_START ret=-5 fw_error=(6|10) /),
		});
		expect(info['error-desc']).toMatch(words);
		expect([await source.state(), (await source.call('query-sev')).state]).toEqual(['running', 'running']);
		expect((await target.host.ended).code).toBe(1);
		// The mistake is not remembered: with the right certificates the guest moves.
		const second = await startTarget(fleet, 'second target', strict);
		expect(await migrate(source, second)).toMatchObject({ status: 'completed' });
	});

	it('fails if it was sealed for another platform than the one that got it', async () => {
		const source = await running(strict);
		const target = await startTarget(fleet, 'target', strict);
		const foreign = await fleet.start('foreign', ['-machine', 'none', '-S']);
		const uri = await prepare(source, target);
		await sealFor(source, await examine(foreign));
		await source.call('migrate', { uri });
		expect((await source.migrationEnd()).status).toBe('failed');
		expect((await target.host.ended).line).toMatch(/RECEIVE_START ret=-5 fw_error=11 'Bad measurement'/);
		expect(await source.state()).toBe('running');
	});

	it('fails if the target was started with another policy', async () => {
		const source = await running(strict);
		const target = await startTarget(fleet, 'target', { ...strict, policy: 0 });
		expect(await migrate(source, target)).toMatchObject({ status: 'failed', 'error-desc': expect.stringMatching(/./) });
		expect((await target.host.ended).line).toMatch(
			/RECEIVE_START: guest policy of the stream is 0x20 and local is 0x0$/,
		);
		expect([await source.state(), (await source.call('query-sev')).state]).toEqual(['running', 'running']);
	});

	it('fails if the policy forbids to send', async () => {
		const source = await running({ ...plain, policy: 8 });
		const target = await startTarget(fleet, 'target', { ...plain, policy: 8 });
		expect(await migrate(source, target)).toMatchObject({
			status: 'failed',
			'error-desc': expect.stringContaining(`SEND_START ret=-5 fw_error=7 'Policy is not allowed'`),
		});
		expect(await source.state()).toBe('running');
	});

	it('fails between machines of another size or kind', async () => {
		const source = await running(strict);
		for (const other of [
			{ ...strict, memory: '48M' },
			{ ...strict, machine: 'pc' },
		]) {
			const more = 'machine' in other ? ['-machine', 'pc,confidential-guest-support=sev0'] : [];
			const target = await startTarget(fleet, 'target', other, ...more);
			expect(await migrate(source, target)).toMatchObject({ status: 'failed' });
			expect((await target.host.ended).line).toMatch(/^load of migration failed: Invalid argument: /);
			expect(await source.state()).toBe('running');
		}
	});
});
