import { Command } from 'commander';
import { convertCommand } from './convert.js';
import { diffCommand } from './diff.js';
import { extractCommand } from './extract.js';
import { inspectCommand } from './inspect.js';
import { rewriteCommand } from './rewrite.js';
import { salvageCommand } from './salvage.js';
import { verifyCommand } from './verify.js';

/** `cvm stream`: QEMU's migration streams and save files, for people. */
export function streamCommand(exit: (code: number) => void): Command {
	return new Command('stream')
		.description('look into, check, compare, rewrite and rescue migration streams and save files of QEMU')
		.addHelpText('after', '\nexample:\n  cvm stream inspect guest.qevm\n')
		.addCommand(inspectCommand(exit))
		.addCommand(verifyCommand(exit))
		.addCommand(diffCommand(exit))
		.addCommand(extractCommand())
		.addCommand(rewriteCommand())
		.addCommand(convertCommand())
		.addCommand(salvageCommand(exit));
}
