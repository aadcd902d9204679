/** Mistakes of a guest owner and of the world: one clear line, the right exit code, no file made or changed. */
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { buildFirmwareImage } from '@cvm/ovmf-mh';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Folder, owner } from './owner-cli.js';
import { ASK_ARK, cekOf, Host } from './owner-machine.js';
import { expectOneLine, run } from './processes.js';

const host = new Host('mistakes of owners');
const { pdh, chain } = host.certificates();
const NOTHING = '/nonexistent';
const KEY = base64(new Uint8Array(16));
const BLOB = base64(new Uint8Array(48));
const DIGEST = '00'.repeat(32);
const GUID = '736869e5-84f0-4973-92ec-06879ce3da0b';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
	folder.write('pdh', pdh);
	folder.write('chain', chain);
	folder.write('cek', cekOf(host));
	folder.write('askArk', ASK_ARK);
	folder.write('text', 'hello world\n');
	folder.write('fw', buildFirmwareImage({ size: 0x10000 }));
	folder.write('bare', new Uint8Array(4096));
	folder.write('empty', '');
	folder.write('zeros', new Uint8Array(208));
	mkdirSync(folder.at('folder'));
});
afterEach(() => folder.remove());

/** Arguments in which `@name` stands for a file of the test's folder. */
const inFolder = (argv: readonly string[]): string[] => argv.map((arg) => arg.replace('@', `${folder.path}/`));

type Mistake = readonly [string, readonly string[], 1 | 2, string];

const CERTS = ['@pdh', '@chain', '@cek', '@askArk'];
const FAKE = ['--root', 'fake'];
const chains: readonly Mistake[] = [
	['no files', ['chain', 'verify', ...FAKE], 2, "missing required argument 'file'"],
	[
		'no root',
		['chain', 'verify', ...CERTS],
		2,
		'--root: expected one of naples, rome, milan, genoa, turin, fake, or --ark',
	],
	['an unknown root', ['chain', 'verify', '--root', 'bergamo', ...CERTS], 2, '--root: expected one of naples, rome'],
	['two roots', ['chain', 'verify', ...FAKE, '--ark-fingerprint', DIGEST, ...CERTS], 2, '--root: expected one root'],
	[
		'half a fingerprint',
		['chain', 'verify', '--ark-fingerprint', '00', ...CERTS],
		2,
		"expected 64 hex digits, got '00'",
	],
	['no CEK', ['chain', 'verify', ...FAKE, '@pdh', '@askArk'], 2, 'CEK, ASK, ARK, got no PEK, no OCA, no CEK'],
	['a file that is not there', ['chain', 'show', NOTHING], 2, "certificate: '/nonexistent': No such file or directory"],
	['a folder', ['chain', 'show', '@folder'], 2, 'not a file'],
	['a text', ['chain', 'show', '@text'], 1, 'offset 0: expected a SEV certificate, ASK or ARK, got '],
	['an empty file', ['chain', 'show', '@empty'], 1, 'offset 0: expected a SEV certificate, ASK or ARK, got 0 bytes'],
	['a file without end', ['chain', 'show', '/dev/zero'], 1, "'/dev/zero': expected at most 65536 bytes, got more"],
];

const SESSION = ['session', '-d', '@folder'];
const sessions: readonly Mistake[] = [
	['no policy', [...SESSION, ...FAKE, ...CERTS], 2, "required option '--policy <bits>' not specified"],
	['a policy that is none', [...SESSION, '--policy', 'x', ...FAKE, ...CERTS], 2, "from 0 to 4294967295, got 'x'"],
	['reserved bits', [...SESSION, '--policy', '0x40', ...FAKE, ...CERTS], 2, "bits 6 to 15 to be 0, got '0x40'"],
	[
		'a name with a folder',
		[...SESSION, '--policy', '1', '--name', '../vm', ...FAKE, ...CERTS],
		2,
		'--name: expected a file',
	],
	[
		'a name without use',
		[...SESSION, '--policy', '1', '--name', 'vm', '--format', 'sev-tool', ...CERTS],
		2,
		'--name: needs',
	],
	[
		'an unknown format',
		[...SESSION, '--policy', '1', '--format', 'x', ...CERTS],
		2,
		"expected one of sevctl, sev-tool, got 'x'",
	],
	[
		'a root for nothing',
		[...SESSION, '--policy', '1', '--unverified', ...FAKE, '@pdh'],
		2,
		'--unverified: expected no root',
	],
	[
		'a folder that is not there',
		['session', '--policy', '1', '-d', NOTHING, ...FAKE, ...CERTS],
		1,
		'No such file or directory',
	],
	['a file for a folder', ['session', '--policy', '1', '-d', '@text', ...FAKE, ...CERTS], 1, 'Not a directory'],
];

