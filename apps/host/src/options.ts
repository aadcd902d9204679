import { type MirrorTopology, parseSmp } from '@cvm/kvm/mirror';
import { MAX_HELPERS } from '@cvm/ovmf-mh/host';
import { parseQmpAddress } from '@cvm/qmp/node';

/** A mistake of the person at the command line: one line, exit code 2. */
export class UsageError extends Error {
	override readonly name = 'UsageError';
	readonly code = 'usage';
}

/** `-object sev-guest,…`: QEMU's properties of a confidential guest. */
export interface SevGuestOptions {
	readonly id: string;
	/** Guest policy, SEV API 0.24 chapter 3. QEMU's default is 1 (no debugging). */
	readonly policy: number;
	/** C-bit position; must equal the machine's. */
	readonly cbitPosition: number | undefined;
	readonly reducedPhysBits: number;
	readonly dhCertFile: string | undefined;
	readonly sessionFile: string | undefined;
}

/** Which migration helper the firmware has: the one that is meant to be used, or the one that was posted in August 2021. */
export type HelperProfile = 'hardened' | 'rfc-2021';

/** The stream of the in-guest helper: QEMU's series of March (`mh-v1`) or of August 2021 (`mh-v2`). */
type HelperDialect = 'mh-v1' | 'mh-v2';

interface FwCfgOption {
	readonly name: string;
	readonly value: { readonly string: string } | { readonly file: string };
}

/** What a host process was asked to be. */
export interface HostOptions {
	/** QEMU's machine type with the alias resolved, as it stands in a stream: `pc-q35-7.2`. */
	readonly machine: string;
	readonly memoryBytes: number;
	/** vCPUs of the guest: those of `-smp` less the mirrors. */
	readonly cpus: number;
	/** Mirror vCPUs, on which migration helpers run. The guest does not know of them. */
	readonly mirrors: number;
	/** The firmware's helper; without mirror vCPUs it has none. */
	readonly helper: HelperProfile | undefined;
	/** Which posting's records its pages are in: those of August 2021 unless told otherwise. Both ends must agree. */
	readonly helperDialect: HelperDialect;
	/** `-insecure-plaintext`: a guest may move by a helper that encrypts nothing. */
	readonly insecurePlaintext: boolean;
	readonly sev: SevGuestOptions | undefined;
	readonly bios: string | undefined;
	readonly fwCfg: readonly FwCfgOption[];
	/** As given: `unix:PATH,server,nowait`. */
	readonly qmp: readonly string[];
	/** `defer`, or a URI to listen on. */
	readonly incoming: string | undefined;
	/** `-S`: do not start the vCPUs. */
	readonly stopped: boolean;
	readonly name: string | undefined;
	readonly uuid: string | undefined;
	readonly serial: { readonly file: string } | 'stdio' | 'none';
	/** Folder that holds the platform's identity (the chip and its flash). Without it, a platform that lives as long as the process. */
	readonly platform: string | undefined;
	/** Reproducible keys and nonces. Only with `-insecure-seed`, because it makes every key predictable. */
	readonly insecureSeed: string | undefined;
	/** `-ticks off`: the guest's timer fires at once, so that its work runs as fast as it can. */
	readonly ticks: boolean;
	/** `-run-with exit-with-parent=on`: end when the process that started this one has ended. */
	readonly exitWithParent: boolean;
	/** Migration stream whose RAM blocks become the guest's private memory at launch. */
	readonly fromStream: string | undefined;
}

