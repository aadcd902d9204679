import { describe, expect, it } from 'vitest';
import { type HostOptions, memorySize, parseHostOptions, UsageError } from './options.js';

const MIB = 2 ** 20;

function parse(...argv: string[]): HostOptions {
	const options = parseHostOptions(argv);
	if (options === 'help') throw new Error('expected options');
	return options;
}

const DEFAULTS: HostOptions = {
	machine: 'pc-q35-7.2',
	memoryBytes: 128 * MIB,
	cpus: 1,
	mirrors: 0,
	helper: undefined,
	helperDialect: 'mh-v2',
	insecurePlaintext: false,
	sev: undefined,
	bios: undefined,
	fwCfg: [],
	qmp: [],
	incoming: undefined,
	stopped: false,
	name: undefined,
	uuid: undefined,
	serial: 'none',
	platform: undefined,
	insecureSeed: undefined,
	ticks: true,
	exitWithParent: false,
	fromStream: undefined,
};
const SEV = {
	id: 'sev0',
	policy: 1,
	cbitPosition: undefined,
	reducedPhysBits: 5,
	dhCertFile: undefined,
	sessionFile: undefined,
};
const support = ['-machine', 'q35,confidential-guest-support=sev0'];

describe('a command line', () => {
	it('without words is a plain host', () => {
		expect(parse()).toEqual(DEFAULTS);
	});

	it.each<[string, Partial<HostOptions>]>([
		['-machine pc', { machine: 'pc-i440fx-7.2' }],
		['-machine type=none', { machine: 'none' }],
		['-machine pc-q35-7.2,accel=tcg', { machine: 'pc-q35-7.2' }],
		['-M pc', { machine: 'pc-i440fx-7.2' }],
		['-M q35 -machine none', { machine: 'none' }],
		['-m 64', { memoryBytes: 64 * MIB }],
		['-m 1G', { memoryBytes: 1024 * MIB }],
		['-m size=256M', { memoryBytes: 256 * MIB }],
		['-smp 16', { cpus: 16 }],
		['-smp cpus=4,maxcpus=4', { cpus: 4 }],
		['-smp 4,mirrorvcpus=0', { cpus: 4 }],
		['-insecure-plaintext', { insecurePlaintext: true }],
		['-bios /fw', { bios: '/fw' }],
		['-fw_cfg name=opt/x,string=a,,b', { fwCfg: [{ name: 'opt/x', value: { string: 'a,b' } }] }],
		['-fw_cfg opt/x,file=/f', { fwCfg: [{ name: 'opt/x', value: { file: '/f' } }] }],
		['-fw_cfg name=x,string=', { fwCfg: [{ name: 'x', value: { string: '' } }] }],
		['-qmp unix:/q,server,nowait', { qmp: ['unix:/q,server,nowait'] }],
		['-qmp tcp:127.0.0.1:0,server,nowait', { qmp: ['tcp:127.0.0.1:0,server,nowait'] }],
		['-incoming defer', { incoming: 'defer' }],
		['-incoming tcp:127.0.0.1:1', { incoming: 'tcp:127.0.0.1:1' }],
		['-S', { stopped: true }],
		['--S', { stopped: true }],
		['-name it', { name: 'it' }],
		['-uuid 01234567-89AB-cdef-0123-456789abcdef', { uuid: '01234567-89AB-cdef-0123-456789abcdef' }],
		['-serial stdio', { serial: 'stdio' }],
		['-serial none', { serial: 'none' }],
		['-serial file:/log', { serial: { file: '/log' } }],
		['-platform /p', { platform: '/p' }],
		['-insecure-seed s', { insecureSeed: 's' }],
		['-ticks off', { ticks: false }],
		['-ticks on', { ticks: true }],
		['-run-with exit-with-parent=on', { exitWithParent: true }],
		['-run-with exit-with-parent=off', { exitWithParent: false }],
		['-from-stream /s', { fromStream: '/s' }],
		['-object sev-guest,id=sev0', {}],
	])('%s', (line, expected) => {
		expect(parse(...line.split(' '))).toEqual({ ...DEFAULTS, ...expected });
	});

	it.each<[string, Partial<NonNullable<HostOptions['sev']>>]>([
		['', {}],
		[',policy=0x20', { policy: 0x20 }],
		[',policy=0', { policy: 0 }],
		[',cbitpos=51,reduced-phys-bits=1', { cbitPosition: 51, reducedPhysBits: 1 }],
		[',dh-cert-file=/d,session-file=/s', { dhCertFile: '/d', sessionFile: '/s' }],
		[',kernel-hashes=off', {}],
	])('-object sev-guest,id=sev0%s', (properties, expected) => {
		expect(parse(...support, '-object', `sev-guest,id=sev0${properties}`).sev).toEqual({ ...SEV, ...expected });
	});

	it('chooses among several objects, and takes the old name of the property', () => {
		const objects = ['-object', 'sev-guest,id=a,policy=2', '-object', 'qom-type=sev-guest,id=b,policy=3'];
		expect(parse(...objects, '-machine', 'q35,memory-encryption=b').sev).toMatchObject({ id: 'b', policy: 3 });
	});

	it.each<[string, Partial<HostOptions>]>([
		['-smp 5,mirrorvcpus=1', { cpus: 4, mirrors: 1, helper: 'hardened' }],
		['-smp 24,mirrorvcpus=8', { cpus: 16, mirrors: 8, helper: 'hardened' }],
		['-smp 2,mirrorvcpus=1 -helper rfc-2021', { cpus: 1, mirrors: 1, helper: 'rfc-2021', helperDialect: 'mh-v2' }],
		['-smp 2,mirrorvcpus=1 -helper hardened,dialect=mh-v1', { helper: 'hardened', helperDialect: 'mh-v1' }],
	])('with mirror vCPUs, %s', (words, expected) => {
		const guest = [...support, '-object', 'sev-guest,id=sev0'];
		expect(parse(...guest, ...words.split(' '))).toMatchObject(expected);
	});

	it('keeps every -qmp and every -fw_cfg', () => {
		const options = parse(
			'-qmp',
			'unix:/a,server,nowait',
			'-qmp',
			'unix:/b,server,nowait',
			'-fw_cfg',
			'a,string=1',
			'-fw_cfg',
			'b,string=2',
		);
		expect([options.qmp.length, options.fwCfg.map((f) => f.name)]).toEqual([2, ['a', 'b']]);
	});

	it.each(['-h', '-help', '--help'])('%s asks for help, whatever else is there', (word) => {
		expect(parseHostOptions(['-m', '64', word, '-no-such-option'])).toBe('help');
	});
});

