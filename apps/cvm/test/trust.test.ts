/** Certificates, sessions and policies that do not belong: refused in one line, and whoever has the guest keeps it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HostProcess } from '../src/demo/host-process.js';
import { startTarget } from '../src/demo/stage.js';
import { beginMigration, migrationEnd, moreSteps, Scene } from './guests.js';
import { expectOneLine, run } from './processes.js';

const FAST = { bandwidth: 0, downtime: 2000 };

let scene: Scene;
beforeEach(() => {
	scene = new Scene(100_000);
});
afterEach(() => scene.close());

async function expectKept(source: HostProcess): Promise<void> {
	expect((await source.monitor.execute('query-status')).status).toBe('running');
	await moreSteps(source);
	const target = await scene.target();
	await beginMigration(source, target, FAST);
	expect(await migrationEnd(source)).toMatchObject({ status: 'completed' });
	await moreSteps(target.host);
}

describe('certificates of the target', () => {
	it('that are another chip’s: that target can not open what is sealed for the other, and the guest stays', async () => {
		const source = await scene.source();
		const [meant, other] = [await scene.target(), await scene.target()];
		await beginMigration(source, { ...meant, uri: other.uri }, FAST);
		const { status, 'error-desc': reason } = await migrationEnd(source);
		expect(status).toBe('failed');
		expect(reason).toMatch(/^[^\n]+$/);
		expect(await other.host.ended).toBe(1);
		expect(other.host.complaints).toMatch(/^load of migration failed: [^\n]*RECEIVE_START[^\n]*$/);
		expect((await meant.host.monitor.execute('query-status')).status).toBe('inmigrate');
		await expectKept(source);
	});

	it.each([
		['a PDH with one byte changed', 'pdh', 1000],
		['a chain with one byte changed', 'chain', 100],
		['manufacturer’s certificates with one byte changed', 'askArk', 200],
	] as const)('that are forged, %s: the firmware refuses to seal, and the guest stays', async (_, which, at) => {
		const source = await scene.source();
		const target = await scene.target();
		const forged = target.platform[which].slice();
		forged[at] = (forged[at] ?? 0) ^ 1;
		await beginMigration(source, { ...target, platform: { ...target.platform, [which]: forged } }, FAST);
		const { status, 'error-desc': reason } = await migrationEnd(source);
		expect(status).toBe('failed');
		expect(reason).toMatch(/^SEND_START ret=-\d+ fw_error=\d+ '[^']+'$/);
		await expectKept(source);
	});
});

describe('the owner’s session', () => {
	const launchWith = (files: { dhCertFile: string; sessionFile: string }, policy: number) => [
		...['host', '-machine', 'q35,confidential-guest-support=sev0', '-m', '64M', '-S'],
		...[
			'-object',
			`sev-guest,id=sev0,policy=${policy},dh-cert-file=${files.dhCertFile},session-file=${files.sessionFile}`,
		],
	];

	async function session(policy: number) {
		const name = 'probe';
		const probe = await HostProcess.start(name, join(scene.stage.folder, 'probe.qmp'), [
			...['-machine', 'none', '-S', '-platform', join(scene.stage.folder, 'chip')],
		]);
		scene.stage.hosts.add(probe);
		const platform = await scene.stage.owner.examine(probe.monitor, name);
		return scene.stage.owner.openSession(platform, policy, scene.stage.folder);
	}

	it('for another chip is refused', async () => {
		const files = await session(0x20);
		expect(expectOneLine(await run(...launchWith(files, 0x20)), 1)).toMatch(/LAUNCH_START ret=-\d+ fw_error=\d+ '/);
	});

	it('for another policy is refused', async () => {
		const files = await session(0x20);
		const argv = [...launchWith(files, 0), '-platform', join(scene.stage.folder, 'chip')];
		expect(expectOneLine(await run(...argv), 1)).toMatch(/LAUNCH_START ret=-\d+ fw_error=\d+ '/);
	});

	it('that is no session is refused', async () => {
		const files = await session(0x20);
		writeFileSync(files.sessionFile, 'not a session!');
		expect(expectOneLine(await run(...launchWith(files, 0x20)), 1)).toMatch(/LAUNCH_START ret=-\d+ fw_error=\d+ '/);
	});

	it('that is not there is named', async () => {
		const files = { ...(await session(0x20)), sessionFile: '/nonexistent' };
		expect(expectOneLine(await run(...launchWith(files, 0x20)), 2)).toContain(
			"'/nonexistent': No such file or directory",
		);
	});
});

describe('the policy', () => {
	it('of a target that was started with another is told apart, and the guest stays', async () => {
		const source = await scene.source();
		const other = { ...scene.stage, options: { ...scene.stage.options, policy: 0 } };
		const { host, platform } = await startTarget(other, 'other');
		if (!platform) throw new Error('expected a confidential target');
		await host.monitor.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
		const [address] = (await host.monitor.execute('query-migrate'))['socket-address'] ?? [];
		if (address?.type !== 'inet') throw new Error('expected a port');
		await beginMigration(source, { host, platform, uri: `tcp:${address.host}:${address.port}` }, FAST);
		expect(await migrationEnd(source)).toMatchObject({ status: 'failed' });
		expect(await host.ended).toBe(1);
		expect(host.complaints).toMatch(
			/^load of migration failed: [^\n]*guest policy of the stream is 0x20 and local is 0x0$/,
		);
		await expectKept(source);
	});
});
