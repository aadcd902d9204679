import { closeSync, openSync, readSync } from 'node:fs';
import { RamFlag, SectionType } from '@cvm/qemu-mig';

/*
 * What a reader costs that takes every field by itself, through a table that says what it is, as QEMU's analysis script and
 * most parsers of binary formats do. It reads plain streams of one block, and is only here to be compared with.
 */

type Value = number | bigint | string | Uint8Array;
type Fields = Record<string, Value>;

interface Field {
	readonly name: string;
	readonly type: keyof typeof READERS;
	readonly size?: number;
	/** Whether it is there, from the fields before it. */
	readonly when?: (fields: Fields) => boolean;
}

/** A file, some bytes at a time. */
class FileBytes {
	readonly #file: number;
	#buffer = Buffer.alloc(2 ** 20);
	#at = 0;
	#end = 0;

	constructor(path: string) {
		this.#file = openSync(path, 'r');
	}

	/** @throws RangeError at the end */
	take(size: number): Buffer {
		if (this.#end - this.#at < size) {
			this.#buffer.copyWithin(0, this.#at, this.#end);
			this.#end -= this.#at;
			this.#at = 0;
			this.#end += readSync(this.#file, this.#buffer, this.#end, this.#buffer.length - this.#end, null);
			if (this.#end < size) throw new RangeError('end of file');
		}
		this.#at += size;
		return this.#buffer.subarray(this.#at - size, this.#at);
	}

	close(): void {
		closeSync(this.#file);
	}
}

const READERS = {
	u8: (bytes: FileBytes): Value => bytes.take(1).readUInt8(0),
	be32: (bytes: FileBytes): Value => bytes.take(4).readUInt32BE(0),
	be64: (bytes: FileBytes): Value => bytes.take(8).readBigUInt64BE(0),
	name: (bytes: FileBytes): Value => bytes.take(bytes.take(1).readUInt8(0)).toString('latin1'),
	text: (bytes: FileBytes): Value => bytes.take(bytes.take(4).readUInt32BE(0)).toString('latin1'),
	bytes: (bytes: FileBytes, size = 0): Value => bytes.take(size),
} as const;

const flag =
	(wanted: number) =>
	({ word }: Fields): boolean =>
		(BigInt(word as bigint) & BigInt(wanted)) !== 0n;
const page = RamFlag.page | RamFlag.zero;

const RECORD: readonly Field[] = [
	{ name: 'word', type: 'be64' },
	{ name: 'block', type: 'name', when: (f) => flag(page)(f) && !flag(RamFlag.continue)(f) },
	{ name: 'fill', type: 'u8', when: flag(RamFlag.zero) },
	{ name: 'page', type: 'bytes', size: 4096, when: flag(RamFlag.page) },
	{ name: 'listed', type: 'name', when: flag(RamFlag.memSize) },
	{ name: 'length', type: 'be64', when: flag(RamFlag.memSize) },
];
const FILE: readonly Field[] = [
	{ name: 'magic', type: 'be32' },
	{ name: 'version', type: 'be32' },
	{ name: 'configuration', type: 'u8' },
	{ name: 'machine', type: 'text' },
];
const isNew = ({ type }: Fields): boolean => type === SectionType.start || type === SectionType.full;
const isSection = ({ type }: Fields): boolean => type !== SectionType.eof;
const SECTION: readonly Field[] = [
	{ name: 'type', type: 'u8' },
	{ name: 'id', type: 'be32', when: isSection },
	{ name: 'idstr', type: 'name', when: isNew },
	{ name: 'instance', type: 'be32', when: isNew },
	{ name: 'version', type: 'be32', when: isNew },
];

function read(bytes: FileBytes, fields: readonly Field[]): Fields {
	const out: Fields = {};
	for (const { name, type, size, when } of fields) {
		if (when === undefined || when(out)) out[name] = READERS[type](bytes, size);
	}
	return out;
}

/** Reads a stream whose only section is `ram`, up to EOF. @returns pages */
export function interpret(path: string): number {
	const bytes = new FileBytes(path);
	let pages = 0;
	try {
		read(bytes, FILE);
		while (isSection(read(bytes, SECTION))) {
			for (let record = read(bytes, RECORD); !flag(RamFlag.endOfSection)(record); record = read(bytes, RECORD)) {
				if (flag(page)(record)) pages++;
			}
			// The footer.
			bytes.take(5);
		}
		return pages;
	} finally {
		bytes.close();
	}
}
