import { readFileSync } from 'node:fs';
import { runHost } from '@cvm/host';
import { Command, CommanderError } from 'commander';
import { benchCommand } from './bench/command.js';
import { demoCommand } from './demo/command.js';
import { devsevCommand } from './devsev/command.js';
import { DemoFailure, FAILED, Failure, MISUSED, Misuse } from './exit.js';
import { ovmfCommand } from './ovmf/command.js';
import { ownerCommand } from './owner/command.js';
import { streamCommand } from './stream/command.js';

/** The package's own manifest lies one folder above `dist`. */
const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

/** What a host's QMP connection throws when the host was ended by somebody else, or refuses. */
const LOST: readonly string[] = ['QmpConnectionError', 'QmpError'];

/** Runs the command line. @returns the exit code: 0 verified, 1 failed, 2 misused */
export async function createCli(argv: readonly string[]): Promise<number> {
	// A host's options are QEMU's, which no ordinary parser reads.
	if (argv[0] === 'host') return runHost(argv.slice(1), 'cvm host');
	let code = 0;
	const program = new Command('cvm')
		.description('Live migration of AMD SEV guests, executable on any machine')
		.version(manifest.version)
		.exitOverride()
		.showSuggestionAfterError(false) // one mistake, one line
		.configureOutput({ outputError: (text, write) => write(`cvm: ${text.replace(/^error: /, '')}`) })
		.addHelpText('after', '\nexample:\n  cvm demo --workload random --memory 256M\n');
	for (const make of [demoCommand, benchCommand, ownerCommand, devsevCommand, streamCommand, ovmfCommand]) {
		const command = make((result) => {
			code = result;
		});
		program.addCommand(command);
		inherit(program, command);
	}
	program.command('host').description('one host process, with QEMU-style options: see `cvm host --help`');
	try {
		await program.parseAsync([...argv], { from: 'user' });
		return code;
	} catch (error) {
		if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : MISUSED;
		if (error instanceof Misuse || error instanceof DemoFailure || error instanceof Failure) {
			process.stderr.write(`cvm: ${error.message}\n`);
			return error instanceof Misuse ? MISUSED : FAILED;
		}
		if (LOST.includes((error as Error).name)) {
			process.stderr.write(`cvm: a host does not answer: ${(error as Error).message}\n`);
			return FAILED;
		}
		process.stderr.write(`cvm: internal error: ${(error as Error).stack}\n`);
		return FAILED;
	}
}

/** Hands the settings of a command on to its subcommand, and to those of that. */
function inherit(parent: Command, command: Command): void {
	command.copyInheritedSettings(parent);
	for (const sub of command.commands) inherit(command, sub);
}
