import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { readCapture, sha256 } from './capture.js';
import type { HostProcess } from './host-process.js';
import { migrate, waitForSteps } from './migrate.js';
import type { DemoOptions } from './options.js';
import { GuestOwner } from './owner.js';
import { type Check, compareWithCapture, compareWithReference } from './proof.js';
import type { HopResult, Report } from './report.js';
import { launch, type Stage, startTarget, stopHost } from './stage.js';
import { travelWords } from './travel.js';

/** Work that the guest does before the first migration, as a share of all its work. */
const WARM_UP = 0.15;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs a demonstration. @returns whether everything was verified. @throws Misuse, DemoFailure */
export async function runDemo(options: DemoOptions, report: Report): Promise<boolean> {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-demo-'));
	const stage: Stage = { options, report, folder, owner: new GuestOwner(), hosts: new Set() };
	const stop = () => {
		for (const host of stage.hosts) host.kill();
		rmSync(folder, { recursive: true, force: true });
	};
	const interrupted = (signal: NodeJS.Signals) => process.exit(128 + constants.signals[signal]);
	process.once('exit', stop);
	for (const signal of SIGNALS) process.once(signal, interrupted);
	try {
		// Before anything starts: a file that is no stream is told in its own words.
		if (options.fromStream) await readCapture(options.fromStream);
		return options.output === undefined ? await live(stage) : await intoFile(stage, options.output);
	} finally {
		for (const signal of SIGNALS) process.off(signal, interrupted);
		await Promise.all([...stage.hosts].map((host) => host.quit()));
		rmSync(folder, { recursive: true, force: true });
		process.off('exit', stop);
	}
}

const hostName = (index: number): string => (index === 0 ? 'source' : index === 1 ? 'target' : `target-${index}`);

async function live(stage: Stage): Promise<boolean> {
	const { options, report } = stage;
	const [launched, firstTarget] = await Promise.all([launch(stage, hostName(0)), startTarget(stage, hostName(1))]);
	let source = launched.host;
	let next: typeof firstTarget | undefined = firstTarget;
	const hops: HopResult[] = [];
	await source.monitor.execute('cont');
	if (options.fromStream) {
		// Nothing here can execute that machine's code: the launch is finished, and the guest stands still.
		await source.monitor.execute('stop');
	} else {
		report.step(`${source.label}: the guest runs '${options.workload}' on ${options.cpus} vCPUs`);
		await waitForSteps(source, options.steps * WARM_UP);
	}
	for (let hop = 1; hop <= options.hops; hop++) {
		const { host, platform } = next ?? (await prepareNext(stage, source, hostName(hop)));
		next = undefined;
		hops.push(await migrate(stage, source, host, platform));
		await stopHost(stage, source);
		source = host;
		if (!options.fromStream && hop < options.hops) {
			await waitForSteps(
				source,
				Math.min(options.steps - 1, Math.max(...hops.map((h) => Math.max(...h.stepsAfter))) + options.steps * WARM_UP),
			);
		}
	}
	const checks: Check[] = options.fromStream
		? await compareWithCapture(stage, source, options.fromStream)
		: await compareWithReference(stage, source);
	const verified = checks.every((c) => c.ok);
	report.result({
		mode: options.mode,
		workload: options.fromStream ? undefined : options.workload,
		memory: options.memoryBytes,
		vcpus: options.cpus,
		policy: options.policy,
		...(options.helper && { helper: options.helper }),
		...(launched.digest && { 'launch-digest': launched.digest }),
		hops,
		travelled: travelWords(options),
		checks,
		verified,
	});
	return verified;
}

/** The next host of a guest. One that is to move by its helpers rests meanwhile: its next host takes a whole launch. */
async function prepareNext(stage: Stage, source: HostProcess, name: string): ReturnType<typeof startTarget> {
	const rests = stage.options.helper !== undefined;
	if (rests) await source.monitor.execute('stop');
	const prepared = await startTarget(stage, name);
	if (rests) await source.monitor.execute('cont');
	return prepared;
}

async function intoFile(stage: Stage, output: string): Promise<boolean> {
	const { options, report } = stage;
	const { host } = await launch(stage, hostName(0));
	await host.monitor.execute('cont');
	report.step(`${host.label}: the guest runs '${options.workload}'`);
	await waitForSteps(host, options.steps);
	await host.monitor.execute('stop');
	const path = resolve(output);
	const hop = await migrate(stage, host, { file: path }, undefined);
	const digest = await host.monitor.execute('x-guest-digest');
	const ram = digest.blocks.find((b) => b.idstr === 'pc.ram');
	const bios = options.firmware ? ` -bios ${resolve(options.firmware)}` : '';
	const read = (await readCapture(path)).find((b) => b.idstr === 'pc.ram');
	const same = read !== undefined && sha256(read.memory) === ram?.sha256;
	const checks: Check[] = [{ check: 'the stream holds the guest’s RAM', ok: same, detail: `sha256 ${ram?.sha256}` }];
	report.result({
		mode: options.mode,
		workload: options.workload,
		memory: options.memoryBytes,
		vcpus: options.cpus,
		policy: 0,
		hops: [hop],
		checks,
		verified: same,
		output: path,
		'accept-with': `qemu-system-x86_64 -machine q35,accel=tcg -m ${options.memoryBytes / 2 ** 20} -nodefaults -display none${bios} -S -incoming "exec:cat ${path}"`,
	});
	return same;
}
