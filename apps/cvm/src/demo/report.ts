import type { HelperFigures } from '@cvm/host';
import type { MigrationInfo } from '@cvm/qmp';
import { SingleBar } from 'cli-progress';
import pc from 'picocolors';
import type { DemoOptions } from './options.js';
import type { Travelled } from './travel.js';

/** One migration, as the summary shows it. */
export interface HopResult {
	readonly from: string;
	readonly to: string;
	readonly info: MigrationInfo & { readonly 'x-helper'?: HelperFigures };
	/** Steps that the vCPUs had done when the migration began, and when the guest first showed itself on the target. */
	readonly stepsBefore: readonly number[];
	readonly stepsAfter: readonly number[];
	/** Peak resident memory of the two processes in bytes, where the system tells. */
	readonly peaks: Readonly<Record<string, number>>;
}

/** What a demonstration found out. `--json` prints it as it is. */
export interface DemoResult {
	readonly mode: string;
	readonly workload: string | undefined;
	readonly memory: number;
	readonly vcpus: number;
	readonly policy: number;
	/** Of mode mh. */
	readonly helper?: { readonly profile: string; readonly count: number };
	readonly 'launch-digest'?: string;
	readonly hops: readonly HopResult[];
	readonly travelled?: readonly Travelled[];
	readonly checks: readonly { readonly check: string; readonly ok: boolean; readonly detail: string }[];
	readonly verified: boolean;
	readonly output?: string;
	readonly 'accept-with'?: string;
}

/** Where the course of a demonstration is shown. */
export interface Report {
	step(text: string): void;
	progress(info: MigrationInfo): void;
	result(result: DemoResult): void;
}

const MIB = 2 ** 20;
const mib = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

/** For programs: nothing until the end, then one JSON document. */
function jsonReport(): Report {
	return {
		step: () => undefined,
		progress: () => undefined,
		result: (result) => void process.stdout.write(`${JSON.stringify(result, null, 2)}\n`),
	};
}

function textReport(): Report {
	const out = process.stdout;
	const colours = pc.createColors(out.isTTY === true);
	let bar: SingleBar | undefined;
	const endBar = () => {
		bar?.stop();
		bar = undefined;
	};
	const line = (text: string) => {
		endBar();
		out.write(`${text}\n`);
	};
	return {
		step: (text) => line(`${colours.cyan('·')} ${text}`),
		progress: (info) => {
			const { ram, status } = info;
			if (!ram || !out.isTTY) return; // quiet when piped
			bar ??= startBar();
			const rate = (ram.mbps * 1e6) / 8 / MIB;
			const dirty = (ram['dirty-pages-rate'] * 4096) / MIB;
			bar.update(Math.min(1, 1 - ram.remaining / ram.total), {
				pass: ram['dirty-sync-count'],
				remaining: mib(ram.remaining),
				rate: `${rate.toFixed(0)} MiB/s`,
				dirty: `${dirty.toFixed(0)} MiB/s`,
				eta: rate > 0 ? `${(ram.remaining / MIB / rate).toFixed(1)} s` : '?',
				status,
			});
		},
		result: (result) => {
			endBar();
			for (const hop of result.hops) out.write(hopText(hop));
			if (result.travelled) out.write(travelText(result.travelled));
			for (const { check, ok, detail } of result.checks) {
				line(`${ok ? colours.green('✓') : colours.red('✗')} ${check}${detail ? colours.dim(`  ${detail}`) : ''}`);
			}
			if (result['accept-with']) line(`\nQEMU accepts it with:\n  ${result['accept-with']}`);
			line(result.verified ? colours.green('verified') : colours.red('NOT verified'));
		},
	};
}

function startBar(): SingleBar {
	const bar = new SingleBar({
		format: '  {bar} pass {pass}  {remaining} left  {rate}  dirtied {dirty}  ETA {eta}',
		hideCursor: true,
		clearOnComplete: true,
		barsize: 24,
	});
	bar.start(1, 0, { pass: 1, remaining: '?', rate: '?', dirty: '?', eta: '?' });
	return bar;
}

function hopText({ from, to, info, stepsBefore, stepsAfter }: HopResult): string {
	const { ram, 'x-helper': helper } = info;
	if (!ram) return '';
	const total = info['total-time'] ?? 0;
	const pages = ram.normal + ram.duplicate;
	const rows: [string, string][] = [
		['passes', `${ram['dirty-sync-count']}`],
		['pages sent', `${pages} (${ram.duplicate} zero), of ${ram.total / 4096} in the guest`],
		...(helper ? helperRows(helper) : []),
		['bytes sent', mib(ram.transferred)],
		['total time', `${seconds(total)}, ${total > 0 ? mib((pages * 4096 * 1000) / total) : '?'} of guest RAM a second`],
		['downtime', `${info.downtime ?? 0} ms`],
	];
	if (stepsBefore.length > 0)
		rows.push(['steps of work', `${stepsBefore.join(' + ')} when it began, ${stepsAfter.join(' + ')} on arrival`]);
	return `\n  ${from} → ${to}\n${table(rows)}\n`;
}

const helperRows = ({ helpers, records, pages, 'zero-pages': zeros }: HelperFigures): [string, string][] => [
	['helpers', `${helpers}`],
	['by helpers', `${pages} pages (${zeros} zero) in ${records} records`],
];

const travelText = (travelled: readonly Travelled[]): string =>
	`  what travelled how\n${table(travelled.map(({ what, how }) => [what, how]))}\n`;

/** Names and values in two columns. */
function table(rows: readonly (readonly [string, string])[]): string {
	const width = Math.max(...rows.map(([name]) => name.length));
	return rows.map(([name, value]) => `    ${name.padEnd(width)}  ${value}\n`).join('');
}

/** Text for people, or JSON for programs. */
export const openReport = (options: DemoOptions): Report => (options.json ? jsonReport() : textReport());
