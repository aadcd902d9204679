import { fromHex } from '@cvm/layout';
import { expectedMeasurement } from '../../src/owner/index.js';
import { join } from '../fake-platform.js';
import {
	ascii,
	bad,
	blob,
	changed,
	counting,
	drawn,
	fixed,
	fromBase64,
	good,
	provider,
	publicFile,
	published,
	vectorFile,
	zeros,
} from './builders.js';
import type { VectorFile } from './format.js';

const SEV_TOOL = 'AMDESE/sev-tool, src/tests.cpp';
const SEVCTL = 'virtee/sevctl, tests/measurement.rs';
const SNP_MEASURE = 'virtee/sev-snp-measure, tests';

const sevTool = {
	...{ tik: fromHex('66320db73158a35a255d051758e95ed4'), version: { major: 0, minor: 18, build: 15 }, policy: 0 },
	digest: provider.digest('sha256'),
};
const SEV_TOOL_NONCE = fromHex('4fbe0bedbad6c86ae8f68971d103e554');
const SEV_TOOL_MEASURE = '6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea';
const sevctl = {
	...{ tik: fromHex('3569cf61a32a602b87185ac6e0f55913'), version: { major: 1, minor: 40, build: 40 }, policy: 3 },
	digest: fromBase64('xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM='),
};
const SEVCTL_NONCE = fromBase64('wxP6tRHCFrFQWxsuqZA8QA==');
const SEVCTL_ANSWER = fromBase64('lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA');
/** Of sevctl's firmware by itself, and with its kernel hashes: see the operation launch-digest. */
const EL9_DIGEST = '2f6fc6065f4abc131eb4fb2b5090a542636eae84a94c0db0fdd5f405cb372ff5';
const EL9_BOOT_DIGEST = '4b47fec6f851487c33714c8a00a832a1b705ad0a7cac4a647388eccfa9f0c570';
const own = {
	...{ tik: drawn('measure tik'), version: { major: 0, minor: 24, build: 1 }, policy: 0x18000005 },
	digest: drawn('measure digest', 32),
};
const mnonce = drawn('measure nonce');
const before = (major: number, minor: number) => ({ ...own, version: { major, minor, build: 1 } });

function measurementCases(): VectorFile {
	return vectorFile('measurement', 'MEASURE of LAUNCH_MEASURE.', [
		published(
			SEV_TOOL,
			good('sev-tool', 'The digest of nothing.', { ...sevTool, mnonce: SEV_TOOL_NONCE }, { measure: SEV_TOOL_MEASURE }),
		),
		published(
			SEVCTL,
			good(
				'sevctl',
				'A given launch digest.',
				{ ...sevctl, mnonce: SEVCTL_NONCE },
				{ measure: SEVCTL_ANSWER.subarray(0, 32) },
			),
		),
		published(
			SEVCTL,
			good(
				'sevctl-firmware',
				'The launch digest of amdsev-el9-last4k.bin.',
				{ ...sevctl, digest: EL9_DIGEST, mnonce: SEVCTL_NONCE },
				{
					measure: fromBase64('oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBk='),
				},
			),
		),
		published(
			SEVCTL,
			good(
				'sevctl-kernel-hashes',
				'The launch digest of that firmware and kernel hashes.',
				{ ...sevctl, digest: EL9_BOOT_DIGEST, mnonce: SEVCTL_NONCE },
				{
					measure: fromBase64('h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPws='),
				},
			),
		),
		good('0.24', 'An SEV-ES guest.', { ...own, mnonce }),
		good('without-owner', 'A launch without an owner leaves TIK zero: anybody can make this value.', {
			...own,
			tik: zeros(16),
			mnonce,
		}),
		good('policy-all-ones', 'The policy is unsigned.', { ...own, policy: 0xffffffff, mnonce }),
		good('0.17', 'The first version with context, version and build under the MAC.', { ...before(0, 17), mnonce }),
		good('0.16', 'The last version without: policy, digest and nonce only.', { ...before(0, 16), mnonce }),
		good('0.16-other-build', 'Before 0.17 the build does not matter.', {
			...own,
			version: { major: 0, minor: 16, build: 9 },
			mnonce,
		}),
		good('1.0', 'Major version 1 is later than 0.17.', { ...before(1, 0), mnonce }),
	]);
}