export const USAGE = `usage: cvm host [options]

One host process, source or target of a migration. Options are QEMU's where QEMU has them.

  -machine q35|pc|none[,confidential-guest-support=ID]   machine type (default q35)
  -object sev-guest,id=ID[,policy=0x1][,cbitpos=51][,reduced-phys-bits=5]
          [,dh-cert-file=FILE][,session-file=FILE][,kernel-hashes=off]
  -m SIZE             guest RAM: 256M, 1G; a plain number is MiB (default 128M)
  -smp N[,mirrorvcpus=M]   vCPUs (default 1), the last M of them for migration helpers
  -bios FILE          firmware image (default: a small model firmware)
  -fw_cfg name=NAME,string=TEXT | name=NAME,file=FILE
  -qmp unix:PATH,server,nowait | tcp:127.0.0.1:PORT,server,nowait
  -incoming defer | tcp:127.0.0.1:PORT | unix:PATH | exec:COMMAND | file:PATH
  -serial file:PATH | stdio | none     (default none)
  -S                  do not start the vCPUs
  -name NAME, -uuid UUID
  -run-with exit-with-parent=on|off    end with the process that started this one (default off)

Of this model only:
  -platform DIR       the chip's identity and flash, kept in DIR between processes
  -ticks on|off       off: the guest's 1 kHz timer fires at once (default on)
  -from-stream FILE   RAM blocks of a QEMU migration stream become the guest's private memory
  -helper hardened|rfc-2021[,dialect=mh-v1|mh-v2]   the firmware's migration helper (default hardened,dialect=mh-v2)
  -insecure-plaintext the helper of 2021 may move a guest, though it encrypts nothing
  -insecure-seed S    predictable keys and nonces, for reproducible runs

example:
  cvm host -machine q35,confidential-guest-support=sev0 -object sev-guest,id=sev0,policy=0x0 \\
      -m 256M -smp 2 -qmp unix:/tmp/source.qmp,server,nowait -S
`;

const MACHINES: Readonly<Record<string, string>> = {
	q35: 'pc-q35-7.2',
	'pc-q35-7.2': 'pc-q35-7.2',
	pc: 'pc-i440fx-7.2',
	'pc-i440fx-7.2': 'pc-i440fx-7.2',
	none: 'none',
};

/** QEMU's `key=value,key=value` syntax; `,,` stands for a comma, a leading word without `=` belongs to `first`. */
function keyValues(option: string, text: string, first: string): Map<string, string> {
	const out = new Map<string, string>();
	const parts = text.replaceAll(',,', '\u0000').split(',');
	parts.forEach((raw, index) => {
		const part = raw.replaceAll('\u0000', ',');
		const at = part.indexOf('=');
		if (at >= 0) out.set(part.slice(0, at), part.slice(at + 1));
		else if (index === 0) out.set(first, part);
		else if (part === '') throw new UsageError(`${option}: expected key=value, got an empty word`);
		else out.set(part, 'on');
	});
	return out;
}

function only(option: string, given: ReadonlyMap<string, string>, ...known: string[]): void {
	for (const key of given.keys()) {
		if (!known.includes(key)) throw new UsageError(`${option}: Invalid parameter '${key}'`);
	}
}

function number(option: string, key: string, text: string, min: number, max: number): number {
	const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
	if (!(value >= min && value <= max)) {
		throw new UsageError(`${option}: Parameter '${key}' expects a number from ${min} to ${max}, got '${text}'`);
	}
	return value;
}

function onOff(option: string, key: string, text: string): boolean {
	if (text === 'on' || text === 'off') return text === 'on';
	throw new UsageError(`${option}: Parameter '${key}' expects 'on' or 'off'`);
}

/** `256M`, `1G`, `64` (MiB), in bytes. */
export function memorySize(option: string, text: string): number {
	const match = /^(\d+)([kKmMgG]?)$/.exec(text.replace(/^size=/, ''));
	const unit = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[(match?.[2] || 'm').toLowerCase() as 'k' | 'm' | 'g'];
	const bytes = Number(match?.[1]) * unit;
	const [min, max] = [40 * 2 ** 20, 2 ** 31];
	if (!match || bytes < min || bytes > max || bytes % 2 ** 21 !== 0) {
		throw new UsageError(`${option}: expected a multiple of 2M from 40M to 2G, got '${text}'`);
	}
	return bytes;
}

function sevGuest(given: ReadonlyMap<string, string>): SevGuestOptions {
	const o = '-object sev-guest';
	only(
		o,
		given,
		...['qom-type', 'id', 'policy', 'cbitpos', 'reduced-phys-bits', 'dh-cert-file', 'session-file', 'kernel-hashes'],
	);
	const id = given.get('id');
	if (!id) throw new UsageError(`${o}: Parameter 'id' is missing`);
	const cbit = given.get('cbitpos');
	if (onOff(o, 'kernel-hashes', given.get('kernel-hashes') ?? 'off')) {
		throw new UsageError(`${o}: kernel-hashes=on needs a kernel to hash, and this model has no -kernel`);
	}
	return {
		id,
		policy: number(o, 'policy', given.get('policy') ?? '0x1', 0, 0xffffffff),
		cbitPosition: cbit === undefined ? undefined : number(o, 'cbitpos', cbit, 32, 63),
		reducedPhysBits: number(o, 'reduced-phys-bits', given.get('reduced-phys-bits') ?? '5', 1, 63),
		dhCertFile: given.get('dh-cert-file'),
		sessionFile: given.get('session-file'),
	};
}

