import { Command } from 'commander';
import { inspectCommand } from './inspect.js';

/** `cvm ovmf`: firmware images, for people. */
export function ovmfCommand(): Command {
	return new Command('ovmf')
		.description('look into OVMF firmware images')
		.addHelpText('after', '\nexample:\n  cvm ovmf inspect /usr/share/OVMF/OVMF_CODE.fd\n')
		.addCommand(inspectCommand());
}
