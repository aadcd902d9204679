import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { policyIsWellFormed } from '@cvm/sev-hw/abi';
import { createLaunchSession, sevctl, sevTool } from '@cvm/sev-hw/owner';
import { Command } from 'commander';
import { oneOf, whole } from '../demo/options.js';
import { Misuse } from '../exit.js';
import { readCertificates } from './certificates.js';
import { print } from './print.js';
import { judged } from './read.js';
import { believed, type TrustOptions, withTrust } from './trust.js';
import { FORMAT_HELP, FORMATS, outputsIn, withOutput, writeOutputs } from './write.js';

interface SessionOptions extends TrustOptions {
	readonly policy: string;
	readonly name?: string;
	readonly format: string;
	readonly unverified?: boolean;
	readonly directory: string;
	readonly force?: boolean;
	readonly json?: boolean;
}

/** Files that hold TEK and TIK. */
const isSecret = (name: string): boolean => /_t[ei]k\.bin$/.test(name) || name === 'tmp_tk.bin';

/** `cvm owner session`. */
export function sessionCommand(): Command {
	return withOutput(withTrust(new Command('session')))
		.description('verify a platform and make the launch session that only it can open, as `sevctl session` does')
		.argument('<file...>', 'certificates of the platform and its manufacturer (see `chain verify`)')
		.requiredOption('--policy <bits>', 'guest policy')
		.option('--name <name>', 'what the files begin with, in sevctl’s format (default: "vm")')
		.option('--format <tool>', FORMAT_HELP, 'sevctl')
		.option('--unverified', 'take the PDH as it is: it was verified before')
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			`
Files: vm_godh.b64 and vm_session.b64 for the host, vm_tek.bin and vm_tik.bin to keep secret;
or sev-tool's godh.cert, launch_blob.bin and tmp_tk.bin.

example:
  cvm owner session --root milan --policy 0x1 --name vm export.cert ask_ark.cert
`,
		)
		.action((files: string[], options: SessionOptions) => {
			const format = oneOf('--format', options.format, FORMATS);
			const policy = policyFrom(options.policy);
			const { name = 'vm' } = options;
			if (options.name !== undefined && format !== 'sevctl') throw new Misuse('--name: needs --format sevctl');
			if (!/^[^/\0]+$/.test(name)) throw new Misuse(`--name: expected a file name without folders, got '${name}'`);
			const { pdh } = believed(files.flatMap(readCertificates), ['pdh'], options);
			const session = judged('session', () =>
				createLaunchSession({ provider: nodeProvider, random: systemRandom(), platformPdh: pdh, policy }),
			);
			const made = format === 'sevctl' ? sevctl.sessionFiles(session, name) : sevTool.launchFiles(session);
			const outputs = outputsIn(options.directory, made, isSecret);
			writeOutputs(outputs, options.force);
			const document = {
				...{ policy, verified: !options.unverified },
				files: outputs.map(({ path, secret }) => ({ path, secret })),
			};
			print(
				options.json,
				document,
				outputs.map(({ path, secret }) => `${path}${secret ? '  keep it secret' : ''}`),
			);
		});
}

function policyFrom(text: string): number {
	const policy = whole('--policy', text, 0, 0xffffffff);
	// LAUNCH_START would refuse it.
	if (!policyIsWellFormed(policy)) throw new Misuse(`--policy: expected bits 6 to 15 to be 0, got '${text}'`);
	return policy;
}
