import { setTimeout as delay } from 'node:timers/promises';
import { DemoFailure } from '../exit.js';
import type { HostProcess } from './host-process.js';
import { base64, type PlatformCertificates } from './owner.js';
import type { HopResult } from './report.js';
import { helperWords, type Stage } from './stage.js';

const POLL_MS = 50;
/** Longest that the guest may stand still before the demonstration gives up on it. */
const STALL_MS = 30_000;
/** Longest wait for the last words of a target that failed. */
const FAREWELL_MS = 1000;

/** What each vCPU published. */
export const stepsOf = async (host: HostProcess): Promise<readonly number[]> =>
	(await host.monitor.execute('x-guest-progress')).steps;

/** Waits until every vCPU has done so many steps. @throws DemoFailure if the guest stands still */
export async function waitForSteps(host: HostProcess, steps: number): Promise<void> {
	let best = -1;
	for (let since = Date.now(); ; ) {
		const now = await stepsOf(host);
		if (Math.min(...now) >= steps) return;
		const sum = now.reduce((a, b) => a + b, 0);
		if (sum > best) [best, since] = [sum, Date.now()];
		const { status } = await host.monitor.execute('query-status');
		if (status === 'internal-error')
			throw new DemoFailure(`${host.label}: the guest has stopped with an internal error: ${host.complaints}`);
		if (Date.now() - since > STALL_MS)
			throw new DemoFailure(`${host.label}: the guest makes no progress (${now.join(' + ')} steps)`);
		await delay(POLL_MS);
	}
}

/** One migration, watched to its end. @throws DemoFailure */
export async function migrate(
	stage: Stage,
	source: HostProcess,
	to: HostProcess | { readonly file: string },
	platform: PlatformCertificates | undefined,
): Promise<HopResult> {
	const { options, report } = stage;
	const live = 'monitor' in to;
	const target = live ? to.label : to.file;
	if (platform) {
		await source.monitor.execute('migrate-set-parameters', {
			'sev-pdh': base64(platform.pdh),
			'sev-plat-cert': base64(platform.chain),
			'sev-amd-cert': base64(platform.askArk),
		});
	}
	await source.monitor.execute('migrate-set-parameters', {
		'max-bandwidth': options.bandwidth,
		'downtime-limit': options.downtimeLimit,
	});
	let uri = live ? '' : `file:${to.file}`;
	if (live) {
		if (options.mode === 'plain') {
			const capabilities = [{ capability: 'x-handover-commit', state: true }] as const;
			await source.monitor.execute('migrate-set-capabilities', { capabilities });
			await to.monitor.execute('migrate-set-capabilities', { capabilities });
		}
		await to.monitor.execute(options.helper ? 'start-migrate-incoming' : 'migrate-incoming', {
			uri: 'tcp:127.0.0.1:0',
		});
		const [address] = (await to.monitor.execute('query-migrate'))['socket-address'] ?? [];
		if (address?.type !== 'inet') throw new DemoFailure(`${to.label}: does not say where it listens`);
		uri = `tcp:${address.host}:${address.port}`;
	}
	if (options.helper) {
		await source.monitor.execute('start-migration-handler');
		report.step(`${source.label}: ${helperWords(stage)}`);
	}
	const stepsBefore = options.fromStream ? [] : await stepsOf(source);
	await source.monitor.execute('migrate', { uri });
	report.step(`${source.label} → ${target}: migrating`);
	for (;;) {
		const info = await source.monitor.execute('query-migrate');
		report.progress(info);
		if (info.status === 'completed') {
			const stepsAfter = live && !options.fromStream ? await stepsOf(to) : stepsBefore;
			const peaks: Record<string, number> = {};
			for (const host of live ? [source, to] : [source]) {
				const peak = host.peakMemory();
				if (peak !== undefined) peaks[host.label] = peak;
			}
			return { from: source.label, to: target, info, stepsBefore, stepsAfter, peaks };
		}
		if (info.status === 'failed') {
			// What the target said is on its way through a pipe.
			const there = live ? await reasonOf(to, options.helper !== undefined) : '';
			throw new DemoFailure(
				`migration failed: ${info['error-desc'] ?? 'no reason given'}${there ? ` (${there})` : ''}`,
			);
		}
		await delay(POLL_MS);
	}
}

/** What a target says of a migration that failed. */
async function reasonOf(target: HostProcess, survives: boolean): Promise<string> {
	if (!survives) {
		await Promise.race([target.ended, delay(FAREWELL_MS)]);
		return target.complaints;
	}
	// With a helper it waits for the next guest, and can be asked.
	for (const until = Date.now() + FAREWELL_MS; Date.now() < until; await delay(POLL_MS)) {
		const info = await target.monitor.execute('query-migrate').catch(() => undefined);
		if (!info) return target.complaints.split('\n').at(-1) ?? '';
		if (info['error-desc'] !== undefined) return info['error-desc'];
	}
	return '';
}
