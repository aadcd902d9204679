import type { Dialect } from '@cvm/qemu-mig';
import { diffImages, type ImageDiff } from '@cvm/qemu-mig/image';
import { Command } from 'commander';
import { FAILED } from '../exit.js';
import { print } from '../owner/print.js';
import { withImage } from './image.js';
import { DIALECT_HELP, dialectOf } from './input.js';
import { hex, plural, printable, size } from './text.js';

/** `cvm stream diff`. */
export function diffCommand(exit: (code: number) => void): Command {
	return new Command('diff')
		.description('compare what two streams hold: blocks, pages, fields of devices; exit code 1 if they differ')
		.argument('<a>', 'a stream or save file, or - for the standard input')
		.argument('<b>', 'another, in whatever encoding')
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm stream diff before.qevm after.save\n')
		.action(async (a: string, b: string, { dialect, json }: { readonly dialect?: Dialect; readonly json?: true }) => {
			const diff = await withImage([a], dialect, (one) => withImage([b], dialect, (other) => diffImages(one, other)));
			print(json, diffJson(diff), diffLines(diff));
			if (!diff.equal) exit(FAILED);
		});
}

type DeviceDifference = ImageDiff['devices'][number];
type Value = DeviceDifference['a'];

const valueJson = (value: Value): unknown =>
	value instanceof Uint8Array
		? Buffer.from(value).toString('hex')
		: typeof value === 'bigint'
			? value.toString()
			: value;

const diffJson = (diff: ImageDiff): object => ({
	...diff,
	devices: diff.devices.map((device) => ({ ...device, a: valueJson(device.a), b: valueJson(device.b) })),
});

function diffLines(diff: ImageDiff): string[] {
	if (diff.equal) return ['equal'];
	const { machine, blocks, pages, devices, bodies, moreRanges } = diff;
	return [
		...(machine ? [`machine: ${printable(machine[0] ?? '?')} and ${printable(machine[1] ?? '?')}`] : []),
		...blocks.map(({ idstr, a, b }) => `block ${printable(idstr)}: ${bytes(a)} and ${bytes(b)}`),
		...pages.map(
			({ block, start, end, reason }) =>
				`${printable(block)} ${hex(start)}..${hex(end)}: ${reason}, ${plural((end - start) / 4096, 'page')}`,
		),
		...(moreRanges > 0 ? [`… and ${plural(moreRanges, 'more range')} of pages`] : []),
		...devices.map(deviceLine),
		...bodies.map(bodyLine),
		`${plural(diff.differingPages, 'page')} and ${plural(devices.length + bodies.length, 'field')} differ`,
	];
}

const bodyLine = ({ idstr, instanceId, at, a, b }: ImageDiff['bodies'][number]): string => {
	const what =
		at === undefined ? `${bytes(a)} and ${bytes(b)}` : `bodies differ from byte ${at} on, and are not described`;
	return `${printable(idstr)} ${instanceId}: ${what}`;
};

const bytes = (length: number | undefined): string => (length === undefined ? 'missing' : size(length));

function deviceLine({ idstr, instanceId, path, a, b, at }: DeviceDifference): string {
	const name = `${printable(idstr)} ${instanceId}`;
	if (path === '') return `${name}: only in ${a === undefined ? 'the second' : 'the first'}`;
	return `${name} ${printable(path)}: ${valueLine(a, at)} and ${valueLine(b, at)}`;
}

/** Of a buffer what is around the first byte that differs. */
function valueLine(value: Value, at = 0): string {
	if (value === undefined) return 'missing';
	if (value instanceof Uint8Array) {
		const shown = Buffer.from(value.subarray(at, at + 8)).toString('hex');
		return `${at > 0 ? `[${at}] ` : ''}${shown}${value.length > at + 8 ? '…' : ''}`;
	}
	if (typeof value === 'number' || typeof value === 'bigint') return hex(BigInt.asUintN(64, BigInt(value)));
	return printable(`${value}`);
}
