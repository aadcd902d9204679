import { PAGE_SIZE } from '@cvm/layout';
import {
	blend,
	CHARACTER,
	type Colour,
	type Drawing,
	type Grid,
	type Label,
	onScale,
	type Rectangle,
} from './drawing.js';
import {
	type BlockPages,
	CHUNK_PAGES,
	kindCounts,
	PAGE_KINDS,
	type PageChunk,
	type PageKind,
	type PageTable,
} from './pages.js';
import { hex, printable, size } from './text.js';

const COLOURS: Readonly<Record<PageKind, Colour>> = {
	never: 0xd8d8d8,
	zero: 0xf3e6c4,
	raw: 0x0072b2,
	xbzrle: 0xe69f00,
	zlib: 0x009e73,
	multifd: 0x56b4e9,
	encrypted: 0xd55e00,
	helper: 0xcc79a7,
	absent: 0xf3e6c4,
};
const UNKNOWN: Colour = 0xd8d8d8;
const FRAME: Colour = 0x9a9a9a;
const OFTEN: readonly Colour[] = [0xfff3bf, 0xfec44f, 0xe8590c, 0x7f1d1d];
const ENTROPY: readonly Colour[] = [0x440154, 0x3b528b, 0x21918c, 0x5ec962, 0xfde725];

const PANEL = 384;
const GAP = 36;
const LEFT = 84;
const MARGIN = 16;
const LINE = 14;
/** Cells in a column of a panel at most. */
const MOST_ROWS = 128;
/** Blocks that are drawn; others are too many to look at. */
const MOST_BLOCKS = 64;
const TITLES = ['kind of page', 'times sent', 'entropy, bits per byte'] as const;

/** How a block is cut into cells. */
interface Cut {
	readonly block: BlockPages;
	readonly pagesPerCell: number;
	readonly columns: number;
	readonly rows: number;
	readonly cells: number;
	readonly cellWidth: number;
	readonly cellHeight: number;
}

/** Draws memory: for each block, page after page from left to right and from top to bottom, three panels. */
export function drawMap(pages: PageTable, title: string): Drawing {
	const blocks = [...pages.blocks.values()].filter((block) => block.pages > 0);
	const cuts = blocks.slice(0, MOST_BLOCKS).map(cutOf);
	const most = Math.max(1, ...cuts.map(mostSent));
	const sheet = new Sheet();
	sheet.label(MARGIN, 22, `memory of ${printable(title)}`, true);
	let y = 44;
	TITLES.forEach((text, i) => {
		sheet.label(panelX(i), y, text, true);
	});
	y += 8;
	y += Math.max(kindLegend(sheet, y, blocks), scales(sheet, y, most)) + 22;
	for (const cut of cuts) y += drawBlock(sheet, y, cut, most);
	if (blocks.length > cuts.length) {
		sheet.label(MARGIN, y, `${blocks.length - cuts.length} more blocks are not drawn`);
		y += LINE;
	}
	return sheet.drawing(panelX(2) + PANEL + GAP, y + 4);
}

const panelX = (i: number): number => LEFT + i * (PANEL + GAP);

/** What is put on a picture. */
class Sheet {
	readonly rectangles: Rectangle[] = [];
	readonly grids: Grid[] = [];
	readonly labels: Label[] = [];

	label(x: number, y: number, text: string, bold = false, align: Label['align'] = 'start'): void {
		this.labels.push({ x, y, text, align, bold });
	}

	box(x: number, y: number, width: number, height: number, colour: Colour): void {
		this.rectangles.push({ x, y, width, height, colour });
	}

	drawing(width: number, height: number): Drawing {
		return { width, height, rectangles: this.rectangles, grids: this.grids, labels: this.labels };
	}
}

