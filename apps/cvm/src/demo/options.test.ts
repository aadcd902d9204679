import { tmpdir } from 'node:os';
import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { checkDemoOptions, type GivenDemoOptions, WORKLOADS } from './options.js';

const DEFAULTS: GivenDemoOptions = {
	...{ mode: 'psp', memory: '256M', vcpus: '2', workload: 'random', hops: '1', policy: '0x20', seed: '1' },
	...{ bandwidth: '0', downtime: '300' },
};
const check = (given: Partial<GivenDemoOptions>) => checkDemoOptions({ ...DEFAULTS, ...given });

describe('the options of cvm demo', () => {
	it('are read with their units', () => {
		expect(check({ memory: '1G', bandwidth: '32M', policy: '0x21' })).toMatchObject({
			memoryBytes: 2 ** 30,
			bandwidth: 32 * 2 ** 20,
			policy: 0x21,
			downtimeLimit: 300,
			json: false,
		});
	});

	it('take a plain number as MiB of memory and as bytes per second', () => {
		expect(check({ memory: '64', bandwidth: '4096' })).toMatchObject({ memoryBytes: 64 * 2 ** 20, bandwidth: 4096 });
	});

	it.each(Object.entries(WORKLOADS))('give %s its own number of steps', (workload, steps) => {
		expect(check({ workload }).steps).toBe(steps);
		expect(check({ workload, steps: '5' }).steps).toBe(5);
	});

	it('give mode mh one hardened helper, and others on demand', () => {
		expect(check({}).helper).toBeUndefined();
		expect(check({ mode: 'mh' }).helper).toEqual({ profile: 'hardened', count: 1 });
		expect(check({ mode: 'mh', helpers: '8' }).helper).toEqual({ profile: 'hardened', count: 8 });
		const posted = { mode: 'mh', profile: 'rfc-2021', insecurePlaintext: true };
		expect(check(posted).helper).toEqual({ profile: 'rfc-2021', count: 1 });
	});

	it('let a guest move by its helper whose policy forbids SEND', () => {
		expect(check({ mode: 'mh', policy: '0x28' }).policy).toBe(0x28);
	});

	it.each([
		[{ mode: 'fast' }, "--mode: expected one of psp, mh, plain, got 'fast'"],
		[{ workload: 'toString' }, "--workload: expected one of ab, random, shared-io, got 'toString'"],
		[{ memory: '' }, "got ''"],
		[{ memory: '38M' }, "--memory: expected a size such as 256M, from 40M to 2048M, got '38M'"],
		[{ memory: '2050M' }, "got '2050M'"],
		[{ memory: '41M' }, "got '41M'"],
		[{ memory: '64MB' }, "got '64MB'"],
		[{ memory: '1e9' }, "got '1e9'"],
		[{ vcpus: '0' }, "--vcpus: expected a number from 1 to 16, got '0'"],
		[{ vcpus: '17' }, "got '17'"],
		[{ vcpus: '' }, "got ''"],
		[{ vcpus: ' 2' }, "got ' 2'"],
		[{ vcpus: '2.0' }, "got '2.0'"],
		[{ steps: '0' }, '--steps: expected a number from 1'],
		[{ steps: 'many' }, "got 'many'"],
		[{ hops: '0' }, '--hops: expected a number from 1 to 16'],
		[{ hops: '17' }, "got '17'"],
		[{ policy: '-1' }, "--policy: expected a number from 0 to 4294967295, got '-1'"],
		[{ policy: '0x100000000' }, "got '0x100000000'"],
		[{ policy: '0x24' }, '--policy: SEV-ES guests'],
		[{ policy: '0x28' }, '--policy: the NOSEND bit'],
		[{ bandwidth: '2G' }, '--bandwidth: expected'],
		[{ bandwidth: 'fast' }, '--bandwidth: expected'],
		[{ helpers: '2' }, '--helpers: needs --mode mh'],
		[{ profile: 'hardened', mode: 'plain' }, '--profile: needs --mode mh'],
		[{ insecurePlaintext: true }, '--insecure-plaintext: needs --mode mh'],
		[{ mode: 'mh', helpers: '0' }, "--helpers: expected a number from 1 to 8, got '0'"],
		[{ mode: 'mh', helpers: '9' }, "got '9'"],
		[{ mode: 'mh', profile: 'rfc' }, "--profile: expected one of hardened, rfc-2021, got 'rfc'"],
		[{ mode: 'mh', profile: 'rfc-2021' }, '--profile: rfc-2021 encrypts nothing'],
		[{ mode: 'mh', insecurePlaintext: true }, '--insecure-plaintext: needs --profile rfc-2021'],
		[
			{ mode: 'mh', profile: 'rfc-2021', insecurePlaintext: true, helpers: '2' },
			"--helpers: rfc-2021 has one mailbox, hence one helper; got '2'",
		],
		[{ mode: 'mh', policy: '0x24' }, '--policy: SEV-ES guests'],
		[{ mode: 'mh', fromStream: import.meta.filename }, '--from-stream: needs --mode psp'],
		[{ mode: 'mh', output: 'stream' }, '-o: needs --mode plain'],
		[{ downtime: '0' }, '--downtime: expected a number from 1 to 2000000'],
		[{ downtime: '2000001' }, "got '2000001'"],
		[{ fromStream: '/nonexistent' }, "--from-stream: '/nonexistent': No such file or directory"],
		[{ fromStream: tmpdir() }, 'not a file'],
		[{ fromStream: import.meta.filename, mode: 'plain' }, '--from-stream: needs --mode psp'],
		[
			{ fromStream: import.meta.filename, policy: '1' },
			'--from-stream: the proof reads the target through DBG_DECRYPT',
		],
		[{ firmware: '/nonexistent' }, "--firmware: '/nonexistent': No such file or directory"],
		[{ output: 'stream' }, '-o: needs --mode plain'],
		[{ output: '', mode: 'plain' }, "-o: expected a file name, got ''"],
		[{ output: 'stream', mode: 'plain', hops: '2' }, '-o: a file is one hop'],
	] as [Partial<GivenDemoOptions>, string][])('%j: refused in one line that names the option', (given, said) => {
		expect(() => check(given)).toThrow(
			expect.objectContaining({ name: 'Misuse', code: 'misuse', message: expect.stringContaining(said) }),
		);
		expect(() => check(given)).toThrow(/^--?[a-z-]+: [^\n]+$/);
	});

	property.prop([
		fc.constantFrom('memory', 'vcpus', 'steps', 'hops', 'policy', 'bandwidth', 'downtime', 'helpers'),
		fc.string(),
	])('never take a word for a number', (option, text) => {
		fc.pre(!/^\s*[0-9]/.test(text));
		expect(() => check({ ...(option === 'helpers' && { mode: 'mh' }), [option]: text })).toThrow(
			expect.objectContaining({ name: 'Misuse' }),
		);
	});
});
