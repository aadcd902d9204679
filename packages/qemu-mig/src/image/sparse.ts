import { PAGE_SIZE } from '@cvm/layout';
import { ZeroTest } from '../precopy/zero-test.js';
import type { ImageBlock, StreamImage } from './content.js';
import type { PagePolicy } from './pages.js';
import { blockOf, checkPages, readsZero, storeOf } from './pages.js';

/** Bytes that follow one another in a file. */
export interface FilePiece {
	readonly offset: number;
	readonly data: Uint8Array;
}

/** A file to be made: of known size, zero where nothing is said. */
export interface SparseOutput {
	/** Bytes. */
	readonly size: number;
	/** What is not zero, ascending, in pieces of at most 1 MiB. Their memory is reused for the next. */
	pieces(): Generator<FilePiece, void, void>;
}

/** Bytes of one piece at most. */
const PIECE = 2 ** 20;

/** The whole of a file in order, zeros included, for a pipe. Chunks are reused for the next. */
export function* dense(output: SparseOutput): Generator<Uint8Array, void, void> {
	const zeros = new Uint8Array(PIECE);
	let at = 0;
	const gap = function* (to: number): Generator<Uint8Array, void, void> {
		for (; at < to; at += Math.min(PIECE, to - at)) yield zeros.subarray(0, Math.min(PIECE, to - at));
	};
	for (const { offset, data } of output.pieces()) {
		yield* gap(offset);
		yield data;
		at = offset + data.length;
	}
	yield* gap(output.size);
}

/** A block's content as a file of `usedLength` bytes. @throws ImageError, see {@link PagePolicy} */
export function rawBlock(image: StreamImage, idstr: string, policy: PagePolicy = {}): SparseOutput {
	const block = blockOf(image, idstr);
	storeOf(image);
	checkPages(block, policy);
	return { size: block.usedLength, pieces: () => blockPieces(image, block, 0, block.usedLength, 0) };
}

/** Pages of a block from byte `from` to `to` that are not zero, as pieces of a file in which byte `from` lies at `offset`. */
export function* blockPieces(
	image: StreamImage,
	block: ImageBlock,
	from: number,
	to: number,
	offset: number,
): Generator<FilePiece, void, void> {
	const store = storeOf(image);
	const buffer = new Uint8Array(PIECE);
	const test = new ZeroTest();
	for (const run of block.facts.runs()) {
		if (readsZero(run)) continue;
		const end = Math.min(run.end * PAGE_SIZE, to);
		for (let at = Math.max(run.start * PAGE_SIZE, from); at < end; at += PIECE) {
			const data = buffer.subarray(0, Math.min(PIECE, end - at));
			store.read(block.index, at, data);
			yield* contents(data, offset + at - from, test);
		}
	}
}

/** The stretches of whole pages that are not zero: what was sent raw may be zero all the same. */
function* contents(data: Uint8Array, offset: number, test: ZeroTest): Generator<FilePiece, void, void> {
	let start = -1;
	for (let at = 0; at < data.length; at += PAGE_SIZE) {
		const zero = test.isZero(data.subarray(at, at + PAGE_SIZE));
		if (!zero && start < 0) start = at;
		if (!zero || start < 0) continue;
		yield { offset: offset + start, data: data.subarray(start, at) };
		start = -1;
	}
	if (start >= 0) yield { offset: offset + start, data: data.subarray(start) };
}