function cutOf(block: BlockPages): Cut {
	const { pages } = block;
	const columns = pages > 64 * 64 ? 128 : 64;
	let pagesPerCell = 1;
	while (pages / pagesPerCell > columns * MOST_ROWS) pagesPerCell *= 2;
	const cells = Math.ceil(pages / pagesPerCell);
	const rows = Math.ceil(cells / columns);
	const cellWidth = PANEL / columns;
	return { block, pagesPerCell, columns, rows, cells, cellWidth, cellHeight: rows < 4 ? 2 * cellWidth : cellWidth };
}

function mostSent({ block }: Cut): number {
	let most = 0;
	for (const { sent } of block.chunks.values()) for (const times of sent) most = Math.max(most, times);
	return most;
}

/** @returns its height */
function kindLegend(sheet: Sheet, top: number, blocks: readonly BlockPages[]): number {
	const used = new Set<PageKind>(blocks.flatMap(({ records }) => Object.keys(kindCounts(records)) as PageKind[]));
	if (blocks.some((block) => block.distinct < block.pages && !used.has('absent'))) used.add('never');
	const [x, width] = [panelX(0), 96];
	const items = PAGE_KINDS.filter((kind) => used.has(kind));
	items.forEach((kind, i) => {
		const [left, y] = [x + width * (i % 4), top + LINE * Math.floor(i / 4)];
		sheet.box(left, y, 9, 9, FRAME);
		sheet.box(left + 1, y + 1, 7, 7, COLOURS[kind]);
		sheet.label(left + 14, y + 8, kind === 'never' ? 'never sent' : kind);
	});
	return LINE * Math.ceil(items.length / 4);
}

/** @returns their height */
function scales(sheet: Sheet, top: number, most: number): number {
	const width = 160;
	const bar = (panel: number, scale: readonly Colour[], from: string, to: string, unknown: string) => {
		const x = panelX(panel);
		const after = x + CHARACTER * (from.length + 1);
		sheet.label(x, top + 8, from);
		for (let i = 0; i < 32; i++) sheet.box(after + (i * width) / 32, top, width / 32, 9, onScale(scale, i / 31));
		sheet.label(after + width + CHARACTER, top + 8, to);
		const far = after + width + CHARACTER * (to.length + 3);
		sheet.box(far, top, 9, 9, FRAME);
		sheet.box(far + 1, top + 1, 7, 7, UNKNOWN);
		sheet.label(far + 14, top + 8, unknown);
	};
	bar(1, OFTEN, '1', most >= 255 ? '255 or more' : `${most}`, 'never');
	bar(2, ENTROPY, '0', '8', 'unknown');
	return LINE;
}

/** @returns the height taken */
function drawBlock(sheet: Sheet, top: number, cut: Cut, most: number): number {
	const { block, pagesPerCell, columns, rows, cellHeight } = cut;
	const per = pagesPerCell === 1 ? 'a cell is a page' : `a cell is ${pagesPerCell} pages`;
	const bytes = block.listed === undefined ? '' : `, ${size(block.listed.usedLength)}`;
	sheet.label(MARGIN, top, `${printable(block.idstr).slice(0, 80)}${bytes}: ${per}`, true);
	const y = top + 8;
	const height = rows * cellHeight;
	const cells = colourCells(cut, most);
	cells.forEach((colours, i) => {
		const x = panelX(i);
		frame(sheet, x - 1, y - 1, PANEL + 2, height + 2);
		const { cellWidth } = cut;
		sheet.grids.push({ x, y, columns, cellWidth, cellHeight, cells: colours });
	});
	rowLabels(sheet, y, cut);
	const row = columns * pagesPerCell * PAGE_SIZE;
	sheet.label(panelX(0), y + height + 12, '+0');
	sheet.label(panelX(0) + PANEL, y + height + 12, `+${hex(row - 1)} in a row`, false, 'end');
	return height + 44;
}

function frame(sheet: Sheet, x: number, y: number, width: number, height: number): void {
	sheet.box(x, y, width, 1, FRAME);
	sheet.box(x, y + height - 1, width, 1, FRAME);
	sheet.box(x, y, 1, height, FRAME);
	sheet.box(x + width - 1, y, 1, height, FRAME);
}

