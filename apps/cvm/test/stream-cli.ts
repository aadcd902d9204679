/** `cvm stream` in this process: the command line, with what it says, and streams to give to it. */
import { readFileSync } from 'node:fs';
import { inProcess } from './in-process.js';
import { CAPTURE } from './processes.js';

/** The stream that Debian's QEMU wrote. */
export const capture = (): Uint8Array => new Uint8Array(readFileSync(CAPTURE));

/** Runs `cvm stream …` here and takes what it says. */
export const stream = (...argv: readonly string[]) => inProcess('stream', ...argv);

/** Runs it with `--json` and reads the document. */
export async function streamJson<T>(...argv: readonly string[]): Promise<T> {
	const { stdout, stderr } = await stream(...argv, '--json');
	if (stderr !== '') throw new Error(stderr);
	return JSON.parse(stdout) as T;
}

/** Copies and changes bytes. */
export function patched(data: Uint8Array, at: number, ...bytes: number[]): Uint8Array {
	const out = data.slice();
	out.set(bytes, at);
	return out;
}

/** Where ASCII text stands in bytes. */
export const indexOf = (data: Uint8Array, text: string, from = 0): number => Buffer.from(data).indexOf(text, from);

const ascii = (text: string): number[] => Array.from(text, (c) => c.charCodeAt(0));
const be32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
const be64 = (value: number): number[] => [...be32(Math.floor(value / 2 ** 32)), ...be32(value % 2 ** 32)];
const cstr8 = (text: string): number[] => [text.length, ...ascii(text)];
const FOOTER = [0x7e, ...be32(2)];

/** A record of RAM. */
export type Record = readonly [address: number, flag: number, ...data: number[]];

/** `0x02`: zero; `0x08`: raw, filled with a byte; `0x40`: XBZRLE. */
const record = ([address, flag, ...data]: Record): number[] => {
	const word = [...be64(address + flag), ...cstr8('pc.ram')];
	if (flag === 0x08) return [...word, ...Array.from({ length: 4096 }, () => data[0] ?? 0)];
	if (flag === 0x40) return [...word, 1, 0, data.length, ...data];
	return [...word, ...data];
};

/** A stream of machine `none` with a block `pc.ram`, a PART for each list of records, an empty END, and no description. */
export function tinyStream(pages: number, ...parts: readonly (readonly Record[])[]): Uint8Array {
	const bytes = pages * 4096;
	const eos = [...be64(0x10), ...FOOTER];
	return Uint8Array.from([
		...ascii('QEVM'),
		...be32(3),
		7,
		...be32(4),
		...ascii('none'),
		...[1, ...be32(2), ...cstr8('ram'), ...be32(0), ...be32(4)],
		...[...be64(bytes + 4), ...cstr8('pc.ram'), ...be64(bytes), ...eos],
		...parts.flatMap((records) => [2, ...be32(2), ...records.flatMap(record), ...eos]),
		...[3, ...be32(2), ...eos],
		0,
	]);
}