const FW = ['measure', '--firmware', '@fw'];
const API = ['--api-major', '0', '--api-minor', '24', '--build-id', '15'];
const FULL = [...FW, '--policy', '1', '--tik', KEY, ...API];
const ES = [...FW, '--digest-only', '--policy', '4'];
const CPU = ['--vcpu-type', 'EPYC'];
const measures: readonly Mistake[] = [
	['nothing measured', ['measure', '--digest-only'], 2, '--firmware: expected a file, or --launch-digest, got neither'],
	[
		'two things measured',
		[...FW, '--digest-only', '--launch-digest', DIGEST],
		2,
		'--launch-digest: expected no --firmware',
	],
	['half a digest', ['measure', '--digest-only', '--launch-digest', 'AAAA'], 2, "base64 of 32 bytes, got 'AAAA'"],
	[
		'firmware of nothing',
		['measure', '--digest-only', '--firmware', NOTHING],
		2,
		"--firmware: '/nonexistent': No such",
	],
	[
		'firmware without end',
		['measure', '--digest-only', '--firmware', '/dev/zero'],
		1,
		'expected at most 67108864 bytes',
	],
	['an initrd alone', [...FW, '--digest-only', '--initrd', '@text'], 2, '--initrd: needs --kernel'],
	['a command line alone', [...FW, '--digest-only', '--append', 'x'], 2, '--append: needs --kernel'],
	[
		'a kernel for a firmware without hashes',
		['measure', '--digest-only', '--firmware', '@bare', '--kernel', '@text'],
		1,
		'kernel hashes: expected a firmware with a hash table, got one without',
	],
	['a broken number of CPUs', [...ES, '--vcpus', 'x', ...CPU], 2, "--vcpus: expected a number from 1 to 4096, got 'x'"],
	['no CPUs', [...ES, '--vcpus', '0', ...CPU], 2, "got '0'"],
	['too many CPUs', [...ES, '--vcpus', '4097', ...CPU], 2, "got '4097'"],
	['no number of CPUs', ES, 2, '--vcpus: expected a number, as --policy has the ES bit'],
	[
		'CPUs without SEV-ES',
		[...FW, '--digest-only', '--policy', '1', '--vcpus', '1', ...CPU],
		2,
		'--vcpus: needs --policy with',
	],
	['a CPU type alone', [...FW, '--digest-only', ...CPU], 2, '--vcpu-type: needs --vcpus'],
	['--legacy-vm-type alone', [...FW, '--digest-only', '--legacy-vm-type'], 2, '--legacy-vm-type: needs --vcpus'],
	['no CPU type', [...ES, '--vcpus', '1'], 2, '--vcpu-type: expected a name, --vcpu-sig or --vmsa-cpu0, got none'],
	['an unknown CPU type', [...ES, '--vcpus', '1', '--vcpu-type', '486'], 2, '--vcpu-type: expected one of EPYC'],
	['two CPU types', [...ES, '--vcpus', '1', '--vcpu-sig', '1', ...CPU], 2, '--vcpu-sig: expected no --vcpu-type'],
	['a CPU signature that is none', [...ES, '--vcpus', '1', '--vcpu-sig', 'x'], 2, '--vcpu-sig: expected a number'],
	['a second save area alone', [...ES, '--vcpus', '2', '--vmsa-cpu1', '@bare'], 2, '--vmsa-cpu1: needs --vmsa-cpu0'],
	[
		'one save area for two',
		[...ES, '--vcpus', '2', '--vmsa-cpu0', '@bare'],
		2,
		'--vmsa-cpu1: expected a file, as there are 2',
	],
	['a save area too small', [...ES, '--vcpus', '1', '--vmsa-cpu0', '@text'], 2, 'expected 4096 bytes, got 12'],
	[
		'a save area beside a CPU type',
		[...ES, '--vcpus', '1', '--vmsa-cpu0', '@bare', ...CPU],
		2,
		'no description of the proc',
	],
	[
		'two CPUs of a firmware without their address',
		['measure', '--digest-only', '--firmware', '@bare', '--vcpus', '2', ...CPU],
		1,
		"/bare': virtual CPU 1: expected the firmware's SEV-ES reset vector, got none",
	],
	['no policy', [...FW, '--tik', KEY, ...API, '--nonce', KEY], 2, '--policy: expected the guest policy, got none'],
	['no key', [...FW, '--policy', '1', ...API, '--nonce', KEY], 2, '--tik: expected a key, got none'],
	[
		'a short key',
		[...FW, '--policy', '1', '--tik', 'AAAA', ...API, '--nonce', KEY],
		2,
		'--tik: expected 16 bytes, got 3',
	],
	[
		'a long key file',
		[...FW, '--policy', '1', '--tik', '@cek', ...API, '--nonce', KEY],
		2,
		'expected 16 bytes, got 2084 in',
	],
	[
		'a key that is none',
		[...FW, '--policy', '1', '--tik', '?', ...API, '--nonce', KEY],
		2,
		'--tik: expected a file that is',
	],
	['no version', [...FW, '--policy', '1', '--tik', KEY, '--nonce', KEY], 2, '--api-major: expected the version of'],
	[
		'a large version',
		[...FULL, '--build-id', '256', '--nonce', KEY],
		2,
		"--build-id: expected a number from 0 to 255, got '256'",
	],
	['no nonce', FULL, 2, '--nonce: expected one of --nonce, --launch-measure-blob and --verify'],
	['two nonces', [...FULL, '--nonce', KEY, '--verify', BLOB], 2, '--nonce: expected one of'],
	['an answer too short', [...FULL, '--verify', KEY], 1, '--verify: measurement: expected 48 bytes, got 16'],
	['an answer that is none', [...FULL, '--verify', '?'], 1, '--verify: measurement: expected base64'],
	[
		'an answer in another file',
		[...FULL, '--verify', '@fw'],
		1,
		"/fw': measurement: expected at most 16384 bytes, got 65536",
	],
];

