import type { Dialect } from '@cvm/qemu-mig';
import { saveImageCookie, saveImageXml } from '@cvm/qemu-mig';
import { type StreamImage, type WriteImageOptions, writeImage } from '@cvm/qemu-mig/image';
import { Command, InvalidArgumentError, Option } from 'commander';
import { Misuse } from '../exit.js';
import { print } from '../owner/print.js';
import { LIMITS, readInput } from '../owner/read.js';
import { withImage } from './image.js';
import { DIALECT_HELP, dialectOf } from './input.js';
import { type Outputs, sinkOf, withOutputs } from './outputs.js';
import { size } from './text.js';

const FORMS = ['plain', 'mapped-ram', 'libvirt', 'multifd'] as const;

interface ConvertOptions {
	readonly output: string;
	readonly to: (typeof FORMS)[number];
	readonly channels?: number;
	readonly compression?: 'none' | 'zlib' | 'zstd';
	readonly xml?: string;
	readonly packing?: 'raw' | 'gzip' | 'zstd';
	readonly running?: true;
	readonly missing?: 'zero' | 'omit';
	readonly dialect?: Dialect;
	readonly force?: true;
	readonly json?: true;
}

interface Written {
	readonly path: string;
	readonly bytes: number;
}

/** `cvm stream convert`. */
export function convertCommand(): Command {
	return new Command('convert')
		.description('make another kind of file of a stream or save file')
		.argument('<file>', 'the stream, or - for the standard input')
		.argument('[channel...]', 'its multifd channels')
		.requiredOption('-o, --output <file>', 'where it goes; multifd channels go to FILE.0, FILE.1 …')
		.addOption(new Option('--to <form>', 'what to make').choices(FORMS).makeOptionMandatory())
		.option('--channels <number>', 'multifd: how many channels (default: 2)', channelsOf)
		.addOption(new Option('--compression <name>', 'multifd: of the channels').choices(['none', 'zlib', 'zstd']))
		.option('--xml <file>', "libvirt: the domain's XML (default: that of the input)")
		.addOption(new Option('--packing <name>', 'libvirt: of the stream').choices(['raw', 'gzip', 'zstd']))
		.option('--running', 'libvirt: the guest runs after it is restored')
		.addOption(new Option('--missing <how>', 'pages that never arrived (default: refuse)').choices(['zero', 'omit']))
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream convert guest.save --to mapped-ram -o guest.mapped\n')
		.action(async (file: string, channels: string[], options: ConvertOptions) => {
			refuseForeign(options);
			const written = await withImage([file, ...channels], options.dialect, (image) =>
				withOutputs(options.force, (outputs) => convert(image, outputs, options)),
			);
			if (options.output === '-') return;
			print(
				options.json,
				{ written },
				written.map(({ path, bytes }) => `${path}: ${size(bytes)}`),
			);
		});
}

function channelsOf(text: string): number {
	const count = Number(text);
	if (!/^\d{1,3}$/.test(text) || count < 1 || count > 255) throw new InvalidArgumentError('expected 1 to 255');
	return count;
}

/** Options of another form say that something is misunderstood. */
function refuseForeign({ to, channels, compression, xml, packing, running }: ConvertOptions): void {
	const given = {
		'--channels': ['multifd', channels],
		'--compression': ['multifd', compression],
		'--xml': ['libvirt', xml],
		'--packing': ['libvirt', packing],
		'--running': ['libvirt', running],
	} as const;
	for (const [option, [form, value]] of Object.entries(given)) {
		if (value !== undefined && form !== to) throw new Misuse(`${option}: expected --to ${form}, got --to ${to}`);
	}
}

async function convert(image: StreamImage, outputs: Outputs, options: ConvertOptions): Promise<Written[]> {
	const { to, output: path } = options;
	const main = outputs.open(path);
	const count = to === 'multifd' ? (options.channels ?? 2) : 0;
	if (count > 0 && path === '-') throw new Misuse('--output: expected a file for multifd, which has several, got -');
	const channels = Array.from({ length: count }, (_, i) => outputs.open(`${path}.${i}`));
	const sinks = {
		main: sinkOf(main, to === 'mapped-ram' ? main.writeSparse : main.write),
		channel: (index: number) => sinkOf(channels[index] ?? main),
	};
	await writeImage(image, sinks, writeOptions(image, options, count));
	return [main, ...channels].map(({ path: name, bytes }) => ({ path: name, bytes }));
}

function writeOptions(image: StreamImage, options: ConvertOptions, channels: number): WriteImageOptions {
	const { to, compression = 'none', missing } = options;
	const base = missing === undefined ? {} : { missing };
	switch (to) {
		case 'plain':
			return { ...base, encoding: 'raw' };
		case 'mapped-ram':
			return { ...base, encoding: 'mapped-ram', dialect: 'qemu-9' };
		case 'multifd':
			return { ...base, encoding: 'multifd', multifd: { channels, compression } };
		case 'libvirt':
			return { ...base, encoding: 'raw', libvirt: saveOptions(image, options) };
	}
}

function saveOptions(
	image: StreamImage,
	{ xml, packing = 'raw', running }: ConvertOptions,
): NonNullable<WriteImageOptions['libvirt']> {
	const found = image.inputs.find(({ libvirt }) => libvirt !== undefined)?.libvirt;
	const common = { running: running ?? found?.header.wasRunning === 1, format: packing };
	if (xml !== undefined) return { ...common, xml: readInput('--xml', xml, LIMITS.firmware) };
	if (found === undefined) throw new Misuse('--xml: expected one, as the input is no save file');
	const cookie = saveImageCookie(found);
	return { ...common, xml: saveImageXml(found), ...(cookie && { cookie }) };
}
