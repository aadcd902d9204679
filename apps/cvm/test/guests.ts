/** Host processes with a guest of a known end, over the parts of which `cvm demo` is made. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GuestDigest } from '@cvm/host';
import type { MigrationInfo } from '@cvm/qmp';
import { expect, vi } from 'vitest';
import type { HostProcess } from '../src/demo/host-process.js';
import { stepsOf } from '../src/demo/migrate.js';
import { checkDemoOptions, type GivenDemoOptions } from '../src/demo/options.js';
import { base64, GuestOwner, type PlatformCertificates } from '../src/demo/owner.js';
import { launch, type Stage, startTarget } from '../src/demo/stage.js';
import { PATIENCE, PROGRAM } from './processes.js';

// A host is a process of the program that is running: here that is the bundle, not the test runner.
process.argv[1] = PROGRAM;

const DEFAULTS: GivenDemoOptions = {
	...{ mode: 'psp', memory: '64M', vcpus: '2', workload: 'random', hops: '1', policy: '0x20', seed: '7' },
	...{ bandwidth: '0', downtime: '300' },
};

/** A target that waits, where it listens, and what it takes to seal for it. */
export interface Target {
	readonly host: HostProcess;
	readonly platform: PlatformCertificates;
	readonly uri: string;
}

/** The hosts of one test. */
export class Scene {
	readonly stage: Stage;
	#count = 0;

	constructor(steps: number, more: Partial<GivenDemoOptions> = {}) {
		this.stage = {
			options: checkDemoOptions({ ...DEFAULTS, ...more, steps: String(steps) }),
			report: { step: () => undefined, progress: () => undefined, result: () => undefined },
			folder: mkdtempSync(join(tmpdir(), 'cvm-test-')),
			owner: new GuestOwner(),
			hosts: new Set(),
		};
	}

	/** A running guest. */
	async source(): Promise<HostProcess> {
		const { host } = await launch(this.stage, 'source');
		await host.monitor.execute('cont');
		await moreSteps(host);
		return host;
	}

	async target(more: readonly string[] = []): Promise<Target> {
		this.#count++;
		const { host, platform } = await startTarget(this.stage, `target-${this.#count}`, more);
		if (!platform) throw new Error('expected a confidential target');
		await host.monitor.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
		const [address] = (await host.monitor.execute('query-migrate'))['socket-address'] ?? [];
		if (address?.type !== 'inet') throw new Error('expected a port');
		return { host, platform, uri: `tcp:${address.host}:${address.port}` };
	}

	/** How the guest ends if it is never moved. */
	async reference(): Promise<GuestDigest> {
		const { host } = await launch(this.stage, 'reference', ['-ticks', 'off']);
		await host.monitor.execute('cont');
		return this.finish(host);
	}

	/** Lets the guest finish its work and reads it. */
	async finish(host: HostProcess): Promise<GuestDigest> {
		await vi.waitFor(async () => expect(Math.min(...(await stepsOf(host)))).toBe(this.stage.options.steps), PATIENCE);
		await host.monitor.execute('stop');
		return host.monitor.execute('x-guest-digest');
	}

	async close(): Promise<void> {
		for (const host of this.stage.hosts) host.kill();
		await Promise.all([...this.stage.hosts].map((host) => host.ended));
		for (const host of this.stage.hosts) host.monitor.close();
		rmSync(this.stage.folder, { recursive: true, force: true });
	}
}

/** How fast a migration may be. */
export interface Pace {
	readonly bandwidth: number;
	readonly downtime: number;
}

/** Starts a migration; it is under way, or has failed, when this returns. */
export async function beginMigration(source: HostProcess, to: Target, pace: Pace): Promise<void> {
	await source.monitor.execute('migrate-set-parameters', {
		'sev-pdh': base64(to.platform.pdh),
		'sev-plat-cert': base64(to.platform.chain),
		'sev-amd-cert': base64(to.platform.askArk),
		'max-bandwidth': pace.bandwidth,
		'downtime-limit': pace.downtime,
	});
	await source.monitor.execute('migrate', { uri: to.uri });
}

/** Waits for the end of a migration, however. */
export function migrationEnd(source: HostProcess): Promise<MigrationInfo> {
	return vi.waitFor(async () => {
		const info = await source.monitor.execute('query-migrate');
		expect(['completed', 'failed', 'cancelled']).toContain(info.status);
		return info;
	}, PATIENCE);
}

/** The guest goes on: each vCPU does more than it had done. */
export async function moreSteps(host: HostProcess): Promise<void> {
	const before = await stepsOf(host);
	await vi.waitFor(async () => {
		const now = await stepsOf(host);
		expect(now.every((steps, index) => steps > (before[index] ?? 0))).toBe(true);
	}, PATIENCE);
}