function measurementVerifyCases(): VectorFile {
	const answer = join(expectedMeasurement(provider, { ...own, mnonce }), mnonce);
	const old = join(expectedMeasurement(provider, { ...before(0, 16), mnonce }), mnonce);
	const verify = { ...own, answer: blob('answer') };
	const refused = (id: string, comment: string, change: object) =>
		bad(id, 'BAD_MEASUREMENT', comment, { ...verify, ...change });
	const bit = (id: string, comment: string, at: number) =>
		refused(id, comment, { answer: changed('answer', [[at, Uint8Array.of((answer[at] ?? 0) ^ 1)]]) });
	return vectorFile(
		'measurement-verify',
		'What a guest owner says of an answer to LAUNCH_MEASURE (MEASURE, MNONCE).',
		[
			published(SEVCTL, good('sevctl', 'A given launch digest.', { ...sevctl, answer: SEVCTL_ANSWER })),
			published(
				SEV_TOOL,
				good('sev-tool', 'The digest of nothing.', {
					...sevTool,
					answer: join(fromHex(SEV_TOOL_MEASURE), SEV_TOOL_NONCE),
				}),
			),
			good('own', 'An SEV-ES guest.', verify),
			bit('measure-first-byte', 'A bit of MEASURE is another.', 0),
			bit('measure-last-byte', 'A bit of MEASURE is another.', 31),
			bit('mnonce-first-byte', 'A bit of MNONCE is another.', 32),
			bit('mnonce-last-byte', 'A bit of MNONCE is another.', 47),
			refused('other-tik', 'Another TIK.', { tik: drawn('other measure tik') }),
			refused('other-policy', 'Another policy.', { policy: 0x18000004 }),
			refused('other-digest', 'Another launch digest.', { digest: zeros(32) }),
			refused('other-minor', 'Another minor version.', { version: { major: 0, minor: 23, build: 1 } }),
			refused('other-major', 'Another major version.', { version: { major: 1, minor: 24, build: 1 } }),
			refused('other-build', 'Another build.', { version: { major: 0, minor: 24, build: 2 } }),
			good('before-0.17', 'An answer of API 0.16.', { ...before(0, 16), answer: old }),
			refused('before-0.17-as-newer', 'The same, taken for one of API 0.24.', { answer: old }),
			bad('cut', 'INVALID_LENGTH', 'A byte short.', { ...verify, answer: changed('answer', [], 47) }),
			bad('too-long', 'INVALID_LENGTH', 'A byte too long.', { ...verify, answer: changed('answer', [], 49) }),
		],
		{ answer },
	);
}

const sevctlBoot = {
	kernel: publicFile('sev/measurement/vmlinuz-fake'),
	initrd: publicFile('sev/measurement/initrd-fake'),
	commandLine: 'foo bar baz fake kernel=cmdline',
};

function kernelHashesCases(): VectorFile {
	const kernel = ascii('KERNEL');
	return vectorFile('kernel-hashes', 'The table that QEMU measures for kernel, initrd and command line.', [
		fixed(
			good('kernel-only', 'No initrd and no command line: hashes of nothing and of one NUL.', {
				kernel,
				initrd: '',
				commandLine: '',
			}),
		),
		fixed(
			good('all', 'A kernel, an initrd and a command line.', {
				kernel,
				initrd: ascii('INITRD'),
				commandLine: 'console=ttyS0 loglevel=7',
			}),
		),
		fixed(good('empty', 'All are empty.', { kernel: '', initrd: '', commandLine: '' })),
	]);
}

const EPYC_V4 = 0x800f12;
const BOOT_CPU = { resetVector: 0xfffffff0, cpuSignature: EPYC_V4, fpuInit: true };
const AMD_SEV_AP = { ...BOOT_CPU, resetVector: 0x80b004 };

function initialVmsaCases(): VectorFile {
	return vectorFile('initial-vmsa', 'The save area that KVM has measured for a virtual CPU of an SEV-ES guest.', [
		fixed(good('boot', 'The first virtual CPU, an EPYC-v4.', BOOT_CPU)),
		fixed(good('ap', "Another one, started at the firmware's reset block.", AMD_SEV_AP)),
		fixed(good('fpu-zero', 'KVM_SEV_ES_INIT leaves MXCSR and FCW zero.', { ...BOOT_CPU, fpuInit: false })),
		fixed(good('high-ap', 'A reset block in the upper half of the 4 GiB.', { ...BOOT_CPU, resetVector: 0x9abc1234 })),
	]);
}