const SECRET = ['secret', '--launch-measure-blob', BLOB];
const KEYS = ['--tek', KEY, '--tik', KEY];
const NEW = ['--migration-secret', 'new'];
const OLD = ['--migration-secret', '@text'];
const GUEST = ['--guest-id', '00112233-4455-6677-8899-aabbccddeeff'];
const ENTRY = ['--secret', `${GUID}:@text`];
const secrets: readonly Mistake[] = [
	['no measurement', ['secret', ...KEYS, ...ENTRY], 2, "required option '--launch-measure-blob <blob>' not specified"],
	['no secret', [...SECRET, ...KEYS], 2, '--secret: expected GUID:FILE, or --raw and a file, one of both'],
	['two forms', [...SECRET, ...KEYS, ...ENTRY, '--raw', '@text'], 2, '--secret: expected GUID:FILE, or --raw'],
	['no GUID', [...SECRET, ...KEYS, '--secret', '@text'], 2, '--secret: expected GUID:FILE, got '],
	['no file', [...SECRET, ...KEYS, '--secret', GUID], 2, '--secret: expected GUID:FILE, got '],
	['a file that is not there', [...SECRET, ...KEYS, '--secret', `${GUID}:${NOTHING}`], 2, 'No such file or directory'],
	['a migration secret beside bytes', [...SECRET, ...KEYS, '--raw', '@text', ...NEW], 2, 'expected no --raw beside it'],
	['a guest’s name alone', [...SECRET, ...KEYS, ...ENTRY, ...GUEST], 2, '--guest-id: needs --migration-secret new'],
	['a name for an old secret', [...SECRET, ...KEYS, ...OLD, ...GUEST], 2, '--guest-id: needs --migration-secret new'],
	['a version for an old secret', [...SECRET, ...KEYS, ...OLD, '--min-version', '2'], 2, '--min-version: needs'],
	['a version that is none', [...SECRET, ...KEYS, ...NEW, '--min-version', '0'], 2, '--min-version: expected a number'],
	['a name that is none', [...SECRET, ...KEYS, ...NEW, '--guest-id', 'me'], 2, "--guest-id: expected a UUID, got 'me'"],
	['no migration secret', [...SECRET, ...KEYS, ...OLD], 1, ': cvm_migration_secret: expected 56 bytes, got '],
	['a migration secret that is not there', [...SECRET, ...KEYS, '--migration-secret', NOTHING], 2, 'No such file'],
	['an empty raw secret', [...SECRET, ...KEYS, '--raw', '@empty'], 1, 'secret: expected at least 1 byte, got 0'],
	[
		'a secret too large',
		[...SECRET, ...KEYS, '--raw', '@fw'],
		2,
		'--secret: expected at most 16384 bytes in all, got 65536',
	],
	['no TEK', [...SECRET, '--tik', KEY, ...ENTRY], 2, '--tek: expected a key, or --tk, got neither'],
	['no TIK', [...SECRET, '--tek', KEY, ...ENTRY], 2, '--tik: expected a key, or --tk, got neither'],
	['keys twice', [...SECRET, ...KEYS, '--tk', '@text', ...ENTRY], 2, '--tk: expected no --tek and --tik beside it'],
	['half of both keys', [...SECRET, '--tk', '@text', ...ENTRY], 2, '--tk: expected 32 bytes, got 12'],
	['a header without a payload', [...SECRET, ...KEYS, ...ENTRY, '@h'], 2, 'one for the payload, got one'],
	[
		'one file for both',
		[...SECRET, ...KEYS, ...ENTRY, '@h', '@folder/../h'],
		2,
		'expected one output for a file, got two',
	],
	['a full disk', [...SECRET, ...KEYS, ...ENTRY, '@h', '/dev/full'], 1, "'/dev/full': No space left on device"],
	['a folder for a file', [...SECRET, ...KEYS, ...ENTRY, '@h', '@folder'], 2, 'expected a file name, got a folder'],
];

