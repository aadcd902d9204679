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
	const sev = options.mode === 'psp' ? ['-machine', 'q35,confidential-guest-support=sev0'] : ['-machine', 'q35'];
	const work = options.fromStream
		? ['-from-stream', resolve(options.fromStream)]
		: [
				...['-m', `${options.memoryBytes / 2 ** 20}`, '-smp', `${options.cpus}`],
				...['-fw_cfg', `name=opt/cvm/workload,string=${options.workload}`],
				...['-fw_cfg', `name=opt/cvm/seed,string=${seedNumber(options.seed)}`],
				...['-fw_cfg', `name=opt/cvm/steps,string=${options.steps}`],
			];
	return [...sev, ...work, ...(options.firmware ? ['-bios', resolve(options.firmware)] : [])];
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
	const files = owner.openSession(platform, options.policy, stage.folder);
	const object = `sev-guest,id=sev0,policy=${options.policy},dh-cert-file=${files.dhCertFile},session-file=${files.sessionFile}`;
	const host = await startHost(stage, name, [...common, '-object', object, '-S', ...more]);
	const { digest, measure } = await owner.verifyLaunch(host.monitor, options.policy, await expectedLaunch(stage));
	report.step(`${name}: launch measured and verified: ${digest.slice(0, 16)}…`);
	if (!options.fromStream) {
		// A generic OVMF build names no place for secrets; the steps that stand for it here keep the usual one.
		await owner.injectSecret(
			host.monitor,
			measure,
			SECRET,
			options.firmware === undefined ? undefined : SECRET_AREA.base,
		);
		report.step(`${name}: the owner's secret is in the guest, sealed for its measurement`);
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
	const object = options.mode === 'psp' ? ['-object', `sev-guest,id=sev0,policy=${options.policy}`] : [];
	const host = await startHost(stage, name, [...machineOptions(stage), ...object, '-incoming', 'defer', ...more]);
	if (options.mode === 'plain') return { host, platform: undefined };
	const platform = await owner.examine(host.monitor, name);
	report.step(`${name}: chip ${platform.chipId}: certificate chain verified; waiting for the guest`);
	return { host, platform };
}
