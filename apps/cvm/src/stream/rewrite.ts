import type { Dialect } from '@cvm/qemu-mig';
import { createRelay, StreamReader, StreamWriter } from '@cvm/qemu-mig';
import { verifyStream, writeImage } from '@cvm/qemu-mig/image';
import { Command, InvalidArgumentError, Option } from 'commander';
import { Failure, Misuse } from '../exit.js';
import { print } from '../owner/print.js';
import { judged } from './faults.js';
import { imageInputs, withImage } from './image.js';
import { DIALECT_HELP, dialectOf, type Found, openInput, readStreamInput } from './input.js';
import { type OutputFile, sinkOf, withOutputs } from './outputs.js';
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
		.argument('[channel...]', 'its multifd channels, or more connections of postcopy')
		.requiredOption(
			'-o, --output <file>',
			'where it goes, - is the standard output; unchanged channels: FILE.0, FILE.1 …',
		)
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
		.action(async (file: string, channels: string[], options: RewriteOptions) => {
			const { output: path, force, json } = options;
			const written = await withOutputs(force, async (outputs) => {
				const output = outputs.open(path);
				if (changes(options)) {
					await change([file, ...channels], output, options);
					return [{ path, bytes: output.bytes }];
				}
				if (channels.length > 0 && path === '-') {
					throw new Misuse('--output: expected a file for a stream with channels, got -');
				}
				const others = channels.map((_, i) => outputs.open(`${path}.${i}`));
				if (channels.length === 0) await copy(file, output, options.dialect);
				else await copyAll([file, ...channels], [output, ...others], options.dialect);
				return [output, ...others].map((one) => ({ path: one.path, bytes: one.bytes }));
			});
			if (path === '-') return;
			print(
				json,
				{ written },
				written.map((one) => `${one.path}: ${size(one.bytes)}`),
			);
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

async function change(files: readonly string[], output: OutputFile, o: RewriteOptions): Promise<void> {
	const options = {
		...(o.encoding && { encoding: o.encoding }),
		...(o.as && { dialect: o.as }),
		...(o.blockOrder && { blockOrder: o.blockOrder }),
		...(o.description && { description: o.description }),
		...(o.part !== undefined && { partBytes: o.part }),
		...(o.missing && { missing: o.missing }),
		continued: o.continue,
	};
	await withImage(files, o.dialect, (image) => writeImage(image, { main: sinkOf(output) }, options));
}

/**
 * A stream with more connections: all are read together, so that each must be whole and belong to the others, and every
 * byte is then written as it came. No two packers pack alike.
 */
async function copyAll(
	files: readonly string[],
	outputs: readonly OutputFile[],
	dialect: Dialect | undefined,
): Promise<void> {
	const inputs = imageInputs(files, (index, chunk) => outputs[index]?.write(chunk));
	const { findings, complete } = await verifyStream(inputs, dialect && { dialect });
	const fault = complete ? undefined : findings.find(({ severity }) => severity === 'error');
	if (fault === undefined) return;
	const { input = 0, offset, text } = fault;
	throw new Failure(`${inputs[input]?.name}: ${offset === undefined ? '' : `offset ${offset}: `}${text}`);
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
