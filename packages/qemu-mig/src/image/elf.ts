import { PAGE_SIZE } from '@cvm/layout';
import type { ImageBlock, StreamImage } from './content.js';
import { encodeNotes } from './elf-notes.js';
import { ImageError } from './error.js';
import { memoryMap } from './memory-map.js';
import type { PagePolicy } from './pages.js';
import { blockOf, checkPages, storeOf } from './pages.js';
import type { FilePiece, SparseOutput } from './sparse.js';
import { blockPieces } from './sparse.js';

/** Options of {@link elfCore}. */
export interface ElfOptions extends PagePolicy {
	/**
	 * Blocks of main memory in ascending guest-physical order. Default: `pc.ram`, `microvm.ram`, or the largest block (a
	 * memory backend, whose name is its id). With several NUMA nodes, name their backends.
	 */
	readonly memory?: readonly string[];
	/** Bytes of main memory below 4 GiB, for a machine with `max-ram-below-4g` or one not known here. */
	readonly below4g?: number;
	/**
	 * Blocks that are not main memory: ROMs, flash, video memory. The stream does not say where the guest sees them. `omit`
	 * (default): they are only named in the note `CVM`. `segments`: each is a segment at a made-up physical address from 2^56
	 * on, where no guest has memory.
	 */
	readonly others?: 'omit' | 'segments';
	/** Whether registers of described CPUs become notes. Default true. */
	readonly cpus?: boolean;
}

/** A PT_LOAD segment. */
export interface ElfSegment {
	readonly block: string;
	/** Byte of the block. */
	readonly start: number;
	readonly length: number;
	/** Guest-physical address, which is its virtual address too, so that GDB can read it. */
	readonly address: bigint;
	/** Byte of the core. */
	readonly offset: number;
}

/** An ELF core: what it is made of, and the file. */
export interface ElfCore extends SparseOutput {
	readonly segments: readonly ElfSegment[];
}

const HEADER = 64;
const PROGRAM_HEADER = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;
/** Where blocks of unknown place go, 2^40 apart. */
const NOWHERE = 1n << 56n;
const NOWHERE_STEP = 1n << 40n;

/**
 * Guest memory as an ELF64 core for x86-64 with physical addresses, as `dump-guest-memory` of QEMU makes it without paging:
 * `crash`, GDB and memory-forensics tools read it. Segments are page-aligned in the file, so that it can be sparse.
 *
 * @throws ImageError `argument` for a machine not known here, `missing-pages`, `encrypted`, `store`
 */
export function elfCore(image: StreamImage, options: ElfOptions = {}): ElfCore {
	storeOf(image);
	const memory = mainMemory(image, options.memory);
	const others = options.others === 'segments' ? image.blocks.filter((block) => !memory.includes(block)) : [];
	for (const block of [...memory, ...others]) checkPages(block, options);
	const ranges = [...memoryRanges(image, memory, options.below4g), ...otherRanges(others)];
	const notes = encodeNotes(image, inventory(image, ranges), options.cpus ?? true);
	const noteOffset = HEADER + PROGRAM_HEADER * (ranges.length + 1);
	let offset = aligned(noteOffset + notes.length);
	const placed = ranges.map((range) => {
		const segment: ElfSegment = { ...range, block: range.block.idstr, offset };
		offset = aligned(offset + range.length);
		return { block: range.block, segment };
	});
	const segments = placed.map(({ segment }) => segment);
	const head = encodeHead(segments, noteOffset, notes);
	return {
		segments,
		size: offset,
		*pieces(): Generator<FilePiece, void, void> {
			yield { offset: 0, data: head };
			for (const { block, segment } of placed) {
				yield* blockPieces(image, block, segment.start, segment.start + segment.length, segment.offset);
			}
		},
	};
}

const aligned = (offset: number): number => Math.ceil(offset / PAGE_SIZE) * PAGE_SIZE;

interface Range {
	readonly block: ImageBlock;
	readonly start: number;
	readonly length: number;
	readonly address: bigint;
}

function mainMemory(image: StreamImage, names: readonly string[] | undefined): ImageBlock[] {
	if (names !== undefined) return names.map((name) => blockOf(image, name));
	const usual = image.blocks.find(({ idstr }) => idstr === 'pc.ram' || idstr === 'microvm.ram');
	const sorted = [...image.blocks].sort((a, b) => b.usedLength - a.usedLength);
	const chosen = usual ?? sorted[0];
	return chosen === undefined ? [] : [chosen];
}

/** The blocks one after another, laid over the machine's memory map. */
function memoryRanges(image: StreamImage, memory: readonly ImageBlock[], below4g: number | undefined): Range[] {
	const machine = image.configuration?.machineType ?? '';
	const total = memory.reduce((sum, { usedLength }) => sum + usedLength, 0);
	const map = memoryMap(machine, total, below4g);
	if (map === undefined) {
		const text = `machine '${machine}': expected a known one or the bytes below 4 GiB, for ${total} bytes of RAM`;
		throw new ImageError('argument', text);
	}
	const ranges: Range[] = [];
	let begin = 0;
	for (const block of memory) {
		for (const part of map) {
			const from = Math.max(begin, part.start);
			const to = Math.min(begin + block.usedLength, part.start + part.length);
			if (from >= to) continue;
			const address = BigInt(part.address + from - part.start);
			ranges.push({ block, start: from - begin, length: to - from, address });
		}
		begin += block.usedLength;
	}
	return ranges;
}

const otherRanges = (others: readonly ImageBlock[]): Range[] =>
	others.map((block, i) => ({
		block,
		start: 0,
		length: block.usedLength,
		address: NOWHERE + BigInt(i) * NOWHERE_STEP,
	}));

/** One line per part of a block. */
function inventory(image: StreamImage, ranges: readonly Range[]): string {
	const lines = image.blocks.flatMap((block) => {
		const head = `${block.idstr} ${block.usedLength}`;
		const parts = ranges.filter((range) => range.block === block);
		if (parts.length === 0) return [`${head} omitted`];
		return parts.map(({ start, length, address }) => `${head} ${start}+${length} at 0x${address.toString(16)}`);
	});
	return `${lines.join('\n')}\n`;
}

/** ELF header, program headers and notes. System V ABI; AMD64 supplement. */
function encodeHead(segments: readonly ElfSegment[], noteOffset: number, notes: Uint8Array): Uint8Array {
	const out = new Uint8Array(noteOffset + notes.length);
	const view = new DataView(out.buffer);
	// 64 bits, little-endian, version 1.
	out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
	view.setUint16(16, 4, true); // ET_CORE
	view.setUint16(18, 62, true); // EM_X86_64
	view.setUint32(20, 1, true);
	view.setBigUint64(32, BigInt(HEADER), true);
	view.setUint16(52, HEADER, true);
	view.setUint16(54, PROGRAM_HEADER, true);
	view.setUint16(56, segments.length + 1, true);
	let at = HEADER;
	const program = (type: number, offset: number, address: bigint, length: number, align: number): void => {
		view.setUint32(at, type, true);
		view.setUint32(at + 4, type === PT_LOAD ? 7 : 0, true);
		const words = [BigInt(offset), address, address, BigInt(length), BigInt(length), BigInt(align)];
		for (const [i, word] of words.entries()) view.setBigUint64(at + 8 + 8 * i, word, true);
		at += PROGRAM_HEADER;
	};
	program(PT_NOTE, noteOffset, 0n, notes.length, 4);
	for (const { offset, address, length } of segments) program(PT_LOAD, offset, address, length, PAGE_SIZE);
	out.set(notes, noteOffset);
	return out;
}
