import { type RandomSource, systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { PACKET_LIMIT } from '@cvm/sev-hw/abi';
import { packageSecret, type SecretEntry, secretTable, sevTool } from '@cvm/sev-hw/owner';
import { Command, Option } from 'commander';
import { oneOf } from '../demo/options.js';
import { Misuse } from '../exit.js';
import { type MigrationSecretOptions, migrationSecretOf, withMigrationSecret } from './migration-secret.js';
import { print } from './print.js';
import { fileOrBase64, judged, measureBlob, readInput } from './read.js';
import { FORMAT_HELP, FORMATS, type Output, outputsIn, withOutput, writeOutputs } from './write.js';

interface SecretOptions extends MigrationSecretOptions {
	readonly secret?: string[];
	readonly raw?: string;
	readonly tek?: string;
	readonly tik?: string;
	readonly tk?: string;
	readonly launchMeasureBlob: string;
	readonly iv?: string;
	readonly format: string;
	readonly directory: string;
	readonly force?: boolean;
	readonly json?: boolean;
}

/** `cvm owner secret`. */
export function secretCommand(): Command {
	return withMigrationSecret(withOutput(new Command('secret')))
		.description('encrypt secrets for a launch whose measurement you verified, as `sevctl secret build` does')
		.argument('[header]', 'where the packet header goes (default: "secret_header.bin")')
		.argument('[payload]', 'where the packet payload goes (default: "secret_payload.bin")')
		.option('--secret <guid:file>', 'a secret and the GUID that the guest looks for; once for each', append)
		.option('--raw <file>', 'these bytes as they are, instead of a table of secrets')
		.option('--tek <key>', 'transport encryption key of the session: a file, or base64')
		.option('--tik <key>', 'transport integrity key of the session: a file, or base64')
		.option('--tk <file>', 'both keys in sev-tool’s tmp_tk.bin')
		.requiredOption('--launch-measure-blob <blob>', 'what LAUNCH_MEASURE answered: a file, or base64 (48 bytes)')
		.option('--format <tool>', `${FORMAT_HELP}, which has packaged_secret_header.bin and packaged_secret.bin`, 'sevctl')
		.addOption(new Option('--iv <iv>', 'for tests: a repeated one gives the secrets away').hideHelp())
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			`
example:
  cvm owner secret --tek vm_tek.bin --tik vm_tik.bin --launch-measure-blob "$(cat answer.b64)" \\
    --secret 736869e5-84f0-4973-92ec-06879ce3da0b:disk.key secret_header.bin secret_payload.bin
  cvm owner secret --tek source_tek.bin --tik source_tik.bin --launch-measure-blob source.b64 \\
    --migration-secret new -d source        # and for the target, from its own session and measurement:
  cvm owner secret --tek target_tek.bin --tik target_tik.bin --launch-measure-blob target.b64 \\
    --migration-secret source/migration_secret.bin -d target
`,
		)
		.action(packageSecrets);
}

const append = (value: string, before: string[] = []): string[] => [...before, value];

function packageSecrets(header: string | undefined, payload: string | undefined, options: SecretOptions): void {
	const format = oneOf('--format', options.format, FORMATS);
	const keys = keysOf(options);
	const measure = measureBlob('--launch-measure-blob', options.launchMeasureBlob).subarray(0, 32);
	const migration = migrationSecretOf(options, options.directory);
	const secret = secretOf(options, migration?.entry);
	if (secret.length > PACKET_LIMIT) {
		throw new Misuse(`--secret: expected at most ${PACKET_LIMIT} bytes in all, got ${secret.length}`);
	}
	const random = options.iv === undefined ? systemRandom() : fixed(fileOrBase64('--iv', options.iv, 16));
	const sealed = judged('secret', () => packageSecret({ provider: nodeProvider, random, keys, measure, secret }));
	const packet = outputsOf(sealed, format, [header, payload], options.directory);
	const outputs = [...packet, ...(migration?.outputs ?? [])];
	writeOutputs(outputs, options.force);
	const document = { files: outputs.map(({ path }) => path), bytes: sealed.payload.length, ...migration?.shown };
	print(
		options.json,
		document,
		outputs.map(({ path }) => path),
	);
}

function outputsOf(
	sealed: { header: Uint8Array; payload: Uint8Array },
	format: (typeof FORMATS)[number],
	[header, payload]: readonly [string | undefined, string | undefined],
	directory: string,
): Output[] {
	if (header !== undefined || payload !== undefined) {
		if (header === undefined || payload === undefined) {
			throw new Misuse('secret: expected a file for the header and one for the payload, got one');
		}
		return [
			{ path: header, data: sealed.header },
			{ path: payload, data: sealed.payload },
		];
	}
	const sevctlFiles = { 'secret_header.bin': sealed.header, 'secret_payload.bin': sealed.payload };
	return outputsIn(directory, format === 'sevctl' ? sevctlFiles : sevTool.secretFiles(sealed));
}

function keysOf({ tek, tik, tk }: SecretOptions): { tek: Uint8Array; tik: Uint8Array } {
	if (tk !== undefined) {
		if (tek !== undefined || tik !== undefined) throw new Misuse('--tk: expected no --tek and --tik beside it');
		const both = fileOrBase64('--tk', tk, 32);
		return { tek: both.slice(0, 16), tik: both.slice(16) };
	}
	if (tek === undefined) throw new Misuse('--tek: expected a key, or --tk, got neither');
	if (tik === undefined) throw new Misuse('--tik: expected a key, or --tk, got neither');
	return { tek: fileOrBase64('--tek', tek, 16), tik: fileOrBase64('--tik', tik, 16) };
}

function secretOf({ secret, raw }: SecretOptions, migration: SecretEntry | undefined): Uint8Array {
	if (raw !== undefined && migration) throw new Misuse('--migration-secret: expected no --raw beside it');
	if (raw !== undefined && secret === undefined) return readInput('--raw', raw);
	if (raw !== undefined || (secret === undefined && !migration)) {
		throw new Misuse('--secret: expected GUID:FILE, or --raw and a file, one of both');
	}
	return secretTable([...(secret ?? []).map(entryOf), ...(migration ? [migration] : [])]);
}

function entryOf(text: string): SecretEntry {
	const [, guid, path] = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(.+)$/is.exec(text) ?? [];
	if (guid === undefined || path === undefined) throw new Misuse(`--secret: expected GUID:FILE, got '${text}'`);
	return { guid, data: readInput('--secret', path) };
}

/** Gives these bytes, whoever asks. */
const fixed = (bytes: Uint8Array): RandomSource => ({
	fill: (out) => out.set(bytes.subarray(0, out.length)),
	bytes: (length) => bytes.slice(0, length),
});
