import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { readAttestationReport, Status, statusName, verifyAttestation } from '@cvm/sev-hw/owner';
import { Command } from 'commander';
import { whole } from '../demo/options.js';
import { Failure, Misuse } from '../exit.js';
import { readCertificates } from './certificates.js';
import { print, tick } from './print.js';
import { digestFrom, fileOrBase64, judged, readInput } from './read.js';
import { believed, type TrustOptions, withTrust } from './trust.js';

interface ReportOptions extends TrustOptions {
	readonly unverified?: boolean;
	readonly nonce?: string;
	readonly anyNonce?: boolean;
	readonly launchDigest?: string;
	readonly policy?: string;
	readonly json?: boolean;
}

/** `cvm owner report`. */
export function reportCommand(): Command {
	return new Command('report')
		.description('verify attestation reports')
		.addHelpText(
			'after',
			'\nexample:\n  cvm owner report verify --root milan --nonce nonce.bin report.bin export.cert\n',
		)
		.addCommand(verifyCommand());
}

function verifyCommand(): Command {
	return withTrust(new Command('verify'))
		.description('verify that a platform signed an attestation report, and that it says what you expect')
		.argument('<report>', 'what ATTESTATION wrote, 208 bytes')
		.argument('<file...>', 'certificates of the platform and its manufacturer; with --unverified, its PEK is enough')
		.option('--nonce <nonce>', 'the nonce that was asked with: a file, or base64')
		.option('--any-nonce', 'do not compare it: an old report then passes for a new one')
		.option('--launch-digest <digest>', 'the expected launch digest, hex or base64')
		.option('--policy <bits>', 'the expected guest policy')
		.option('--unverified', 'take the PEK as it is: it was verified before')
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			'\nexample:\n  cvm owner report verify --root milan --nonce nonce.bin --policy 0x5 report.bin export.cert ask_ark.cert\n',
		)
		.action(verify);
}

function verify(path: string, files: string[], options: ReportOptions): void {
	const expected = expectedOf(options);
	const report = readInput('report', path);
	const said = judged(`report: '${path}'`, () => readAttestationReport(report));
	const { pek } = believed(files.flatMap(readCertificates), ['pek'], options);
	const { status, failed } = verifyAttestation(nodeProvider, { report, pek, expected });
	const verified = status === Status.SUCCESS;
	const [nonce, digest] = [toHex(said.mnonce), toHex(said.digest)];
	print(
		options.json,
		{
			verified,
			status: statusName(status),
			...(failed && { failed }),
			nonce,
			'launch-digest': digest,
			policy: said.policy,
		},
		[
			...[`nonce: ${nonce}`, `launch digest: ${digest}`, `policy: 0x${said.policy.toString(16)}`],
			verified
				? tick(true, 'this platform signed it, and it is as expected')
				: tick(false, `${failed}`, statusName(status)),
		],
	);
	if (!verified) throw new Failure(`report: '${path}': ${failed}: ${statusName(status)}`);
}

function expectedOf({ nonce, anyNonce, launchDigest, policy }: ReportOptions) {
	if ((nonce === undefined) === (anyNonce === undefined)) {
		throw new Misuse('--nonce: expected the nonce that was asked with, or --any-nonce');
	}
	return {
		...(nonce !== undefined && { mnonce: fileOrBase64('--nonce', nonce, 16) }),
		...(launchDigest !== undefined && { digest: digestFrom('--launch-digest', launchDigest) }),
		...(policy !== undefined && { policy: whole('--policy', policy, 0, 0xffffffff) }),
	};
}
