import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestDigest } from '@cvm/host';
import { readCapture } from './capture.js';
import { differingPages } from './compare-files.js';
import type { HostProcess } from './host-process.js';
import { waitForSteps } from './migrate.js';
import { launch, type Stage } from './stage.js';

/** One thing that was to be shown, and whether it was. */
export interface Check {
	readonly check: string;
	readonly ok: boolean;
	readonly detail: string;
}

const NODBG = 1;
const RAM = 'pc.ram';
/** Where the posted handler's pushes land, which begin at 0xe00000 going down. */
const BELOW_STACK = 0xdff000;

/**
 * Lets the guest that moved finish its work, runs the same guest on a host that it never leaves, and compares all that a
 * guest is: memory, registers, page status. Reading memory takes DBG_DECRYPT; where the policy forbids it, the guests' own
 * words must do.
 */
export async function compareWithReference(stage: Stage, moved: HostProcess): Promise<Check[]> {
	const { options, report } = stage;
	await waitForSteps(moved, options.steps);
	const done: Check = {
		check: 'the guest finished its work where it arrived',
		ok: true,
		detail: `${options.steps} steps on each of ${options.cpus} vCPUs`,
	};
	await moved.monitor.execute('stop');
	if (options.mode !== 'plain' && options.policy & NODBG) {
		return [done, { check: 'memory was not compared', ok: true, detail: 'the guest’s policy forbids DBG_DECRYPT' }];
	}
	report.step('reference: the same guest, on a host that it never leaves');
	const { host: reference } = await launch(stage, 'reference', ['-ticks', 'off']);
	await reference.monitor.execute('cont');
	await waitForSteps(reference, options.steps);
	await reference.monitor.execute('stop');
	const [a, b] = await Promise.all([digest(moved), digest(reference)]);
	const checks = compareDigests(a, b);
	const ram = checks.findIndex(({ check, ok }) => !ok && check.startsWith(`memory of ${RAM} `));
	if (options.helper?.profile === 'rfc-2021' && ram >= 0) {
		checks[ram] = await ramBesidesStack(stage, moved, reference);
	}
	return [done, ...checks];
}

const digest = (host: HostProcess): Promise<GuestDigest> => host.monitor.execute('x-guest-digest');

/**
 * As posted the handler's stack pointer begins at the foot of its stack, so that it pushes into the page below, which is
 * somebody else's and moves like any other (K4). That one page may differ, and no other. @returns the check of RAM by pages
 */
async function ramBesidesStack({ folder }: Stage, moved: HostProcess, reference: HostProcess): Promise<Check> {
	const save = async (host: HostProcess): Promise<string> => {
		const filename = join(folder, `${host.label}.ram`);
		await host.monitor.execute('x-guest-memsave', { block: RAM, filename });
		return filename;
	};
	const pages = await differingPages(...(await Promise.all([save(moved), save(reference)])));
	const shown = pages.slice(0, 4).map((page) => `0x${page.toString(16)}`);
	return {
		check: `memory of ${RAM} equals that of a guest that never moved, but for the page below the posted handler's stack`,
		ok: pages.length === 1 && pages[0] === BELOW_STACK,
		detail: `${pages.length === 1 ? 'page' : `${pages.length} pages:`} ${shown.join(', ')}`,
	};
}

function compareDigests(moved: GuestDigest, reference: GuestDigest): Check[] {
	const blocks = moved.blocks.map(({ idstr, size, sha256 }) => ({
		check: `memory of ${idstr} equals that of a guest that never moved`,
		ok: reference.blocks.some((r) => r.idstr === idstr && r.size === size && r.sha256 === sha256),
		detail: `sha256 ${sha256.slice(0, 16)}…, ${size} bytes`,
	}));
	const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
	return [
		...blocks,
		{
			check: 'registers are equal',
			ok: moved.vcpus === reference.vcpus,
			detail: `sha256 ${moved.vcpus.slice(0, 16)}…`,
		},
		{
			check: 'page status is equal',
			ok: same(moved['shared-regions'], reference['shared-regions']),
			detail: `${moved['shared-regions'].length} shared ranges`,
		},
		{
			check: 'the guest’s consent to migration moved with it',
			ok: moved['migration-msr'] === reference['migration-msr'],
			detail: `MSR 0x4b564d08 = ${moved['migration-msr']}`,
		},
	];
}

/** Reads the target's private memory through DBG_DECRYPT and holds it against the file, byte for byte. */
export async function compareWithCapture(stage: Stage, target: HostProcess, capture: string): Promise<Check[]> {
	const checks: Check[] = [];
	for (const { idstr, memory } of await readCapture(capture)) {
		const file = join(stage.folder, 'memory.bin');
		await target.monitor.execute('x-guest-memsave', { block: idstr, filename: file });
		const found = readFileSync(file);
		const at = found.length === memory.length ? Buffer.compare(found, memory) : -1;
		const detail =
			at === 0 ? `${memory.length} bytes` : `first difference at 0x${firstDifference(found, memory).toString(16)}`;
		checks.push({ check: `${idstr} on the target equals the capture`, ok: at === 0, detail });
	}
	return checks;
}

function firstDifference(a: Uint8Array, b: Uint8Array): number {
	for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
	return a.length;
}
