import { statSync } from 'node:fs';
import { MAX_HELPERS } from '@cvm/ovmf-mh/host';
import { Misuse } from '../exit.js';

/** How private pages travel: sealed by the platform's firmware, by the guest's own migration helper, or there are none. */
export const MODES = ['psp', 'mh', 'plain'] as const;
type Mode = (typeof MODES)[number];

/** Which migration helper the guest's firmware has. */
export const PROFILES = ['hardened', 'rfc-2021'] as const;
type Profile = (typeof PROFILES)[number];

/** The guest programs, and how many steps of each make a demonstration of a few seconds. */
export const WORKLOADS = { ab: 16000, random: 32000, 'shared-io': 600 } as const;
type WorkloadName = keyof typeof WORKLOADS;

/** The helpers of a guest that moves by its own means. */
interface HelperChoice {
	readonly profile: Profile;
	/** Helpers, each on a mirror vCPU. */
	readonly count: number;
}

/** What a demonstration was asked to be. */
export interface DemoOptions {
	readonly mode: Mode;
	/** Of mode mh. */
	readonly helper: HelperChoice | undefined;
	readonly memoryBytes: number;
	readonly cpus: number;
	readonly workload: WorkloadName;
	readonly steps: number;
	readonly hops: number;
	readonly policy: number;
	readonly seed: string;
	readonly bandwidth: number;
	readonly downtimeLimit: number;
	readonly fromStream: string | undefined;
	readonly firmware: string | undefined;
	readonly output: string | undefined;
	readonly json: boolean;
}

/** Commander's values, before they are checked. */
export interface GivenDemoOptions {
	readonly mode: string;
	readonly helpers?: string;
	readonly profile?: string;
	readonly insecurePlaintext?: boolean;
	readonly memory: string;
	readonly vcpus: string;
	readonly workload: string;
	readonly steps?: string;
	readonly hops: string;
	readonly policy: string;
	readonly seed: string;
	readonly bandwidth: string;
	readonly downtime: string;
	readonly fromStream?: string;
	readonly firmware?: string;
	readonly output?: string;
	readonly json?: boolean;
}

/** @throws Misuse unless `value` is one of `allowed` */
export function oneOf<T extends string>(option: string, value: string, allowed: readonly T[]): T {
	const found = allowed.find((name) => name === value);
	if (found === undefined) throw new Misuse(`${option}: expected one of ${allowed.join(', ')}, got '${value}'`);
	return found;
}

/** A whole number, decimal or with 0x. @throws Misuse */
export function whole(option: string, value: string, min: number, max: number): number {
	const n = /^(0x[0-9a-f]+|\d+)$/i.test(value) ? Number(value) : Number.NaN;
	if (!(n >= min && n <= max)) throw new Misuse(`${option}: expected a number from ${min} to ${max}, got '${value}'`);
	return n;
}

/** `256M`, `1G`, plain bytes for rates. */
function size(option: string, value: string, min: number, max: number, unit: number, granule: number): number {
	const match = /^(\d+)([kmg]?)$/i.exec(value);
	const factor = { '': unit, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[
		(match?.[2] ?? '').toLowerCase() as '' | 'k' | 'm' | 'g'
	];
	const bytes = Number(match?.[1]) * factor;
	if (!match || bytes < min || bytes > max || bytes % granule !== 0) {
		throw new Misuse(
			`${option}: expected a size such as 256M, from ${min / 2 ** 20}M to ${max / 2 ** 20}M, got '${value}'`,
		);
	}
	return bytes;
}

function file(option: string, path: string | undefined): void {
	if (path === undefined) return;
	const found = statSync(path, { throwIfNoEntry: false });
	if (!found) throw new Misuse(`${option}: '${path}': No such file or directory`);
	if (!found.isFile()) throw new Misuse(`${option}: '${path}': not a file`);
}

/** @throws Misuse */
function helperOf(mode: Mode, { helpers, profile, insecurePlaintext }: GivenDemoOptions): HelperChoice | undefined {
	if (mode !== 'mh') {
		const lost = Object.entries({
			'--helpers': helpers,
			'--profile': profile,
			'--insecure-plaintext': insecurePlaintext,
		});
		for (const [option, value] of lost) if (value !== undefined) throw new Misuse(`${option}: needs --mode mh`);
		return undefined;
	}
	const chosen = oneOf('--profile', profile ?? 'hardened', PROFILES);
	const count = whole('--helpers', helpers ?? '1', 1, MAX_HELPERS);
	if (chosen === 'rfc-2021') {
		if (count > 1) throw new Misuse(`--helpers: rfc-2021 has one mailbox, hence one helper; got '${count}'`);
		if (!insecurePlaintext) {
			throw new Misuse(
				"--profile: rfc-2021 encrypts nothing: whoever listens has the guest's memory; to see that, add --insecure-plaintext",
			);
		}
	} else if (insecurePlaintext) throw new Misuse('--insecure-plaintext: needs --profile rfc-2021');
	return { profile: chosen, count };
}

const MIB = 2 ** 20;
const NODBG = 1;
const ES = 4;
const NOSEND = 8;

/** @throws Misuse on the first mistake */
export function checkDemoOptions(given: GivenDemoOptions): DemoOptions {
	const mode = oneOf('--mode', given.mode, MODES);
	const workload = oneOf('--workload', given.workload, Object.keys(WORKLOADS) as WorkloadName[]);
	const policy = whole('--policy', given.policy, 0, 0xffffffff);
	file('--from-stream', given.fromStream);
	file('--firmware', given.firmware);
	if (policy & ES) throw new Misuse('--policy: SEV-ES guests are not migrated by this version');
	// The bit binds the platform's firmware, which has no part in a migration by the guest's own helper.
	if (policy & NOSEND && mode !== 'mh') throw new Misuse('--policy: the NOSEND bit forbids what this command does');
	if (policy & NODBG && given.fromStream) {
		throw new Misuse(
			'--from-stream: the proof reads the target through DBG_DECRYPT, which policy bit 0 (NODBG) forbids',
		);
	}
	if (given.output !== undefined && mode !== 'plain')
		throw new Misuse('-o: needs --mode plain: a sealed stream has one target only');
	if (given.output === '') throw new Misuse("-o: expected a file name, got ''");
	if (given.fromStream !== undefined && mode !== 'psp') throw new Misuse('--from-stream: needs --mode psp');
	const hops = whole('--hops', given.hops, 1, 16);
	if (given.output !== undefined && hops > 1) throw new Misuse('-o: a file is one hop: expected --hops 1');
	return {
		mode,
		helper: helperOf(mode, given),
		workload,
		policy,
		memoryBytes: size('--memory', given.memory, 40 * MIB, 2048 * MIB, MIB, 2 * MIB),
		cpus: whole('--vcpus', given.vcpus, 1, 16),
		steps: given.steps === undefined ? WORKLOADS[workload] : whole('--steps', given.steps, 1, 2 ** 31),
		hops,
		seed: given.seed,
		bandwidth: size('--bandwidth', given.bandwidth, 0, 1 << 30, 1, 1),
		downtimeLimit: whole('--downtime', given.downtime, 1, 2000000),
		fromStream: given.fromStream,
		firmware: given.firmware,
		output: given.output,
		json: given.json ?? false,
	};
}