const REPORT = ['report', 'verify'];
const others: readonly Mistake[] = [
	[
		'a report and no nonce',
		[...REPORT, ...FAKE, '@zeros', ...CERTS],
		2,
		'--nonce: expected the nonce that was asked with',
	],
	['two nonces', [...REPORT, '--nonce', KEY, '--any-nonce', '@zeros', ...CERTS], 2, '--nonce: expected the nonce'],
	['a report too short', [...REPORT, '--any-nonce', ...FAKE, '@text', ...CERTS], 1, 'attestation report: expected 208'],
	['a report of zeros', [...REPORT, '--any-nonce', ...FAKE, '@zeros', ...CERTS], 1, 'signature: BAD_SIGNATURE'],
	['no PEK', [...REPORT, '--any-nonce', '--unverified', '@zeros', '@pdh'], 2, 'certificates: expected PEK, got no PEK'],
	[
		'a CSR that is a text',
		['oca', 'sign', '--csr', '@text', '--key', '@text'],
		1,
		'private key: expected SEC 1 or PKCS #8 DER of a P-384 key, got 12 bytes',
	],
	[
		'an encrypted key',
		['oca', 'sign', '--csr', '@chain', '--key', '@pem'],
		1,
		'expected an unencrypted EC private key in PEM',
	],
	['no CSR', ['oca', 'sign', '--key', '@text'], 2, "required option '--csr <file>' not specified"],
	['a port that is none', ['keyserver', '--port', '65536'], 2, '--port: expected a number from 0 to 65535'],
	['a time that is none', ['keyserver', '--for', '0'], 2, '--for: expected a number from 1 to 86400'],
	['an unknown command', ['nope'], 2, "unknown command 'nope'"],
	['an unknown command of chain', ['chain', 'nope'], 2, "unknown command 'nope'"],
	['an unknown option', ['measure', '--nope'], 2, "unknown option '--nope'"],
	['an unknown option of a subcommand', ['chain', 'show', '--nope'], 2, "unknown option '--nope'"],
	['a word too many', ['measure', 'x'], 2, 'too many arguments'],
];

