import { layout, PAGE_SIZE, u32be, u64be } from '@cvm/layout';
import { CodecError } from './error.js';

const VERSION = 1;
/** Where a block's pages begin is a multiple of this. QEMU 9.0 migration/ram.c `MAPPED_RAM_FILE_OFFSET_ALIGNMENT`. */
const ALIGNMENT = 1024 * 1024;
/** Bytes asked of the file at once. QEMU 9.0 migration/ram.c `MAPPED_RAM_LOAD_BUF_SIZE`. */
const READ_SIZE = 1024 * 1024;
/** Bytes of bitmap asked of the file at once: 2 GiB of guest memory. */
const BITMAP_READ_SIZE = 64 * 1024;

/** Follows a block's entry in the block list. QEMU 9.0 migration/ram.c `MappedRamHeader`. */
const HEADER = layout('MappedRamHeader', 28, {
	version: u32be(0),
	pageSize: u64be(4),
	bitmapOffset: u64be(12),
	pagesOffset: u64be(20),
});
/** Bytes of the header. */
export const MAPPED_RAM_HEADER_SIZE = HEADER.size;

/** Where a block lies in a mapped-ram file. Offsets are bytes from the start of the file. */
export interface MappedRamHeader {
	/** Bytes of a page of the target: 4096. */
	readonly pageSize: number;
	readonly bitmapOffset: number;
	readonly pagesOffset: number;
}

/** Bytes of the bitmap of a block: whole 64-bit words. */
export const mappedRamBitmapSize = (usedLength: number): number => Math.ceil(usedLength / PAGE_SIZE / 64) * 8;

/**
 * Reads a header and checks it against the length of its block.
 *
 * @param at offset of the header in the file, for errors
 * @returns undefined for a block whose pages are not in the file (`x-ignore-shared`): both offsets are 0
 * @throws CodecError `truncated`, `version`, `malformed` or `offset`
 */
export function decodeMappedRamHeader(data: Uint8Array, usedLength: number, at = 0): MappedRamHeader | undefined {
	if (data.length < HEADER.size) {
		const text = `expected ${HEADER.size}, got ${data.length} bytes`;
		throw new CodecError('truncated', at, `mapped-ram header: ${text}`, [
			`Could not read whole mapped-ram migration header (${text})`,
		]);
	}
	const { version, ...wide } = HEADER.decodePrefix(data);
	if (version > VERSION) {
		const text = `(expected <= ${VERSION}, got ${version})`;
		throw new CodecError('version', at, `mapped-ram header: version ${text}`, [
			`Migration mapped-ram capability version not supported ${text}`,
		]);
	}
	if (wide.pageSize !== BigInt(PAGE_SIZE)) {
		throw new CodecError('malformed', at + 4, `mapped-ram header: expected pages of 4096 bytes, got ${wide.pageSize}`);
	}
	if (wide.bitmapOffset === 0n && wide.pagesOffset === 0n) return undefined;
	const [bitmapOffset, pagesOffset] = [Number(wide.bitmapOffset), Number(wide.pagesOffset)];
	if (!Number.isSafeInteger(bitmapOffset) || !Number.isSafeInteger(pagesOffset + usedLength)) {
		throw new CodecError('offset', at + 12, 'mapped-ram header: expected offsets of 53 bits at most');
	}
	// QEMU does not insist on its own alignment either.
	if (pagesOffset % PAGE_SIZE !== 0) {
		throw new CodecError('offset', at + 20, `mapped-ram header: expected pages on a page boundary, got ${pagesOffset}`);
	}
	const bitmapEnd = bitmapOffset + mappedRamBitmapSize(usedLength);
	if (bitmapOffset < pagesOffset + usedLength && pagesOffset < bitmapEnd) {
		throw new CodecError('offset', at + 12, 'mapped-ram header: bitmap and pages overlap');
	}
	return { pageSize: PAGE_SIZE, bitmapOffset, pagesOffset };
}

/** The 28 bytes of a header. Without `header`: of a block whose pages are not in the file. */
export function encodeMappedRamHeader(header?: MappedRamHeader): Uint8Array {
	return HEADER.encode({
		version: VERSION,
		pageSize: BigInt(PAGE_SIZE),
		bitmapOffset: BigInt(header?.bitmapOffset ?? 0),
		pagesOffset: BigInt(header?.pagesOffset ?? 0),
	});
}

/** A block to be laid out in a file. */
export interface MappedRamBlock {
	/** Bytes of its entry in the block list before the header: name, length and whatever the capabilities add. */
	readonly entrySize: number;
	/** Bytes, whole pages. */
	readonly usedLength: number;
	/** Whether its pages stay out of the file (`x-ignore-shared`). */
	readonly ignored?: boolean;
}

/** Where everything of a block goes. Offsets are bytes from the start of the file. */
export interface MappedRamPlacement extends MappedRamHeader {
	readonly entryOffset: number;
	readonly headerOffset: number;
	readonly bitmapSize: number;
	/** Where the next entry, or what ends the list, goes. */
	readonly end: number;
}

