import type { DeviceField, DeviceTree } from '@cvm/qemu-mig';
import { leavesOf } from '@cvm/qemu-mig';

/** Hexadecimal, as offsets are told. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** A size with a unit, as exact as a person needs. */
export function size(bytes: number): string {
	const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
	let unit = 0;
	let value = bytes;
	for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
	return `${value.toFixed(unit === 0 || Number.isInteger(value) ? 0 : 1)} ${units[unit]}`;
}

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

/** What came from a file, safe on a terminal and on one line. */
export const printable = (text: string): string =>
	text.replace(/[^\x20-\x7e]/g, (c) => `\\x${(c.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`);

/** Columns: the first to the left, the others to the right, unless named in `left`. */
export function table(rows: readonly (readonly string[])[], left: readonly number[] = [0]): string[] {
	const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
	return rows.map((row) =>
		row
			.map((cell, i) => (left.includes(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
			.join('  ')
			.trimEnd(),
	);
}

const SHOWN = 16;

/** The value of a field in one line. */
function valueText(field: DeviceField): string {
	switch (field.kind) {
		case 'integer':
			return hex(field.value < 0 ? BigInt.asUintN(8 * field.length, BigInt(field.value)) : field.value);
		case 'boolean':
			return `${field.value}`;
		case 'text':
			return printable(field.value.join(', '));
		case 'integers':
			return cut(field.value.subarray(0, SHOWN).join(' '), field.value.length);
		case 'bytes':
			return cut(Buffer.from(field.value.subarray(0, SHOWN)).toString('hex'), field.value.length);
		default:
			return 'null';
	}
}

const cut = (text: string, length: number): string => (length > SHOWN ? `${text} … (${length})` : text);

/** All fields of a device, a line each. */
export const deviceLines = (tree: DeviceTree): string[] =>
	leavesOf(tree).map(({ path, field }) => `${printable(path)} = ${valueText(field)}`);