const MAX_CPUS = 16;

/** `N` or `[cpus=]N[,maxcpus=N][,mirrorvcpus=M]`: the guest's vCPUs, and the mirrors. */
function smp(text: string): { readonly cpus: number; readonly mirrors: number } {
	if (!/[,=]/.test(text)) return { cpus: number('-smp', 'cpus', text, 1, MAX_CPUS), mirrors: 0 };
	let topology: MirrorTopology;
	try {
		topology = parseSmp(text);
	} catch (error) {
		throw new UsageError((error as Error).message);
	}
	const { cpus, maxCpus, mirrorVcpus } = topology;
	if (maxCpus !== cpus) throw new UsageError(`-smp: expected maxcpus equal to cpus, got ${maxCpus} and ${cpus}`);
	if (mirrorVcpus > MAX_HELPERS) {
		throw new UsageError(
			`-smp: Parameter 'mirrorvcpus' expects a number from 0 to ${MAX_HELPERS}, got '${mirrorVcpus}'`,
		);
	}
	const guests = cpus - mirrorVcpus;
	if (guests < 1 || guests > MAX_CPUS) {
		throw new UsageError(`-smp: expected 1 to ${MAX_CPUS} vCPUs besides the mirrors, got ${guests}`);
	}
	return { cpus: guests, mirrors: mirrorVcpus };
}

/** Which helper, after the rules for machines that have one. @throws UsageError */
function helperOf(
	text: string | undefined,
	{ mirrors, sev, incoming }: Pick<HostOptions, 'mirrors' | 'sev' | 'incoming'>,
): Pick<HostOptions, 'helper' | 'helperDialect'> {
	const given = keyValues('-helper', text ?? 'hardened', 'profile');
	only('-helper', given, 'profile', 'dialect');
	const [helper, helperDialect] = [given.get('profile') ?? 'hardened', given.get('dialect') ?? 'mh-v2'];
	if (helper !== 'hardened' && helper !== 'rfc-2021') {
		throw new UsageError(`-helper: expected hardened or rfc-2021, got '${helper}'`);
	}
	if (helperDialect !== 'mh-v1' && helperDialect !== 'mh-v2') {
		throw new UsageError(`-helper: Parameter 'dialect' expects 'mh-v1' or 'mh-v2'`);
	}
	if (mirrors === 0) {
		if (text !== undefined) throw new UsageError('-helper: needs mirror vCPUs: -smp N,mirrorvcpus=M');
		return { helper: undefined, helperDialect };
	}
	if (!sev)
		throw new UsageError('-smp: mirror vCPUs need a confidential guest: -machine confidential-guest-support=ID');
	if (incoming !== undefined) {
		throw new UsageError('-incoming: a helper has to run before its guest arrives; use QMP start-migrate-incoming');
	}
	if (helper === 'rfc-2021' && mirrors > 1) {
		throw new UsageError(`-helper: rfc-2021 has one mailbox, hence one helper; got mirrorvcpus=${mirrors}`);
	}
	return { helper, helperDialect };
}

function fwCfg(given: ReadonlyMap<string, string>): FwCfgOption {
	only('-fw_cfg', given, 'name', 'string', 'file');
	const [name, string, file] = [given.get('name'), given.get('string'), given.get('file')];
	if (!name) throw new UsageError(`-fw_cfg: Parameter 'name' is missing`);
	if (name.length > 55) throw new UsageError(`-fw_cfg: name too long (max. 55 char)`);
	if ((string === undefined) === (file === undefined)) {
		throw new UsageError(`-fw_cfg: expected exactly one of 'string' and 'file'`);
	}
	return { name, value: string === undefined ? { file: file as string } : { string } };
}

