/** Every published value for guest owners, under one roof. Inputs that are files come from CVM_PUBLIC_DATA. */
import { ctr, nobleProvider } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { fixedRandom, join } from '../../test/fake-platform.js';
import { hasPublicData, NEEDS_PUBLIC_DATA, PRODUCTS, publicFile } from '../../test/public-data.js';
import { verifyArk, verifyAsk } from '../certificates/amd-certificate.js';
import { deriveMasterSecret, policyMac, wrappingKeys } from '../channel/session.js';
import { fromBase64, toBase64 } from './formats/base64.js';
import {
	AMD_ROOTS,
	CPU_SIGNATURES,
	expectedMeasurement,
	guestLaunchDigest,
	initialVmsa,
	launchDigest,
	packageSecret,
	readSevBlocks,
	Status,
	secretTable,
	verifyPlatform,
} from './index.js';

/** virtee/sevctl `tests/data/secret/secret2.txt`. */
const SECRET2 = 'SOME OTHER SECRET';
const zeros = new Uint8Array(16);
const empty = new Uint8Array(0);
const ascii = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
const base64 = (text: string) => fromBase64(text, 'vector');

describe.each([nobleProvider, nodeProvider])('published values ($name)', (provider) => {
	const master = deriveMasterSecret(provider, zeros, zeros);
	const { kek, kik } = wrappingKeys(provider, master);
	const wrapped = () => {
		const out = new Uint8Array(32);
		ctr(provider.blockCipher(kek), zeros, out, out);
		return out;
	};

	it('§15.1 KDF master secret (virtee/sev `src/session`)', () => {
		expect(toHex(master)).toBe('ab4d269fcc62bedb4511d56c386ce706');
	});

	it('§15.1 WRAP_TK (virtee/sev `src/session`)', () => {
		expect(toHex(wrapped())).toBe('2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4');
	});

	it('§15.1 WRAP_MAC (virtee/sev `src/session`)', () => {
		expect(toHex(provider.hmacSha256(kik, wrapped()))).toBe(
			'3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d',
		);
	});

	it('§15.1 POLICY_MAC (virtee/sev `src/session`)', () => {
		expect(toHex(policyMac(provider, zeros, 0))).toBe(
			'aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af',
		);
	});

	it('§15.1 MEASURE (AMDESE/sev-tool `tests.cpp`)', () => {
		const measure = expectedMeasurement(provider, {
			tik: fromHex('66320db73158a35a255d051758e95ed4'),
			version: { major: 0, minor: 18, build: 15 },
			policy: 0,
			digest: launchDigest(provider, []),
			mnonce: fromHex('4fbe0bedbad6c86ae8f68971d103e554'),
		});
		expect(toHex(measure)).toBe('6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea');
	});
});