/** Offsets in the block, at rows that have a round one. */
function rowLabels(sheet: Sheet, top: number, { columns, rows, pagesPerCell, cellHeight }: Cut): void {
	let step = 1;
	while (step * cellHeight < 24) step *= 2;
	for (let row = 0; row < rows; row += step) {
		const y = top + row * cellHeight;
		sheet.box(panelX(0) - 5, y, 4, 1, FRAME);
		sheet.label(panelX(0) - 8, y + 7, hex(row * columns * pagesPerCell * PAGE_SIZE), false, 'end');
	}
}

/** The three panels of a block. */
function colourCells(cut: Cut, most: number): readonly Uint32Array[] {
	const panels = [0, 1, 2].map(() => new Uint32Array(cut.cells)) as [Uint32Array, Uint32Array, Uint32Array];
	const sums = addUp(cut);
	for (let cell = 0; cell < cut.cells; cell++) {
		const [sent = 0, known = 0, entropy = 0] = [sums.sent[cell], sums.known[cell], sums.entropy[cell]];
		const often = Math.log2(sent) / Math.log2(Math.max(2, most));
		panels[0][cell] = kindColour(sums.kinds.subarray(cell * PAGE_KINDS.length, (cell + 1) * PAGE_KINDS.length));
		panels[1][cell] = sent === 0 ? UNKNOWN : onScale(OFTEN, often);
		panels[2][cell] = known === 0 ? UNKNOWN : onScale(ENTROPY, entropy / known / 8);
	}
	return panels;
}

/** What the pages of each cell come to. */
interface Sums {
	/** Pages by kind, for each cell. */
	readonly kinds: Float64Array;
	/** The most that a page was sent. */
	readonly sent: Uint8Array;
	/** Sum of entropies, in bits a byte, of pages for which it is known. */
	readonly entropy: Float64Array;
	readonly known: Uint32Array;
}

/** Goes over what has marks: a block may claim any length. */
function addUp({ block, pagesPerCell, cells }: Cut): Sums {
	const sums: Sums = {
		kinds: new Float64Array(cells * PAGE_KINDS.length),
		sent: new Uint8Array(cells),
		entropy: new Float64Array(cells),
		known: new Uint32Array(cells),
	};
	for (let cell = 0; cell < cells; cell++) {
		sums.kinds[cell * PAGE_KINDS.length] = Math.min(pagesPerCell, block.pages - cell * pagesPerCell);
	}
	for (const [number, chunk] of block.chunks) {
		const first = number * CHUNK_PAGES;
		const count = Math.min(CHUNK_PAGES, block.pages - first);
		for (let i = 0; i < count; i++) addPage(sums, Math.floor((first + i) / pagesPerCell), chunk, i);
	}
	return sums;
}

function addPage({ kinds, sent, entropy, known }: Sums, cell: number, chunk: PageChunk, i: number): void {
	const never = cell * PAGE_KINDS.length;
	const kind = never + (chunk.kind[i] ?? 0);
	kinds[never] = (kinds[never] ?? 0) - 1;
	kinds[kind] = (kinds[kind] ?? 0) + 1;
	sent[cell] = Math.max(sent[cell] ?? 0, chunk.sent[i] ?? 0);
	const mark = chunk.entropy?.[i] ?? 0;
	if (mark === 0) return;
	entropy[cell] = (entropy[cell] ?? 0) + (mark - 1) / 31;
	known[cell] = (known[cell] ?? 0) + 1;
}

/** The colours of a cell's pages, mixed in sixteenths. */
function kindColour(counts: Float64Array): Colour {
	const total = counts.reduce((sum, count) => sum + count, 0);
	return blend(PAGE_KINDS.map((kind, i) => [COLOURS[kind], Math.ceil((16 * (counts[i] ?? 0)) / Math.max(1, total))]));
}
