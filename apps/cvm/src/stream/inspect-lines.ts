import { PAGE_SIZE } from '@cvm/layout';
import { SAVE_FORMATS, viewDevice } from '@cvm/qemu-mig';
import pc from 'picocolors';
import type { DecodedDevice } from './devices.js';
import type { Found } from './input.js';
import type { Inspection } from './inspect.js';
import type { BlockPages, KindCounts } from './pages.js';
import { kindCounts, rangesOf } from './pages.js';
import type { Step, Survey } from './survey.js';
import { deviceLines, hex, plural, printable, size, table } from './text.js';

const MOST_RANGES = 100_000;

/** What people read. */
export function inspectionLines(
	inspection: Inspection,
	show: { readonly devices?: true; readonly pages?: true },
): string[] {
	const { survey } = inspection;
	const blocks = [...survey.pages.blocks.values()];
	return [
		...section('', summary(inspection)),
		...section('blocks', blocks.length === 0 ? [] : blockTable(blocks)),
		...section('rounds', roundTable(survey)),
		...section('time line', timeLine(survey)),
		...section('devices', show.devices ? allFields(inspection.devices) : deviceTable(inspection.devices)),
		...section('pages', show.pages ? blocks.flatMap(rangeLines) : []),
	];
}

function section(title: string, lines: readonly string[]): string[] {
	if (lines.length === 0) return [];
	const colours = pc.createColors(process.stdout.isTTY === true);
	return title === '' ? [...lines] : ['', colours.bold(title), ...lines.map((line) => `  ${line}`)];
}

const STREAMS: Readonly<Record<Found['stream'], string>> = {
	migration: 'QEMU migration stream',
	recovery: 'recovery of a paused postcopy: it continues another stream',
	preempt: "channel of postcopy's urgent pages",
};

function kindOf({ detection, stream, save }: Found, survey: Survey): string {
	if (detection.other === 'multifd') return 'multifd channel';
	const inner = survey.blocks?.some(({ mapped }) => mapped) === true ? 'QEMU mapped-ram file' : STREAMS[stream];
	if (save === undefined) return inner;
	const { complete, version, format } = save.header;
	const packing = version === 1 ? 'raw' : (SAVE_FORMATS[format] ?? `format ${format}`);
	return `libvirt save file${complete ? '' : ' (its writer did not finish)'}, ${packing}, with a ${inner}`;
}

function summary({ name, found, survey, bytes, capabilities, channels }: Inspection): string[] {
	const { configuration, pages } = survey;
	const rows: [string, string][] = [
		['file', `${printable(name)}, ${size(bytes)} of stream`],
		['what', kindOf(found, survey)],
		...dialectRows(found),
	];
	if (configuration) rows.push(['machine', printable(configuration.value.machineType)]);
	if (capabilities.length > 0) rows.push(['capabilities', printable(capabilities.join(', '))]);
	for (const { name: subsection, data } of configuration?.value.subsections ?? []) {
		if (subsection !== 'configuration/capabilities') {
			rows.push([printable(subsection.replace('configuration/', '')), Buffer.from(data).toString('hex')]);
		}
	}
	if (survey.helper.line !== undefined) rows.push(['helper', survey.helper.line]);
	for (const { path, what, channel, compression, packets, pages: sent } of channels) {
		const detail =
			what === 'multifd' ? ` ${channel}, compression ${compression ?? 'none'}, ${plural(packets, 'packet')}` : '';
		rows.push(['channel', `${printable(path)}: ${what}${detail}, ${plural(sent, 'page')}`]);
	}
	if (pages.beyond > 0) rows.push(['note', `${pages.beyond} records beyond 64 GiB of pages are only counted`]);
	if (found.detection.other === undefined && found.stream !== 'preempt') rows.push(['end', endOf(survey)]);
	return table(rows, [0, 1]);
}

function dialectRows({ detection, dialect }: Found): [string, string][] {
	if (detection.other !== undefined) return [];
	const rows: [string, string][] = [
		[
			'dialect',
			`${dialect}${detection.best === dialect ? (detection.certain ? '' : ', as far as read') : ', as told'}`,
		],
	];
	/** Dialects by what is said of them: trees that share a trait share a line. */
	const said = new Map<string, string[]>();
	for (const { dialect: other, evidence } of detection.candidates) {
		for (const { offset, supports, text } of evidence) {
			const line = `${printable(text)} [${hex(offset)}]`;
			const key = `${supports ? '+' : '-'} ${line}`;
			said.set(key, [...(said.get(key) ?? []), other]);
		}
	}
	for (const [line, others] of said) rows.push(['', `${line.slice(0, 1)} ${others.join(', ')}: ${line.slice(2)}`]);
	return rows;
}

function endOf({ eof, description, end, postcopy }: Survey): string {
	if (!eof) return 'not reached';
	const trailing = end !== undefined && end.trailing > 0 ? `, ${plural(end.trailing, 'byte')} behind it` : '';
	return `${description ? 'with description' : 'without description'}${postcopy ? ', postcopy' : ''}${trailing}`;
}