describe('a mistake is told in one line', () => {
	it.each<[string[], string]>([
		[['-nothing'], '-nothing: invalid option'],
		[['word'], 'word: invalid option'],
		[['-m'], '-m: requires an argument'],
		[['-object'], '-object: requires an argument'],
		[['-machine', 'virt'], `-machine: unsupported machine type 'virt'`],
		[['-machine', 'q35,x=1'], `-machine: Invalid parameter 'x'`],
		[['-machine', 'q35,,'], `-machine: unsupported machine type 'q35,'`],
		[['-machine', 'q35,'], '-machine: expected key=value, got an empty word'],
		[['-machine', 'q35,confidential-guest-support=sev0'], `-machine: Device 'sev0' not found`],
		[['-m', '39M'], `-m: expected a multiple of 2M from 40M to 2G, got '39M'`],
		[['-m', '41M'], `-m: expected a multiple of 2M from 40M to 2G, got '41M'`],
		[['-m', '3G'], `-m: expected a multiple of 2M from 40M to 2G, got '3G'`],
		[['-m', '64T'], `-m: expected a multiple of 2M from 40M to 2G, got '64T'`],
		[['-m', '-64'], `-m: expected a multiple of 2M from 40M to 2G, got '-64'`],
		[['-m', ''], `-m: expected a multiple of 2M from 40M to 2G, got ''`],
		[['-smp', '0'], `-smp: Parameter 'cpus' expects a number from 1 to 16, got '0'`],
		[['-smp', '17'], `-smp: Parameter 'cpus' expects a number from 1 to 16, got '17'`],
		[['-smp', 'two'], `-smp: Parameter 'cpus' expects a number from 1 to 16, got 'two'`],
		[['-smp', '1.5'], `-smp: Parameter 'cpus' expects a number from 1 to 16, got '1.5'`],
		[['-smp', '2,mirrorvcpus=x'], `-smp mirrorvcpus: expected a number, got "x"`],
		[['-smp', '2,cores=1'], `-smp: expected cpus, maxcpus or mirrorvcpus, got "cores"`],
		[['-smp', '2,maxcpus=4'], '-smp: expected maxcpus equal to cpus, got 4 and 2'],
		[['-smp', '2,mirrorvcpus=2'], '-smp: expected 1 to 16 vCPUs besides the mirrors, got 0'],
		[['-smp', '18,mirrorvcpus=1'], '-smp: expected 1 to 16 vCPUs besides the mirrors, got 17'],
		[['-smp', '12,mirrorvcpus=9'], `-smp: Parameter 'mirrorvcpus' expects a number from 0 to 8, got '9'`],
		[
			['-smp', '2,mirrorvcpus=1'],
			'-smp: mirror vCPUs need a confidential guest: -machine confidential-guest-support=ID',
		],
		[['-helper', 'hardened'], '-helper: needs mirror vCPUs: -smp N,mirrorvcpus=M'],
		[['-helper', 'hardened,dialect=v1'], `-helper: Parameter 'dialect' expects 'mh-v1' or 'mh-v2'`],
		[['-helper', 'hardened,version=1'], `-helper: Invalid parameter 'version'`],
		[['-helper', 'rfc'], `-helper: expected hardened or rfc-2021, got 'rfc'`],
		[
			[...support, '-object', 'sev-guest,id=sev0', '-smp', '2,mirrorvcpus=1', '-incoming', 'defer'],
			'-incoming: a helper has to run before its guest arrives; use QMP start-migrate-incoming',
		],
		[
			[...support, '-object', 'sev-guest,id=sev0', '-smp', '4,mirrorvcpus=2', '-helper', 'rfc-2021'],
			'-helper: rfc-2021 has one mailbox, hence one helper; got mirrorvcpus=2',
		],
		[['-fw_cfg', 'string=x'], `-fw_cfg: Parameter 'name' is missing`],
		[['-fw_cfg', 'name=x'], `-fw_cfg: expected exactly one of 'string' and 'file'`],
		[['-fw_cfg', 'name=x,string=a,file=b'], `-fw_cfg: expected exactly one of 'string' and 'file'`],
		[['-fw_cfg', 'name=x,text=a'], `-fw_cfg: Invalid parameter 'text'`],
		[['-fw_cfg', `name=${'x'.repeat(56)},string=a`], '-fw_cfg: name too long (max. 55 char)'],
		[['-serial', 'pty'], `-serial: expected file:PATH, stdio or none, got 'pty'`],
		[['-serial', 'file:'], `-serial: expected file:PATH, stdio or none, got 'file:'`],
		[['-uuid', '0123'], '-uuid: failed to parse UUID string: wrong format'],
		[['-ticks', 'yes'], `-ticks: Parameter 'ticks' expects 'on' or 'off'`],
		[['-run-with', 'chroot=/'], `-run-with: Invalid parameter 'chroot'`],
		[['-run-with', 'exit-with-parent=yes'], `-run-with: Parameter 'exit-with-parent' expects 'on' or 'off'`],
		[['-object', 'rng-random,id=x'], `-object: expected sev-guest, got 'rng-random'`],
		[['-object', 'sev-guest'], `-object sev-guest: Parameter 'id' is missing`],
		[['-object', 'sev-guest,id=x,polcy=1'], `-object sev-guest: Invalid parameter 'polcy'`],
		[
			['-object', 'sev-guest,id=x,policy=4294967296'],
			`-object sev-guest: Parameter 'policy' expects a number from 0 to 4294967295, got '4294967296'`,
		],
		[
			['-object', 'sev-guest,id=x,policy='],
			`-object sev-guest: Parameter 'policy' expects a number from 0 to 4294967295, got ''`,
		],
		[
			['-object', 'sev-guest,id=x,cbitpos=31'],
			`-object sev-guest: Parameter 'cbitpos' expects a number from 32 to 63, got '31'`,
		],
		[
			['-object', 'sev-guest,id=x,reduced-phys-bits=64'],
			`-object sev-guest: Parameter 'reduced-phys-bits' expects a number from 1 to 63, got '64'`,
		],
		[
			['-object', 'sev-guest,id=x,kernel-hashes=on'],
			'-object sev-guest: kernel-hashes=on needs a kernel to hash, and this model has no -kernel',
		],
		[
			['-object', 'sev-guest,id=x,kernel-hashes=1'],
			`-object sev-guest: Parameter 'kernel-hashes' expects 'on' or 'off'`,
		],
	])('%j: %s', (argv, line) => {
		let told: unknown;
		try {
			parseHostOptions(argv);
		} catch (error) {
			told = error;
		}
		expect(told).toBeInstanceOf(UsageError);
		expect((told as Error).message).toBe(line);
		expect(line).not.toContain('\n');
	});

	it.each(['unix', 'unix:', 'tcp:0.0.0.0:1,server,nowait', 'stdio'])('-qmp %s', (address) => {
		expect(() => parseHostOptions(['-qmp', address])).toThrow(/^-qmp: [^\n]+$/);
	});
});

describe('memorySize', () => {
	it.each([
		['40', 40 * MIB],
		['40m', 40 * MIB],
		['65536k', 64 * MIB],
		['65536K', 64 * MIB],
		['2G', 2048 * MIB],
		['2g', 2048 * MIB],
	])('%s', (text, bytes) => {
		expect(memorySize('-m', text)).toBe(bytes);
	});
});
