import { PAGE_SIZE } from '@cvm/layout';
import { MappedRamBitmap, planMappedRam } from '../codec/mapped-ram.js';
import type { StreamWriter } from '../write/writer.js';
import type { ImageBlock, StreamImage } from './content.js';
import { isMissing, isZeroKind } from './page-kind.js';
import { storeOf } from './pages.js';
import { isIgnored } from './write-ram.js';

/** Bytes written at once. */
const PIECE = 2 ** 20;
const ZEROS = new Uint8Array(PIECE);

/**
 * Writes the block list of a mapped-ram file with all pages. Absent pages are written as zeros, so that the output may be a
 * pipe; a sink that seeks over them makes the file sparse.
 */
export async function writeMappedList(
	writer: StreamWriter,
	image: StreamImage,
	blocks: readonly ImageBlock[],
): Promise<void> {
	const store = storeOf(image);
	writer.mappedListBegin(blocks.reduce((sum, { usedLength }) => sum + usedLength, 0));
	const plan = planMappedRam(
		writer.position,
		blocks.map((block) => ({
			entrySize: 1 + block.idstr.length + 8 + (block.address === undefined ? 0 : 8),
			usedLength: block.usedLength,
			ignored: isIgnored(image, block),
		})),
	);
	const buffer = new Uint8Array(PIECE);
	for (const [i, block] of blocks.entries()) {
		const place = plan[i];
		if (place === undefined) continue;
		const { idstr, usedLength, address } = block;
		const mapped = {
			version: 1,
			pageSize: BigInt(PAGE_SIZE),
			bitmapOffset: BigInt(place.bitmapOffset),
			pagesOffset: BigInt(place.pagesOffset),
		};
		const entry = { idstr, usedLength, ...(address === undefined ? {} : { address }), mapped };
		writer.mappedBlock(entry, bitmapOf(block, place.bitmapSize));
		if (place.bitmapSize === 0) continue;
		await fill(writer, place.pagesOffset);
		for (const { kind, start, end } of block.facts.runs()) {
			if (isMissing(kind) || isZeroKind(kind)) {
				await fill(writer, place.pagesOffset + end * PAGE_SIZE);
				continue;
			}
			for (let at = start * PAGE_SIZE; at < end * PAGE_SIZE; at += PIECE) {
				const data = buffer.subarray(0, Math.min(PIECE, end * PAGE_SIZE - at));
				store.read(block.index, at, data);
				writer.mappedGap(data);
				await writer.ready();
			}
		}
	}
}

/** A bit per page with content. */
function bitmapOf(block: ImageBlock, size: number): Uint8Array {
	const bits = new MappedRamBitmap(new Uint8Array(size));
	if (size === 0) return bits.bytes;
	for (const { kind, start, end } of block.facts.runs()) {
		if (isMissing(kind) || isZeroKind(kind)) continue;
		for (let page = start; page < end; page++) bits.add(page);
	}
	return bits.bytes;
}

/** Zeros up to an offset of the stream. */
async function fill(writer: StreamWriter, to: number): Promise<void> {
	while (writer.position < to) {
		writer.mappedGap(ZEROS.subarray(0, Math.min(PIECE, to - writer.position)));
		await writer.ready();
	}
}