describe.runIf(hasPublicData)(`published values of files ${NEEDS_PUBLIC_DATA}`, () => {
	const provider = nodeProvider;
	const mnonce = base64('wxP6tRHCFrFQWxsuqZA8QA==');
	const answer = (digest: Uint8Array, o = { version: { major: 1, minor: 40, build: 40 }, policy: 3, mnonce }) => {
		const tik = publicFile('sev', 'measurement', 'tik1.bin');
		return toBase64(join(expectedMeasurement(provider, { ...o, tik, digest }), o.mnonce));
	};
	const el9 = () => publicFile('ovmf', 'amdsev-el9-last4k.bin');
	const amdSev = () => publicFile('ovmf', 'ovmf_AmdSev_suffix.bin');

	it('§15.1 measurement with digest (virtee/sevctl)', () => {
		expect(answer(base64('xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM='))).toBe(
			'lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA',
		);
	});

	it('§15.1 measurement of firmware (virtee/sevctl)', () => {
		expect(answer(guestLaunchDigest(provider, { firmware: el9() }))).toBe(
			'oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBnDE/q1EcIWsVBbGy6pkDxA',
		);
	});

	it('§15.1 measurement with kernel hashes (virtee/sevctl)', () => {
		const boot = {
			kernel: publicFile('sev', 'measurement', 'vmlinuz-fake'),
			initrd: publicFile('sev', 'measurement', 'initrd-fake'),
			commandLine: ascii('foo bar baz fake kernel=cmdline'),
		};
		expect(answer(guestLaunchDigest(provider, { firmware: el9(), boot }))).toBe(
			'h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPwvDE/q1EcIWsVBbGy6pkDxA',
		);
	});

	it('§15.1 measurement of a SEV-ES guest with four virtual CPUs (virtee/sevctl)', () => {
		const published = '/o0nzDKE5XgtVnUZWPhUea/WZYrTKLExR7KCwuMdbActvpWfXTFk21KMZIAAhQny';
		const vcpus = { count: 4, signature: CPU_SIGNATURES['EPYC-Milan'], fpuInit: false };
		const digest = guestLaunchDigest(provider, { firmware: el9(), vcpus });
		const version = { major: 1, minor: 49, build: 6 };
		expect(answer(digest, { version, policy: 5, mnonce: base64(published).slice(32) })).toBe(published);
	});

	it.each([
		[0, 'f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7'],
		[1, 'bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487'],
	])('§15.1 save area of virtual CPU %i (SHA-256 of virtee/sevctl `tests/data/vmsa*.bin`)', (vcpu, hash) => {
		const signature = CPU_SIGNATURES['EPYC-Milan'];
		const area = initialVmsa({ vcpu, signature, fpuInit: false, ...readSevBlocks(el9()) });
		expect(toHex(provider.digest('sha256', area))).toBe(hash);
	});

	const signature = CPU_SIGNATURES['EPYC-v4'];
	const loud = { kernel: empty, commandLine: ascii('console=ttyS0 loglevel=7') };
	it.each([
		['SEV, command line', { boot: loud }, '82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff'],
		[
			'SEV, kernel only',
			{ boot: { kernel: empty } },
			'77f613d7bbcdf12a73782ea9e88b0172aeda50d1a54201cb903594ff52846898',
		],
		[
			'SEV-ES, 1 vCPU',
			{ boot: { kernel: empty }, vcpus: { count: 1, signature } },
			'13810ae661ea11e2bb205621f582fee268f0367c8f97bc297b7fadef3e12002c',
		],
		[
			'SEV-ES, 4 vCPUs',
			{ boot: { kernel: empty }, vcpus: { count: 4, signature } },
			'0dccbcaba8e90b261bd0d2e1863a2f9da714768b7b2a19363cd6ae35aa90de91',
		],
	])('§15.1 launch digest of AmdSev: %s (virtee/sev-snp-measure)', (_, contents, digest) => {
		expect(toHex(guestLaunchDigest(provider, { firmware: amdSev(), ...contents }))).toBe(digest);
	});

	it('§15.1 launch digest of OvmfX64 (virtee/sev-snp-measure)', () => {
		const firmware = publicFile('ovmf', 'ovmf_OvmfX64_suffix.bin');
		expect(toHex(guestLaunchDigest(provider, { firmware }))).toBe(
			'b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da',
		);
		// Their test suite wants this refused as well.
		expect(() => guestLaunchDigest(provider, { firmware, boot: { kernel: empty } })).toThrow('with a hash table');
	});

	const guids = ['736869e5-84f0-4973-92ec-06879ce3da0b', '736869e5-aaaa-4973-92ec-06879ce3da0b'];
	const payloads = [
		'0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA==',
		'0U3e5PcXv0UW+H4tSBFKObWYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCC+WWs332lpLNUX1ZI3YK7vYgtys4X+uGxEIlkIQ90v8/w8ZFmQMe',
	];
	const headers = [
		'AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q==',
		'AAAAAKxUdO1N0yx9mJ7FI9klWeyZ3r0dOEKHUOhIRqzGYYvTJgdMtBPL1nK6GD9aGET7Ng==',
	];
	it.each([1, 2])('§15.1 launch secret, %i of them (virtee/sevctl)', (count) => {
		const measured = base64('TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS');
		const data = [publicFile('sev', 'secret', 'secret1.txt'), ascii(SECRET2)];
		const entries = guids.slice(0, count).map((guid, i) => ({ guid, data: data[i] ?? empty }));
		const { header, payload } = packageSecret({
			provider,
			random: fixedRandom(base64('rFR07U3TLH2YnsUj2SVZ7A==')),
			keys: { tek: publicFile('sev', 'secret', 'tek1.bin'), tik: publicFile('sev', 'secret', 'tik1.bin') },
			measure: measured.subarray(0, 32),
			secret: secretTable(entries),
		});
		expect(toBase64(header)).toBe(headers[count - 1]);
		expect(toBase64(payload)).toBe(payloads[count - 1]);
	});

	it.each(PRODUCTS)('§15.1 real chain: ARK and ASK of %s', (product) => {
		const ark = publicFile('sev', 'roots', `${product}-ark.cert`);
		expect(verifyArk(provider, ark, AMD_ROOTS[product])).toBe(Status.SUCCESS);
		expect(verifyAsk(provider, publicFile('sev', 'roots', `${product}-ask.cert`), ark)).toBe(Status.SUCCESS);
	});

	it('§15.1 real chain: a whole Naples platform', () => {
		const cert = (name: string) => publicFile('sev', 'naples', `${name}.cert`);
		const root = (name: string) => publicFile('sev', 'roots', `naples-${name}.cert`);
		const chain = join(cert('pek'), cert('oca'), cert('cek'));
		const evidence = { pdh: cert('pdh'), chain, cek: cert('cek'), askArk: join(root('ask'), root('ark')) };
		expect(verifyPlatform(provider, { ...evidence, trust: AMD_ROOTS.naples })).toEqual({ status: Status.SUCCESS });
	});
});