function qmpAddress(text: string): string {
	try {
		parseQmpAddress(text);
	} catch (error) {
		throw new UsageError(`-qmp: ${(error as Error).message}`);
	}
	return text;
}

function serial(text: string): HostOptions['serial'] {
	if (text === 'stdio' || text === 'none') return text;
	const file = /^file:(.+)$/.exec(text)?.[1];
	if (file) return { file };
	throw new UsageError(`-serial: expected file:PATH, stdio or none, got '${text}'`);
}

/** Reads a QEMU-style command line. `help` when it was asked for. @throws UsageError on the first mistake */
export function parseHostOptions(argv: readonly string[]): HostOptions | 'help' {
	const once = new Map<string, string>();
	const objects: SevGuestOptions[] = [];
	const fwCfgItems: FwCfgOption[] = [];
	const qmps: string[] = [];
	let stopped = false;
	let insecurePlaintext = false;
	const single = new Set(
		['machine', 'm', 'smp', 'bios', 'incoming', 'name', 'uuid', 'serial', 'platform', 'ticks', 'from-stream'].concat(
			'insecure-seed',
			'run-with',
			'helper',
		),
	);
	for (let i = 0; i < argv.length; i++) {
		const word = argv[i] ?? '';
		const option = word.replace(/^--?/, '');
		if (option === 'h' || option === 'help') return 'help';
		if (option === 'S') {
			stopped = true;
			continue;
		}
		if (option === 'insecure-plaintext') {
			insecurePlaintext = true;
			continue;
		}
		const known = single.has(option) || ['M', 'object', 'fw_cfg', 'qmp'].includes(option);
		if (!word.startsWith('-') || !known) throw new UsageError(`${word}: invalid option`);
		const value = argv[++i];
		if (value === undefined) throw new UsageError(`-${option}: requires an argument`);
		if (option === 'object') {
			const given = keyValues('-object', value, 'qom-type');
			if (given.get('qom-type') !== 'sev-guest') {
				throw new UsageError(`-object: expected sev-guest, got '${given.get('qom-type')}'`);
			}
			objects.push(sevGuest(given));
		} else if (option === 'fw_cfg') fwCfgItems.push(fwCfg(keyValues('-fw_cfg', value, 'name')));
		else if (option === 'qmp') qmps.push(qmpAddress(value));
		else once.set(option === 'M' ? 'machine' : option, value);
	}

	const machine = keyValues('-machine', once.get('machine') ?? 'q35', 'type');
	only('-machine', machine, 'type', 'accel', 'confidential-guest-support', 'memory-encryption');
	const type = MACHINES[machine.get('type') ?? 'q35'];
	if (!type) throw new UsageError(`-machine: unsupported machine type '${machine.get('type')}'`);
	const support = machine.get('confidential-guest-support') ?? machine.get('memory-encryption');
	const sev = objects.find((o) => o.id === support);
	if (support !== undefined && !sev) throw new UsageError(`-machine: Device '${support}' not found`);
	const runWith = keyValues('-run-with', once.get('run-with') ?? 'off', 'exit-with-parent');
	only('-run-with', runWith, 'exit-with-parent');
	const uuid = once.get('uuid');
	if (uuid !== undefined && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(uuid)) {
		throw new UsageError(`-uuid: failed to parse UUID string: wrong format`);
	}
	const { cpus, mirrors } = smp(once.get('smp') ?? '1');
	const incoming = once.get('incoming');
	return {
		machine: type,
		memoryBytes: memorySize('-m', once.get('m') ?? '128M'),
		cpus,
		mirrors,
		...helperOf(once.get('helper'), { mirrors, sev, incoming }),
		insecurePlaintext,
		sev,
		bios: once.get('bios'),
		fwCfg: fwCfgItems,
		qmp: qmps,
		incoming,
		stopped,
		name: once.get('name'),
		uuid,
		serial: serial(once.get('serial') ?? 'none'),
		platform: once.get('platform'),
		insecureSeed: once.get('insecure-seed'),
		ticks: onOff('-ticks', 'ticks', once.get('ticks') ?? 'on'),
		exitWithParent: onOff('-run-with', 'exit-with-parent', runWith.get('exit-with-parent') ?? 'off'),
		fromStream: once.get('from-stream'),
	};
}