describe.each([
	['certificates', chains],
	['sessions', sessions],
	['measurements', measures],
	['secrets', secrets],
	['other commands', others],
])('a mistake with %s', (_, mistakes) => {
	it.each(mistakes)('%s', async (_name, argv, code, said) => {
		folder.write('pem', '-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n');
		const before = folder.names();
		const ended = await owner(...inFolder(argv));
		expect(expectOneLine(ended, code)).toContain(said);
		if (code === 2) expect(ended.stdout).toBe('');
		expect(folder.names()).toEqual(before);
	});
});

describe('a signing request', () => {
	it.each([
		['that is no PEK', pdh, 'PEK signing request: expected version 1 with an ECDSA P-384 PEK'],
		['that is signed', chain.slice(0, pdh.length), 'PEK signing request: expected two empty signature slots'],
		['of another length', pdh.slice(1), 'PEK signing request: expected 2084 bytes, got 2083'],
	])('%s is refused', async (_, csr, said) => {
		await owner('oca', 'create', ...inFolder(['@oca.cert', '@oca.key']));
		folder.write('csr', csr);
		const ended = await owner('oca', 'sign', ...inFolder(['--csr', '@csr', '--key', '@oca.key', '-d', '@folder']));
		expect(expectOneLine(ended, 1)).toContain(said);
	});

	it('is not signed with a key that is not that of the certificate', async () => {
		await owner('oca', 'create', ...inFolder(['@oca.cert', '@oca.key']));
		await owner('oca', 'create', ...inFolder(['@other.cert', '@other.key']));
		folder.write('csr', host.pekCsr());
		const argv = ['oca', 'sign', '--csr', '@csr', '--key', '@oca.key', '--oca', '@other.cert', '-d', '@folder'];
		expect(expectOneLine(await owner(...inFolder(argv)), 1)).toContain('expected the private key of the certificate');
	});
});

describe('keyserver', () => {
	it('says that its port is taken', async () => {
		const other = createServer();
		const port = await new Promise<number>((resolve) => {
			other.listen(0, '127.0.0.1', () => resolve((other.address() as { port: number }).port));
		});
		try {
			const ended = await owner('keyserver', '--port', `${port}`);
			expect(expectOneLine(ended, 1)).toMatch(/keyserver: port \d+: Address already in use/);
		} finally {
			other.close();
		}
	});
});

describe('--help', () => {
	it('is there for every command, with an example', async () => {
		const commands = ['', 'chain', 'chain verify', 'chain show', 'oca', 'oca create', 'oca sign', 'session', 'measure'];
		for (const command of [...commands, 'secret', 'report', 'report verify', 'keyserver']) {
			const { code, stdout, stderr } = await owner(...command.split(' ').filter(Boolean), '--help');
			expect([code, stderr], command).toEqual([0, '']);
			expect(stdout, command).toMatch(/usage:/i);
			expect(stdout, command).toMatch(/examples?:\n {2}cvm owner /);
		}
	});

	it('is there in the program as it is bundled, as are mistakes', async () => {
		expect(await run('owner', 'measure', '--help')).toMatchObject({ code: 0, stderr: '' });
		expect(expectOneLine(await run('owner', 'measure', '--nope'), 2)).toContain("unknown option '--nope'");
	});
});