function launchDigestCases(): VectorFile {
	const amdSev = publicFile('ovmf/ovmf_AmdSev_suffix.bin');
	const empty = { kernel: '', initrd: '', commandLine: '' };
	const el9 = publicFile('ovmf/amdsev-el9-last4k.bin');
	const firmware = drawn('firmware', 64);
	const boot = { kernel: ascii('KERNEL'), initrd: ascii('INITRD'), commandLine: 'quiet' };
	return vectorFile('launch-digest', 'The launch digest of a QEMU guest: firmware, kernel hashes, save areas.', [
		published(
			SNP_MEASURE,
			good(
				'ovmf-x64',
				'A firmware image and nothing else.',
				{
					firmware: publicFile('ovmf/ovmf_OvmfX64_suffix.bin'),
				},
				{ digest: 'b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da' },
			),
		),
		published(
			SNP_MEASURE,
			good(
				'amdsev-kernel-hashes',
				'With kernel hashes of empty files.',
				{
					...{ firmware: amdSev, boot: { ...empty, commandLine: 'console=ttyS0 loglevel=7' } },
				},
				{ digest: '82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff' },
			),
		),
		published(
			SNP_MEASURE,
			good(
				'amdsev-es-1-vcpu',
				'SEV-ES with one EPYC-v4.',
				{
					...{ firmware: amdSev, boot: empty, vcpus: [BOOT_CPU] },
				},
				{ digest: '13810ae661ea11e2bb205621f582fee268f0367c8f97bc297b7fadef3e12002c' },
			),
		),
		published(
			`${SEVCTL} (through the measurement it gives)`,
			good(
				'amdsev-el9',
				'The firmware of measurement sevctl-firmware.',
				{
					firmware: el9,
				},
				{ digest: EL9_DIGEST },
			),
		),
		published(
			`${SEVCTL} (through the measurement it gives)`,
			good(
				'amdsev-el9-kernel-hashes',
				'The launch of measurement sevctl-kernel-hashes.',
				{
					...{ firmware: el9, boot: sevctlBoot },
				},
				{ digest: EL9_BOOT_DIGEST },
			),
		),
		good('firmware', 'A digest is SHA-256 of all that was measured.', { firmware }),
		good('kernel-hashes', 'The table follows the firmware.', { firmware, boot }),
		good('es-1-vcpu', 'A save area without kernel hashes.', { firmware, vcpus: [BOOT_CPU] }),
		good('es-4-vcpus', 'Kernel hashes, then four save areas.', {
			firmware,
			boot,
			vcpus: [BOOT_CPU, AMD_SEV_AP, AMD_SEV_AP, AMD_SEV_AP],
		}),
	]);
}

function secretTableCases(): VectorFile {
	const passphrase = { guid: '736869e5-84f0-4973-92ec-06879ce3da0b', data: ascii('MY-LUKS-PASSPHRASE') };
	const other = (length: number) => ({ guid: '00112233-4455-6677-8899-aabbccddeeff', data: counting(1, length) });
	return vectorFile('secret-table', "The GUIDed table in a guest's secret area.", [
		published(
			'virtee/sevctl, tests/secret.rs',
			good(
				'sevctl',
				'The plaintext of packet-open secret-sevctl.',
				{ entries: [passphrase] },
				{
					table: fromHex(
						'42f5741edd71664d963eef4287ff173b3a000000e5696873f084734992ec06879ce3da0b260000004d592d4c554b532d50415353504852415345000000000000',
					),
				},
			),
		),
		good('empty', 'No secret: a header and its padding.', { entries: [] }),
		good('two', 'Entries are not padded between.', { entries: [passphrase, other(3)] }),
		good('no-padding', 'The length is a multiple of 16 by itself.', { entries: [other(8)] }),
		good('empty-secret', 'A secret of no bytes.', { entries: [other(0)] }),
	]);
}

/** Launches as their owner sees them: what is measured, and secrets. */
export const launchFiles = (): readonly VectorFile[] => [
	measurementCases(),
	measurementVerifyCases(),
	kernelHashesCases(),
	initialVmsaCases(),
	launchDigestCases(),
	secretTableCases(),
];
