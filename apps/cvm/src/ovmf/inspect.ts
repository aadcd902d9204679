import { Command } from 'commander';
import { Failure } from '../exit.js';
import { bootOf } from '../owner/contents.js';
import { print } from '../owner/print.js';
import { LIMITS, readInput } from '../owner/read.js';
import { factsOf } from './facts.js';
import { factsJson } from './json.js';
import { factsLines } from './lines.js';

interface InspectOptions {
	readonly kernel?: string;
	readonly initrd?: string;
	readonly cmdline?: string;
	readonly json?: true;
}

/** `cvm ovmf inspect`. */
export function inspectCommand(): Command {
	return new Command('inspect')
		.description('tell what a firmware image says about itself, and what a SEV launch measures of it')
		.argument('<file>', 'the image as QEMU takes it, or any end of it')
		.option('--kernel <file>', 'show the table of hashes that QEMU writes with kernel-hashes=on: for this kernel,')
		.option('--initrd <file>', '… its initial RAM disk,')
		.option('--append, --cmdline <text>', '… and its command line')
		.option('--json', 'print one JSON document; addresses and lengths are bytes')
		.addHelpText(
			'after',
			`
Exit code: 0 read, 1 malformed (one line says at which offset) or the kernel can not be measured, 2 misused or not there.

examples:
  cvm ovmf inspect /usr/share/OVMF/OVMF_CODE.fd
  cvm ovmf inspect OVMF.amdsev.fd --kernel bzImage --initrd initrd.img --append console=ttyS0 --json
`,
		)
		.action(inspect);
}

function inspect(path: string, options: InspectOptions): void {
	const boot = bootOf(options);
	const image = readInput('image', path, LIMITS.firmware);
	if (image.length === 0) throw new Failure(`image: '${path}': expected a firmware image, got 0 bytes`);
	const facts = factsOf(image, boot);
	print(options.json, factsJson(path, facts), factsLines(path, facts));
	const [first, ...more] = facts.blocks.problems;
	if (first) {
		const others = more.length === 0 ? '' : ` (and ${more.length} more)`;
		throw new Failure(`image: '${path}': ${first.message}${others}`);
	}
	if (facts.boot && !facts.boot.place.ok) throw new Failure(`image: '${path}': ${facts.boot.place.reason}`);
}
