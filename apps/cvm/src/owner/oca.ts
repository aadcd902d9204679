import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createOca, ocaFromPrivateKey, sevctl, sevTool, signPekCsr } from '@cvm/sev-hw/owner';
import { Command } from 'commander';
import { oneOf } from '../demo/options.js';
import { privateKeyToPem, readPrivateKey } from './keys.js';
import { print } from './print.js';
import { judged, readInput } from './read.js';
import { FORMAT_HELP, FORMATS, outputsIn, withOutput, writeOutputs } from './write.js';

/** `cvm owner oca`. */
export function ocaCommand(): Command {
	return new Command('oca')
		.description('be the owner of platforms: a certificate authority that signs PEKs')
		.addHelpText('after', '\nexample:\n  cvm owner oca create && cvm owner oca sign --csr pek_csr.cert --key oca.key\n')
		.addCommand(createCommand())
		.addCommand(signCommand());
}

interface CreateOptions {
	readonly format: string;
	readonly force?: boolean;
	readonly json?: boolean;
}

function createCommand(): Command {
	return new Command('create')
		.description('make a key and its self-signed OCA certificate, as `sevctl generate` does')
		.argument('[certificate]', 'where the certificate goes', 'oca.cert')
		.argument('[key]', 'where the private key goes', 'oca.key')
		.option('--format <tool>', `${FORMAT_HELP}: DER or PEM for the key`, 'sevctl')
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm owner oca create oca.cert oca.key\n')
		.action((certificate: string, key: string, options: CreateOptions) => {
			const format = oneOf('--format', options.format, FORMATS);
			const oca = createOca({ provider: nodeProvider, random: systemRandom() });
			const secret = format === 'sevctl' ? sevctl.encodeOca(nodeProvider, oca).key : privateKeyToPem(oca.privateKey);
			const outputs = [
				{ path: certificate, data: oca.cert },
				{ path: key, data: secret, secret: true },
			];
			writeOutputs(outputs, options.force);
			print(options.json, { certificate, key }, [`certificate: ${certificate}`, `private key: ${key}`]);
		});
}

interface SignOptions {
	readonly csr: string;
	readonly key: string;
	readonly oca?: string;
	readonly directory: string;
	readonly force?: boolean;
	readonly json?: boolean;
}

function signCommand(): Command {
	return withOutput(new Command('sign'))
		.description('sign a platform’s PEK: writes pek_csr.signed.cert and oca.cert, which PEK_CERT_IMPORT takes')
		.requiredOption('--csr <file>', 'what PEK_CSR wrote')
		.requiredOption('--key <file>', 'the private key of the OCA, DER or PEM')
		.option('--oca <file>', 'its certificate (default: a new one is made of the key, and written as oca.cert)')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm owner oca sign --csr pek_csr.cert --key oca.key --oca oca.cert\n')
		.action((options: SignOptions) => {
			const privateKey = readPrivateKey('--key', options.key);
			const given = options.oca === undefined ? undefined : readInput('--oca', options.oca);
			const oca = given ? { cert: given, privateKey } : ocaFromPrivateKey(nodeProvider, privateKey);
			const csr = readInput('--csr', options.csr);
			const signed = judged('oca sign', () => signPekCsr({ provider: nodeProvider, csr, oca }));
			const { 'oca.cert': cert, ...rest } = sevTool.signedCsrFiles({ signed, oca: oca.cert });
			const files = given || cert === undefined ? rest : { ...rest, 'oca.cert': cert };
			const outputs = outputsIn(options.directory, files);
			writeOutputs(outputs, options.force);
			const paths = outputs.map(({ path }) => path);
			print(options.json, { files: paths }, paths);
		});
}
