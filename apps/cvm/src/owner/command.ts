import { Command } from 'commander';
import { chainCommand } from './chain.js';
import { keyServerCommand } from './keyserver.js';
import { measureCommand } from './measure.js';
import { ocaCommand } from './oca.js';
import { reportCommand } from './report.js';
import { secretCommand } from './secret.js';
import { sessionCommand } from './session.js';

/** `cvm owner`: the guest owner's half, on files of sevctl and sev-tool. */
export function ownerCommand(exit: (code: number) => void): Command {
	return new Command('owner')
		.description('what a guest owner does: verify platforms, prepare launches, check measurements, seal secrets')
		.addHelpText('after', '\nexample:\n  cvm owner chain verify --root milan export.cert ask_ark.cert\n')
		.addCommand(chainCommand())
		.addCommand(ocaCommand())
		.addCommand(sessionCommand())
		.addCommand(measureCommand())
		.addCommand(secretCommand())
		.addCommand(reportCommand())
		.addCommand(keyServerCommand(exit));
}
