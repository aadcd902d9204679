import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Dialect } from '@cvm/qemu-mig';
import { dense, devicesJson, elfCore, rawBlock, type SparseOutput, type StreamImage } from '@cvm/qemu-mig/image';
import { Command, Option } from 'commander';
import { Failure, Misuse } from '../exit.js';
import { print } from '../owner/print.js';
import { reasonOf } from '../owner/read.js';
import { withImage } from './image.js';
import { DIALECT_HELP, dialectOf } from './input.js';
import { type OutputFile, withOutputs } from './outputs.js';
import { size } from './text.js';
import { breathe } from './turns.js';

interface ExtractOptions {
	readonly output: string;
	readonly ram?: 'raw' | 'sparse' | 'elf';
	readonly block?: readonly string[];
	readonly devices?: true;
	readonly missing?: 'zero';
	readonly dialect?: Dialect;
	readonly force?: true;
	readonly json?: true;
}

/** What was written. */
interface Written {
	readonly path: string;
	readonly bytes: number;
	readonly what: string;
}

/** `cvm stream extract`. */
export function extractCommand(): Command {
	return new Command('extract')
		.description('write guest memory and device state to files')
		.argument('<file>', 'the stream, or - for the standard input')
		.argument('[channel...]', 'its multifd channels')
		.requiredOption('-o, --output <path>', 'a folder, or the file if there is only one; - is the standard output')
		.addOption(
			new Option('--ram <form>', 'memory, a file for each block, or one ELF core with all of it').choices([
				'raw',
				'sparse',
				'elf',
			]),
		)
		.option('--block <name>', 'only this block; may be repeated', collect)
		.option('--devices', 'device state as JSON')
		.addOption(new Option('--missing <how>', 'pages that never arrived (default: refuse)').choices(['zero']))
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream extract guest.qevm --ram elf -o guest.core\n')
		.action(async (file: string, channels: string[], options: ExtractOptions) => {
			if (options.ram === undefined && !options.devices) throw new Misuse('extract: expected --ram, --devices or both');
			if (options.ram === 'elf' && options.block) throw new Misuse('--block: expected --ram raw or sparse');
			const written = await withImage([file, ...channels], options.dialect, (image) => extract(image, options));
			// What goes to the standard output is the file alone.
			if (options.output !== '-') print(options.json, { written }, written.map(lineOf));
		});
}

const collect = (name: string, all: readonly string[] = []): string[] => [...all, name];

const lineOf = ({ path, bytes, what }: Written): string => `${path}: ${what}, ${size(bytes)}`;

/** A file to be written. */
interface Plan {
	readonly name: string;
	readonly what: string;
	/** @returns bytes */
	write(output: OutputFile): Promise<number>;
}

async function extract(image: StreamImage, options: ExtractOptions): Promise<Written[]> {
	const plans = [...ramPlans(image, options), ...(options.devices ? [devicePlan(image)] : [])];
	const isFolder = statSync(options.output, { throwIfNoEntry: false })?.isDirectory() === true;
	if (plans.length === 0) throw new Failure('extract: expected blocks in the stream, got none');
	const into = isFolder || plans.length > 1 ? folder(options.output) : undefined;
	return await withOutputs(options.force, async (outputs) => {
		const places = plans.map((plan) => {
			const path = into === undefined ? options.output : join(into, plan.name);
			return { plan, path, output: outputs.open(path) };
		});
		const written: Written[] = [];
		for (const { plan, path, output } of places) {
			written.push({ path, bytes: await plan.write(output), what: plan.what });
		}
		return written;
	});
}

function folder(path: string): string {
	if (path === '-') throw new Misuse('--output: expected a folder for more than one file, got -');
	try {
		mkdirSync(path, { recursive: true });
		return path;
	} catch (error) {
		throw new Failure(`'${path}': ${reasonOf(error)}`);
	}
}

/** Block names hold slashes and colons; files do not. */
const fileName = (idstr: string): string => idstr.replace(/^[/.]+/, '').replace(/[^A-Za-z0-9._-]/g, '_') || 'block';

function ramPlans(image: StreamImage, { ram, block, missing = undefined }: ExtractOptions): Plan[] {
	if (ram === undefined) return [];
	const policy = missing === undefined ? {} : { missing };
	if (ram === 'elf') {
		const core = elfCore(image, policy);
		return [{ name: 'guest.core', what: 'ELF core', write: (output) => writeSparse(core, output) }];
	}
	const wanted = block ?? image.blocks.map(({ idstr }) => idstr);
	return wanted.map((idstr) => {
		const contents = rawBlock(image, idstr, policy);
		const write = ram === 'sparse' ? writeSparse : writeDense;
		return { name: `${fileName(idstr)}.raw`, what: `block ${idstr}`, write: (output) => write(contents, output) };
	});
}

function devicePlan(image: StreamImage): Plan {
	return {
		name: 'devices.json',
		what: 'devices',
		write: async (output) => {
			const data = Buffer.from(`${JSON.stringify(devicesJson(image), null, 2)}\n`);
			output.write(data);
			return data.length;
		},
	};
}

async function writeDense(contents: SparseOutput, output: OutputFile): Promise<number> {
	for (const chunk of dense(contents)) {
		output.write(chunk);
		await breathe();
	}
	return contents.size;
}

/** Into a pipe the zeros have to go as well. */
async function writeSparse(contents: SparseOutput, output: OutputFile): Promise<number> {
	if (!output.isFile) return await writeDense(contents, output);
	for (const { offset, data } of contents.pieces()) {
		output.writeAt(offset, data);
		await breathe();
	}
	output.resize(contents.size);
	return contents.size;
}
