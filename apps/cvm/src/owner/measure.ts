import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { expectedMeasurement, Status, sevTool, statusName, verifyMeasurement } from '@cvm/sev-hw/owner';
import { Command } from 'commander';
import { oneOf, whole } from '../demo/options.js';
import { Failure, Misuse } from '../exit.js';
import { type ContentOptions, digestOf, withContents } from './contents.js';
import { print, tick } from './print.js';
import { fileOrBase64, measureBlob, toBase64 } from './read.js';
import { FORMAT_HELP, FORMATS, type Output, outputsIn, withOutput, writeOutputs } from './write.js';

interface MeasureOptions extends ContentOptions {
	readonly tik?: string;
	readonly apiMajor?: string;
	readonly apiMinor?: string;
	readonly buildId?: string;
	readonly nonce?: string;
	readonly launchMeasureBlob?: string;
	readonly verify?: string;
	readonly digestOnly?: boolean;
	readonly format: string;
	readonly outfile?: string;
	readonly directory: string;
	readonly force?: boolean;
	readonly json?: boolean;
}

/** `cvm owner measure`. */
export function measureCommand(): Command {
	return withOutput(withContents(new Command('measure')))
		.description('compute what LAUNCH_MEASURE has to answer, as `sevctl measurement build` does, or compare it')
		.option('--tik <key>', 'transport integrity key of the session: a file, or base64')
		.option('--api-major <n>', 'of the firmware that measures')
		.option('--api-minor <n>', 'likewise')
		.option('--build-id <n>', 'likewise')
		.option('--nonce <nonce>', 'its nonce: a file, or base64')
		.option('--launch-measure-blob <blob>', '… or take that of its answer: a file, or base64 (48 bytes)')
		.option('--verify <blob>', 'its answer: compare, and exit with 1 if it is another')
		.option('--digest-only', 'print the launch digest in hex, and no more')
		.option('--format <tool>', `${FORMAT_HELP}, which writes calc_measurement_out.bin and .txt`, 'sevctl')
		.option('--outfile <file>', 'write the 48 bytes instead of printing base64')
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			`
examples:
  cvm owner measure --digest-only --firmware OVMF.fd --vcpus 4 --vcpu-type EPYC-v4
  cvm owner measure --firmware OVMF.fd --policy 0x1 --tik vm_tik.bin \\
    --api-major 1 --api-minor 40 --build-id 40 --verify "$(cat answer.b64)"
`,
		)
		.action(measure);
}

function measure(options: MeasureOptions): void {
	const policy = options.policy === undefined ? undefined : whole('--policy', options.policy, 0, 0xffffffff);
	const format = oneOf('--format', options.format, FORMATS);
	if (options.digestOnly) {
		const hex = toHex(digestOf(options, policy));
		print(options.json, { 'launch-digest': hex }, [hex]);
		return;
	}
	if (policy === undefined) throw new Misuse('--policy: expected the guest policy, got none');
	const version = versionOf(options);
	if (options.tik === undefined) throw new Misuse('--tik: expected a key, got none; --digest-only needs none');
	const tik = fileOrBase64('--tik', options.tik, 16);
	const { nonce: mnonce, answer } = nonceOf(options);
	const digest = digestOf(options, policy);
	const input = { tik, version, policy, digest };
	const measured = expectedMeasurement(nodeProvider, { ...input, mnonce });
	const blob = Buffer.concat([measured, mnonce]);
	const status = answer && verifyMeasurement(nodeProvider, answer, input);
	writeOutputs(
		[
			...(options.outfile === undefined ? [] : [{ path: options.outfile, data: blob } satisfies Output]),
			...(format === 'sev-tool' ? outputsIn(options.directory, sevTool.measurementFiles(measured)) : []),
		],
		options.force,
	);
	const verified = status === undefined ? undefined : status === Status.SUCCESS;
	const document = {
		...{ 'launch-digest': toHex(digest), measurement: toBase64(blob), policy },
		...(answer && { answer: toBase64(answer), verified }),
	};
	const lines = [
		...(options.outfile === undefined ? [toBase64(blob)] : [options.outfile]),
		...(verified === undefined ? [] : [tick(verified, 'the measurement is that of this launch')]),
	];
	print(options.json, document, lines);
	if (status !== undefined && status !== Status.SUCCESS) {
		throw new Failure(
			`measurement: ${statusName(status)}: expected ${toBase64(blob)}, got ${toBase64(answer ?? blob)}`,
		);
	}
}

function versionOf({ apiMajor, apiMinor, buildId }: MeasureOptions) {
	const byte = (option: string, text: string | undefined): number => {
		if (text === undefined) throw new Misuse(`${option}: expected the version of the firmware that measures, got none`);
		return whole(option, text, 0, 0xff);
	};
	return {
		major: byte('--api-major', apiMajor),
		minor: byte('--api-minor', apiMinor),
		build: byte('--build-id', buildId),
	};
}

/** The nonce, from wherever it is given, and the answer that is to be compared. */
function nonceOf({ nonce, launchMeasureBlob, verify }: MeasureOptions): { nonce: Uint8Array; answer?: Uint8Array } {
	if ([nonce, launchMeasureBlob, verify].filter((given) => given !== undefined).length !== 1) {
		throw new Misuse('--nonce: expected one of --nonce, --launch-measure-blob and --verify');
	}
	if (nonce !== undefined) return { nonce: fileOrBase64('--nonce', nonce, 16) };
	if (verify === undefined) return { nonce: measureBlob('--launch-measure-blob', launchMeasureBlob ?? '').slice(32) };
	const answer = measureBlob('--verify', verify);
	return { nonce: answer.slice(32), answer };
}
