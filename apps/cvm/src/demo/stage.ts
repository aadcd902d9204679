import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { buildFirmwareImage, SECRET_AREA } from '@cvm/ovmf-mh';
import { readCapture } from './capture.js';
import { HostProcess } from './host-process.js';
import type { DemoOptions } from './options.js';
import type { GuestOwner, PlatformCertificates } from './owner.js';
import type { Report } from './report.js';

/** What the owner gives to the guest alone. */
const SECRET = 'the key to the guest’s disk';

/** By these items of fw_cfg the firmware sets its helper up, and waits for a guest instead of booting one (edk2 branch sev-mirror2-patches). */
const START_HELPER = 'name=opt/ovmf/PcdStartConfidentialMigrationHandler,string=1';
const IS_TARGET = 'name=opt/ovmf/PcdIsConfidentialMigrationTarget,string=1';

/** Everything that one demonstration started. */
export interface Stage {
	readonly options: DemoOptions;
	readonly report: Report;
	readonly folder: string;
	readonly owner: GuestOwner;
	readonly hosts: Set<HostProcess>;
}

/** Options that source, target and reference have in common. */
function machineOptions({ options }: Stage): string[] {
	const { helper } = options;
	const sev = options.mode === 'plain' ? ['-machine', 'q35'] : ['-machine', 'q35,confidential-guest-support=sev0'];
	const cpus = helper ? `${options.cpus + helper.count},mirrorvcpus=${helper.count}` : `${options.cpus}`;
	const work = options.fromStream
		? ['-from-stream', resolve(options.fromStream)]
		: [
				...['-m', `${options.memoryBytes / 2 ** 20}`, '-smp', cpus],
				...['-fw_cfg', `name=opt/cvm/workload,string=${options.workload}`],
				...['-fw_cfg', `name=opt/cvm/seed,string=${seedNumber(options.seed)}`],
				...['-fw_cfg', `name=opt/cvm/steps,string=${options.steps}`],
			];
	const helpers = helper
		? [
				...['-helper', helper.profile, '-fw_cfg', START_HELPER],
				...(helper.profile === 'rfc-2021' ? ['-insecure-plaintext'] : []),
			]
		: [];
	return [...sev, ...work, ...helpers, ...(options.firmware ? ['-bios', resolve(options.firmware)] : [])];
}

/** The guest takes a number; people may give any text. */
function seedNumber(seed: string): string {
	if (/^\d{1,18}$/.test(seed)) return seed;
	let hash = 0xcbf29ce484222325n;
	for (const c of seed) hash = ((hash ^ BigInt(c.codePointAt(0) ?? 0)) * 0x100000001b3n) & ((1n << 60n) - 1n);
	return hash.toString();
}

async function startHost(stage: Stage, name: string, options: readonly string[]): Promise<HostProcess> {
	const host = await HostProcess.start(name, join(stage.folder, `${name}.qmp`), [
		...options,
		...['-platform', join(stage.folder, `platform-${name}`), '-name', name],
	]);
	stage.hosts.add(host);
	return host;
}

/** Ends a host before the demonstration does. */
export async function stopHost(stage: Stage, host: HostProcess): Promise<void> {
	stage.hosts.delete(host);
	await host.quit();
}

/** A host with a launched guest that its owner trusts, stopped before its first instruction. */
export async function launch(
	stage: Stage,
	name: string,
	more: readonly string[] = [],
): Promise<{ host: HostProcess; digest?: string }> {
	const { options, owner, report } = stage;
	const common = machineOptions(stage);
	if (options.mode === 'plain') return { host: await startHost(stage, name, [...common, '-S', ...more]) };
	// As libvirt does: a first process only shows the platform, so that the owner can make a session for it.
	const probe = await startHost(stage, name, ['-machine', 'none', '-S']);
	const platform = await owner.examine(probe.monitor, name);
	await stopHost(stage, probe);
	report.step(`${name}: chip ${platform.chipId}: PDH ← PEK ← CEK ← ASK ← ARK verified (a fake root: this is a model)`);
	const session = owner.openSession(platform, options.policy, stage.folder, name);
	const object = `sev-guest,id=sev0,policy=${options.policy},dh-cert-file=${session.dhCertFile},session-file=${session.sessionFile}`;
	const host = await startHost(stage, name, [...common, '-object', object, '-S', ...more]);
	const { digest, measure } = await owner.verifyLaunch(
		host.monitor,
		session,
		options.policy,
		await expectedLaunch(stage),
	);
	report.step(`${name}: launch measured and verified: ${digest.slice(0, 16)}…`);
	if (!options.fromStream) {
		// A generic OVMF build names no place for secrets; the steps that stand for it here keep the usual one.
		const gpa = options.firmware === undefined ? undefined : SECRET_AREA.base;
		// The posted helper has no keys.
		const helped = options.helper?.profile === 'hardened';
		await owner.injectSecret(host.monitor, session, measure, { text: SECRET, helped, gpa });
		const what = helped ? "the owner's secret and the migration secret are" : "the owner's secret is";
		report.step(`${name}: ${what} in the guest, sealed for its measurement`);
	}
	return { host, digest };
}

/** What the guest owner expects to be measured, read without asking any host. */
async function expectedLaunch({ options }: Stage): Promise<Uint8Array[]> {
	if (options.fromStream) return (await readCapture(options.fromStream)).map((b) => b.memory);
	return [options.firmware ? new Uint8Array(readFileSync(options.firmware)) : buildFirmwareImage()];
}

/** A host that waits for the guest, and the certificates that the source must seal for. */
export async function startTarget(
	stage: Stage,
	name: string,
	more: readonly string[] = [],
): Promise<{ host: HostProcess; platform: PlatformCertificates | undefined }> {
	const { options, owner, report } = stage;
	if (options.helper) return startWaiting(stage, name, more);
	const object = options.mode === 'psp' ? ['-object', `sev-guest,id=sev0,policy=${options.policy}`] : [];
	const host = await startHost(stage, name, [...machineOptions(stage), ...object, '-incoming', 'defer', ...more]);
	if (options.mode === 'plain') return { host, platform: undefined };
	const platform = await owner.examine(host.monitor, name);
	report.step(`${name}: chip ${platform.chipId}: certificate chain verified; waiting for the guest`);
	return { host, platform };
}

/** A target that moves guests by their helpers is a guest of the same owner, launched like the source; its firmware waits, and its helper works. */
async function startWaiting(
	stage: Stage,
	name: string,
	more: readonly string[],
): Promise<{ host: HostProcess; platform: undefined }> {
	const { host } = await launch(stage, name, ['-fw_cfg', IS_TARGET, ...more]);
	await host.monitor.execute('cont');
	// The answer comes when the firmware has set the helper up and the helper takes commands.
	await host.monitor.execute('start-migration-handler');
	stage.report.step(`${name}: the firmware waits for a guest; ${helperWords(stage)}`);
	return { host, platform: undefined };
}

/** Which helpers there are, in words. */
export function helperWords({ options: { helper } }: Stage): string {
	const { profile = 'hardened', count = 1 } = helper ?? {};
	const who =
		count === 1 ? 'its migration helper runs on a mirror vCPU' : `its ${count} migration helpers run on mirror vCPUs`;
	return profile === 'hardened' ? who : `${who}, as posted in 2021`;
}
