import { basename } from 'node:path';
import type { ByteFilter, Dialect } from '@cvm/qemu-mig';
import { capabilitiesOf, StreamReader } from '@cvm/qemu-mig';
import { Command } from 'commander';
import { FAILED, Failure, Misuse } from '../exit.js';
import { print } from '../owner/print.js';
import { type Output, writeOutputs } from '../owner/write.js';
import { type ChannelFound, channelReader, surveyChannel } from './channels.js';
import { type DecodedDevice, decodeDevices } from './devices.js';
import { isRefusal, judged, type Refusal } from './faults.js';
import { DIALECT_HELP, dialectOf, type Found, openInput, readStreamInput } from './input.js';
import { inspectionJson } from './inspect-json.js';
import { inspectionLines } from './inspect-lines.js';
import { drawMap } from './map.js';
import { pngOf } from './png.js';
import { Survey } from './survey.js';
import { svgOf } from './svg.js';

interface InspectOptions {
	readonly dialect?: Dialect;
	readonly devices?: true;
	readonly pages?: true;
	readonly map?: string;
	readonly force?: true;
	readonly json?: true;
}

/** All that is known of an input. */
export interface Inspection {
	readonly name: string;
	readonly found: Found;
	readonly survey: Survey;
	readonly bytes: number;
	readonly devices: readonly DecodedDevice[];
	readonly capabilities: readonly string[];
	readonly channels: readonly ChannelFound[];
	/** Where reading had to stop, and why. */
	readonly fault?: Refusal;
}

/** `cvm stream inspect`. */
export function inspectCommand(exit: (code: number) => void): Command {
	return new Command('inspect')
		.description('tell what a migration stream or save file holds')
		.argument('<file>', 'the stream, or - for the standard input')
		.argument('[channel...]', 'what went over the other connections: multifd channels, postcopy preempt')
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--devices', 'show all fields of all devices')
		.option('--pages', 'show how each range of pages was sent')
		.option('--map <file>', 'draw the memory: kinds of page, how often sent, entropy; .png or .svg')
		.option('--force', 'replace files that exist')
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream inspect --devices --map guest.png guest.qevm\n')
		.action(async (file: string, channels: string[], options: InspectOptions) => {
			const format = formatOf(options.map);
			const inspection = await inspect(file, channels, options);
			if (options.map !== undefined) {
				const drawing = drawMap(inspection.survey.pages, inspection.name);
				const data = format === 'png' ? pngOf(drawing) : svgOf(drawing);
				const output: Output = { path: options.map, data };
				writeOutputs([output], options.force);
			}
			print(options.json, inspectionJson(inspection, options), inspectionLines(inspection, options));
			if (inspection.fault) {
				if (!options.json) process.stderr.write(`cvm: ${inspection.name}: ${inspection.fault.message}\n`);
				exit(FAILED);
			}
		});
}

function formatOf(map: string | undefined): 'png' | 'svg' | undefined {
	if (map === undefined) return undefined;
	const format = /\.(png|svg)$/.exec(map)?.[1];
	if (format !== 'png' && format !== 'svg') throw new Misuse(`--map: '${map}': expected a name in .png or .svg`);
	return format;
}

async function inspect(
	path: string,
	channelPaths: readonly string[],
	{ dialect, map }: InspectOptions,
): Promise<Inspection> {
	const input = openInput(path);
	const survey = new Survey({ entropy: map !== undefined });
	const channels: ChannelFound[] = [];
	let found: Found | undefined;
	let fault: Refusal | undefined;
	let bytes = 0;
	const begin = (what: Found): ByteFilter => {
		found = what;
		const filter = what.detection.other === 'multifd' ? multifdAlone(path, survey, channels) : streamOf(what, survey);
		return {
			push: (chunk) => {
				bytes += chunk.length;
				filter.push(chunk);
			},
			end: () => filter.end(),
		};
	};
	try {
		await readStreamInput(input, dialect, begin);
	} catch (error) {
		if (!isRefusal(error)) throw error;
		// Of what is not even the beginning of a stream there is nothing to tell.
		if (survey.steps.length === 0) throw new Failure(`${input.name}: ${error.message}`);
		fault = error;
	}
	if (found === undefined) throw new Failure(`${input.name}: expected a migration stream, got nothing`);
	for (const channel of channelPaths) {
		channels.push(await judged(`'${channel}'`, () => surveyChannel(channel, survey)));
	}
	const { configuration } = survey;
	return {
		name: path === '-' ? path : basename(path),
		found,
		survey,
		bytes,
		devices: decodeDevices(survey),
		capabilities: configuration === undefined ? [] : capabilitiesOf(configuration.value),
		channels,
		...(fault && { fault }),
	};
}

function streamOf({ dialect, stream }: Found, survey: Survey): ByteFilter {
	const reader = new StreamReader({ dialect, stream, handler: survey.handler() });
	return {
		push: (chunk) => reader.push(chunk),
		end: () => {
			survey.end = reader.end();
		},
	};
}

/** The file itself is a channel. */
function multifdAlone(path: string, survey: Survey, channels: ChannelFound[]): ByteFilter {
	const { filter, counts } = channelReader(path, survey);
	channels.push(counts);
	return filter;
}
