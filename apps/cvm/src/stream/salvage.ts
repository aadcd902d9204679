import { closeSync, readSync } from 'node:fs';
import type { Dialect } from '@cvm/qemu-mig';
import type { Gap, Salvage, SalvageSource } from '@cvm/qemu-mig/image';
import { salvage, writeImage } from '@cvm/qemu-mig/image';
import { Command } from 'commander';
import { FAILED, Failure } from '../exit.js';
import { print } from '../owner/print.js';
import { reasonOf } from '../owner/read.js';
import { judged } from './faults.js';
import { imageInputs, spooled, temporaryStore } from './image.js';
import { DIALECT_HELP, dialectOf, type Input, openInput } from './input.js';
import { sinkOf, withOutputs } from './outputs.js';
import { hex, plural, printable, size } from './text.js';

interface SalvageOptions {
	readonly output?: string;
	readonly dialect?: Dialect;
	readonly force?: true;
	readonly json?: true;
}

/** `cvm stream salvage`. */
export function salvageCommand(exit: (code: number) => void): Command {
	return new Command('salvage')
		.description('read all that can be read of a damaged stream, and list what is missing; exit code 1 if anything is')
		.argument('<file>', 'the stream, or - for the standard input')
		.argument('[channel...]', 'its multifd channels')
		.option('-o, --output <file>', 'write what was found as a whole stream; pages that are missing become zero')
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream salvage cut.qevm -o rescued.qevm\n')
		.action(async (file: string, channels: string[], options: SalvageOptions) => {
			const result = await rescue(file, channels, options);
			const toPipe = options.output === '-';
			if (!toPipe) print(options.json, salvageJson(result), salvageLines(result));
			else for (const line of salvageLines(result)) process.stderr.write(`cvm: ${line}\n`);
			if (!result.complete) exit(FAILED);
		});
}

async function rescue(path: string, channels: readonly string[], options: SalvageOptions): Promise<Salvage> {
	const { output, dialect, force } = options;
	const input = await spooled(openInput(path));
	const { store, close } = temporaryStore();
	try {
		const found = await judged(input.name, () =>
			salvage(sourceOf(input), { store, channels: imageInputs(channels), ...(dialect && { dialect }) }),
		);
		if (output !== undefined) {
			await withOutputs(force, (outputs) =>
				judged(input.name, () => writeImage(found.image, { main: sinkOf(outputs.open(output)) }, { missing: 'zero' })),
			);
		}
		return found;
	} finally {
		close();
		closeSync(input.file);
	}
}

function sourceOf({ file, name, size: bytes = 0 }: Input): SalvageSource {
	return {
		size: bytes,
		read(offset, length) {
			const data = new Uint8Array(length);
			try {
				return data.subarray(0, readSync(file, data, 0, length, offset));
			} catch (error) {
				throw new Failure(`${name}: ${reasonOf(error)}`);
			}
		},
	};
}

const salvageJson = ({ image, complete, gaps, missing }: Salvage): object => ({
	complete,
	machine: image.configuration?.machineType,
	blocks: image.blocks.map(({ idstr, usedLength }) => ({ idstr, bytes: usedLength })),
	devices: image.devices.map(({ section, offset }) => ({ idstr: section.idstr, instance: section.instanceId, offset })),
	gaps,
	missing,
});

const REASONS = {
	'never-received': 'never received',
	discarded: 'discarded by postcopy',
	recovered: 'found next to a gap: perhaps wrong',
} as const;

function salvageLines({ image, complete, gaps, missing }: Salvage): string[] {
	const found = `found: ${plural(image.blocks.length, 'block')}, ${plural(image.devices.length, 'device')}`;
	if (complete) return [found, 'complete: nothing is missing'];
	return [
		found,
		...gaps.map(gapLine),
		...missing.pages.map(
			({ block, start, end, reason }) => `missing: ${printable(block)} ${hex(start)}..${hex(end)}, ${REASONS[reason]}`,
		),
		...missing.sections.map(({ text }) => `missing: ${printable(text)}`),
		`not complete: ${size(missing.bytes)} of the stream could not be read`,
	];
}

function gapLine({ from, to, reason, section, resumedAt, assumedBlock, input }: Gap): string {
	const where = `${input === undefined ? '' : `file ${input + 1} `}${hex(from)}..${hex(to)}`;
	const after = resumedAt === undefined ? '' : `; read on at ${resumedAt === 'record' ? 'a record' : 'an element'}`;
	const assumed = assumedBlock === undefined ? '' : `, of ${printable(assumedBlock)} it seems`;
	return `gap ${where}${section === undefined ? '' : ` ${printable(section)}`}: ${printable(reason)}${after}${assumed}`;
}