/**
 * Lays out blocks as QEMU does: entry, header, bitmap, a gap up to a MiB, pages.
 *
 * @param start where the first entry goes: after the word with MEM_SIZE
 * @throws CodecError `argument` if a length is not whole pages or the file would exceed 53 bits
 */
export function planMappedRam(start: number, blocks: readonly MappedRamBlock[]): MappedRamPlacement[] {
	let entryOffset = start;
	return blocks.map(({ entrySize, usedLength, ignored }) => {
		const headerOffset = entryOffset + entrySize;
		const after = headerOffset + HEADER.size;
		const bitmapSize = ignored ? 0 : mappedRamBitmapSize(usedLength);
		const pagesOffset = ignored ? 0 : Math.ceil((after + bitmapSize) / ALIGNMENT) * ALIGNMENT;
		const end = ignored ? after : pagesOffset + usedLength;
		if (usedLength % PAGE_SIZE !== 0 || usedLength < 0 || !Number.isSafeInteger(end)) {
			throw new CodecError('argument', entryOffset, `mapped-ram: expected whole pages, got ${usedLength} bytes`);
		}
		const bitmapOffset = ignored ? 0 : after;
		const placement = { pageSize: PAGE_SIZE, entryOffset, headerOffset, bitmapOffset, bitmapSize, pagesOffset, end };
		entryOffset = end;
		return placement;
	});
}

/** The pages a block has in the file: a bit per page, in 64-bit words of the byte order of the host that wrote it. */
export class MappedRamBitmap {
	/** The bytes as they stand in the file. */
	readonly bytes: Uint8Array;
	readonly #flip: number;

	/** @param littleEndian byte order of the host that wrote the file; x86 is little-endian */
	constructor(bytes: Uint8Array, littleEndian = true) {
		this.bytes = bytes;
		// Word and bit are the same in both; the byte within the word is mirrored.
		this.#flip = littleEndian ? 0 : 7;
	}

	/** Whether page number `page` is in the file. One that is not is zero. */
	has(page: number): boolean {
		return ((this.bytes[Math.floor(page / 8) ^ this.#flip] ?? 0) & (1 << (page & 7))) !== 0;
	}

	/** Whether none of eight pages, from a multiple of eight on, is in the file. */
	lacksEight(page: number): boolean {
		return (this.bytes[Math.floor(page / 8) ^ this.#flip] ?? 0) === 0;
	}

	add(page: number): void {
		const at = Math.floor(page / 8) ^ this.#flip;
		if (at >= this.bytes.length) throw new CodecError('argument', at, `mapped-ram: the block has no page ${page}`);
		this.bytes[at] = (this.bytes[at] as number) | (1 << (page & 7));
	}
}

/** A file that can be read anywhere. */
export interface RandomAccess {
	/** `length` bytes from `offset` on, fewer only at the end of the file. */
	read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
}

async function readFully(file: RandomAccess, offset: number, length: number, what: string): Promise<Uint8Array> {
	const data = await file.read(offset, length);
	if (data.length === length) return data;
	const got = `expected ${length} bytes, got ${data.length}`;
	throw new CodecError(data.length < length ? 'truncated' : 'argument', offset, `mapped-ram ${what}: ${got}`);
}

/** Pages that follow one another in a block. */
export interface MappedRamRun {
	/** Byte offset in the block. */
	readonly address: number;
	/** Whole pages, 1 MiB at most. */
	readonly data: Uint8Array;
	/** Where in the file. */
	readonly offset: number;
}

/**
 * Reads a block's pages in ascending order; those it leaves out are zero. Holds 1 MiB of pages and 64 KiB of bitmap at most,
 * however long the block is.
 *
 * @throws CodecError `truncated` if the file ends before a page or the bitmap does
 */
export async function* readMappedRam(
	file: RandomAccess,
	header: MappedRamHeader,
	usedLength: number,
	littleEndian = true,
): AsyncGenerator<MappedRamRun, void, void> {
	const bitmapSize = mappedRamBitmapSize(usedLength);
	for (let at = 0; at < bitmapSize; at += BITMAP_READ_SIZE) {
		const size = Math.min(BITMAP_READ_SIZE, bitmapSize - at);
		const bits = new MappedRamBitmap(await readFully(file, header.bitmapOffset + at, size, 'bitmap'), littleEndian);
		const first = at * 8;
		const count = Math.min(size * 8, usedLength / PAGE_SIZE - first);
		for (const [page, pages] of runs(bits, count)) {
			const address = (first + page) * PAGE_SIZE;
			const offset = header.pagesOffset + address;
			yield { address, data: await readFully(file, offset, pages * PAGE_SIZE, 'pages'), offset };
		}
	}
}

/** Runs of pages present, as first page and number. */
function* runs(bits: MappedRamBitmap, count: number): Generator<[number, number], void, void> {
	for (let page = 0; page < count; ) {
		// Most of a large block is often absent: eight pages at a time.
		if (page % 8 === 0 && bits.lacksEight(page)) {
			page += 8;
			continue;
		}
		let end = page;
		while (end < count && (end - page) * PAGE_SIZE < READ_SIZE && bits.has(end)) end++;
		if (end > page) yield [page, end - page];
		page = Math.max(end, page + 1);
	}
}
