import type { Dialect } from '@cvm/qemu-mig';
import { createRelay, StreamReader, StreamWriter } from '@cvm/qemu-mig';
import { writeImage } from '@cvm/qemu-mig/image';
import { Command, InvalidArgumentError, Option } from 'commander';
import { print } from '../owner/print.js';
import { judged } from './faults.js';
import { withImage } from './image.js';
import { DIALECT_HELP, dialectOf, type Found, openInput, readStreamInput } from './input.js';
import { type OutputFile, withOutputs } from './outputs.js';
import { size } from './text.js';

interface RewriteOptions {
	readonly output: string;
	readonly encoding?: 'raw' | 'xbzrle' | 'zlib';
	readonly blockOrder?: readonly string[];
	readonly as?: Dialect;
	readonly part?: number;
	/** False: `--no-continue`. */
	readonly continue: boolean;
	readonly description?: 'keep' | 'drop' | 'generate';
	readonly missing?: 'zero' | 'omit';
	readonly dialect?: Dialect;
	readonly force?: true;
	readonly json?: true;
}

/** `cvm stream rewrite`. */
export function rewriteCommand(): Command {
	return new Command('rewrite')
		.description('write a stream again: byte for byte the same, or with the same content in another form')
		.argument('<file>', 'the stream, or - for the standard input')
		.requiredOption('-o, --output <file>', 'where it goes; - is the standard output')
		.addOption(new Option('--encoding <name>', 'how pages are sent').choices(['raw', 'xbzrle', 'zlib']))
		.option('--block-order <names>', 'blocks in this order, separated by commas; others follow', listOf)
		.option('--as <dialect>', 'write this dialect', dialectOf)
		.option('--part <bytes>', 'begin a new section after so many bytes of pages', bytesOf)
		.option('--no-continue', 'name the block in every record')
		.addOption(new Option('--description <how>', 'the description at the end').choices(['keep', 'drop', 'generate']))
		.addOption(new Option('--missing <how>', 'pages that never arrived (default: refuse)').choices(['zero', 'omit']))
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream rewrite guest.qevm -o guest-zlib.qevm --encoding zlib\n')
		.action(async (file: string, options: RewriteOptions) => {
			const { output: path, force, json } = options;
			const bytes = await withOutputs(force, async (outputs) => {
				const output = outputs.open(path);
				await (changes(options) ? change(file, output, options) : copy(file, output, options.dialect));
				return output.bytes;
			});
			if (path !== '-') print(json, { written: [{ path, bytes }] }, [`${path}: ${size(bytes)}`]);
		});
}

const listOf = (text: string): string[] => text.split(',');

/** Parses a count of bytes. */
function bytesOf(text: string): number {
	const [, digits, unit = ''] = /^(\d{1,15})([KMG]?)$/.exec(text) ?? [];
	const value = Number(digits) * 1024 ** ['', 'K', 'M', 'G'].indexOf(unit);
	if (!Number.isSafeInteger(value) || value === 0) throw new InvalidArgumentError('expected bytes, as 4096, 64K, 1M');
	return value;
}

const changes = (o: RewriteOptions): boolean =>
	[o.encoding, o.blockOrder, o.as, o.part, o.description].some((value) => value !== undefined) || !o.continue;

async function change(file: string, output: OutputFile, o: RewriteOptions): Promise<void> {
	const options = {
		...(o.encoding && { encoding: o.encoding }),
		...(o.as && { dialect: o.as }),
		...(o.blockOrder && { blockOrder: o.blockOrder }),
		...(o.description && { description: o.description }),
		...(o.part !== undefined && { partBytes: o.part }),
		...(o.missing && { missing: o.missing }),
		continued: o.continue,
	};
	await withImage([file], o.dialect, (image) => writeImage(image, { main: output }, options));
}

/**
 * Reads every element and writes it again. A save file of libvirt is only read so: its bytes are taken as they are, for
 * no two packers pack alike.
 */
async function copy(file: string, output: OutputFile, dialect: Dialect | undefined): Promise<void> {
	const input = openInput(file);
	let flushed: Promise<void> | undefined;
	const begin = ({ dialect: found, stream, save }: Found) => {
		const writer = new StreamWriter(save === undefined ? output : { write: () => {} });
		const reader = new StreamReader({ dialect: found, stream, handler: createRelay(writer) });
		return {
			push: (chunk: Uint8Array) => reader.push(chunk),
			end: () => {
				reader.end();
				flushed = writer.flush();
			},
		};
	};
	await judged(input.name, () => readStreamInput(input, dialect, begin, (chunk) => output.write(chunk)));
	await flushed;
}