const COLUMNS: readonly (keyof KindCounts)[] = [
	'raw',
	'zero',
	'xbzrle',
	'zlib',
	'multifd',
	'encrypted',
	'helper',
	'absent',
];

function blockTable(blocks: readonly BlockPages[]): string[] {
	const counts = blocks.map(({ records }) => kindCounts(records));
	const columns = COLUMNS.filter((kind) => counts.some((count) => count[kind] !== undefined));
	const rows = blocks.map((block, i) => {
		const { idstr, listed, distinct } = block;
		const pages = listed === undefined ? undefined : Math.ceil(listed.usedLength / PAGE_SIZE);
		return [
			printable(idstr),
			listed === undefined ? '?' : size(listed.usedLength),
			pages === undefined ? '?' : `${pages}`,
			`${distinct}`,
			...columns.map((kind) => `${counts[i]?.[kind] ?? 0}`),
		];
	});
	return table([['name', 'size', 'pages', 'sent', ...columns.map((kind) => `${kind}`)], ...rows]);
}

function roundTable({ pages: { rounds } }: Survey): string[] {
	if (rounds.length === 0) return [];
	const counts = rounds.map(({ records }) => kindCounts(records));
	const columns = COLUMNS.filter((kind) => counts.some((count) => count[kind] !== undefined));
	const rows = rounds.map(({ offset }, i) => [
		`${i + 1}`,
		hex(offset),
		...columns.map((kind) => `${counts[i]?.[kind] ?? 0}`),
	]);
	return table([['round', 'from', ...columns], ...rows], []);
}

function timeLine({ steps, left }: Survey): string[] {
	const rows = steps.map((step) => [hex(step.from), size(step.to - step.from), stepText(step)]);
	return [...table(rows, [2]), ...(left > 0 ? [`… and ${left} more`] : [])];
}

function stepText({ what, text, sections, rounds, packaged }: Step): string {
	const inside = packaged ? 'in package: ' : '';
	switch (what) {
		case 'ram': {
			const [first, last] = [Math.max(1, rounds?.[0] ?? 0), rounds?.[1] ?? 0];
			const range = last === 0 ? '' : `, round${first === last ? ` ${last}` : `s ${first} to ${last}`}`;
			return `${inside}ram ${text}${sections === 1 ? '' : ` × ${sections}`}${range}`;
		}
		case 'devices':
			return `${inside}${plural(sections, 'device')}`;
		default:
			return `${inside}${what} ${printable(text)}`;
	}
}

function deviceTable(devices: readonly DecodedDevice[]): string[] {
	if (devices.length === 0) return [];
	const rows = devices.map(({ section: { idstr, instanceId, version }, offset, length, tree, why }) => [
		printable(idstr),
		`${instanceId}`,
		`${version}`,
		hex(offset),
		`${length}`,
		tree ? highlights(tree) : `not decoded: ${why}`,
	]);
	return table([['name', 'inst', 'ver', 'offset', 'bytes', ''], ...rows], [0, 5]);
}

/** The few values that tell most of a device. */
const HIGHLIGHTS: readonly string[] = ['runstate', 'rip', 'cr3', 'rflags', 'halted'];

function highlights(tree: NonNullable<DecodedDevice['tree']>): string {
	const entries = (viewDevice(tree) ?? []).flatMap((group) => group.entries);
	return entries
		.filter(({ label }) => HIGHLIGHTS.includes(label))
		.map(({ label, value }) => `${label} ${typeof value === 'string' ? printable(value) : numberText(value)}`)
		.join(', ');
}

const numberText = (value: number | bigint | boolean): string =>
	typeof value === 'boolean' ? `${value}` : hex(BigInt.asUintN(64, BigInt(value)));

function allFields(devices: readonly DecodedDevice[]): string[] {
	return devices.flatMap(({ section: { idstr, instanceId, version }, offset, length, tree, why }) => [
		`${printable(idstr)} ${instanceId}: version ${version}, ${length} bytes at ${hex(offset)}`,
		...(tree ? deviceLines(tree) : [`not decoded: ${why}`]).map((line) => `  ${line}`),
	]);
}

function rangeLines(block: BlockPages): string[] {
	const rows: string[][] = [];
	for (const { first, count, kind, sent } of rangesOf(block)) {
		if (rows.length === MOST_RANGES) break;
		const [from, to] = [first * PAGE_SIZE, (first + count) * PAGE_SIZE - 1];
		rows.push([`  ${hex(from)}`, hex(to), kind, sent === 0 ? '' : `× ${sent === 255 ? '255 or more' : sent}`]);
	}
	const cut = rows.length === MOST_RANGES ? [`  … only ${MOST_RANGES} ranges are shown`] : [];
	return [printable(block.idstr), ...table(rows, [2, 3]), ...cut];
}
