import { crc32, deflateSync } from 'node:zlib';
import type { Colour, Drawing, Label } from './drawing.js';
import { CHARACTER } from './drawing.js';
import { GLYPH_COLUMNS, GLYPH_ROWS, glyphOf } from './font.js';

/** Pixels of a unit, so that text is fine enough. */
const SCALE = 2;
const INK: Colour = 0x222222;

/** A drawing as PNG, 8 bits a channel. */
export function pngOf({ width, height, rectangles, grids, labels }: Drawing): Uint8Array {
	const canvas = new Canvas(width * SCALE, height * SCALE);
	for (const { x, y, width: w, height: h, colour } of rectangles) canvas.box(x, y, w, h, colour);
	for (const { x, y, columns, cellWidth, cellHeight, cells } of grids) {
		cells.forEach((colour, i) => {
			const [left, top] = [x + (i % columns) * cellWidth, y + Math.floor(i / columns) * cellHeight];
			canvas.box(left, top, cellWidth, cellHeight, colour);
		});
	}
	for (const label of labels) canvas.text(label);
	return canvas.png();
}

class Canvas {
	readonly #width: number;
	readonly #height: number;
	/** Rows as PNG stores them: a filter byte, then three bytes a pixel. */
	readonly #rows: Uint8Array;

	constructor(width: number, height: number) {
		this.#width = width;
		this.#height = height;
		this.#rows = new Uint8Array((1 + 3 * width) * height).fill(0xff);
		for (let y = 0; y < height; y++) this.#rows[y * (1 + 3 * width)] = 0;
	}

	/** In units. */
	box(x: number, y: number, width: number, height: number, colour: Colour): void {
		const right = Math.min(this.#width, Math.round((x + width) * SCALE));
		const bottom = Math.min(this.#height, Math.round((y + height) * SCALE));
		for (let row = Math.max(0, Math.round(y * SCALE)); row < bottom; row++) {
			for (let column = Math.max(0, Math.round(x * SCALE)); column < right; column++) this.#dot(column, row, colour);
		}
	}

	text({ x, y, text, align, bold }: Label): void {
		const left = align === 'end' ? x - text.length * CHARACTER : x;
		Array.from(text).forEach((character, i) => {
			glyphOf(character).forEach((bits, row) => {
				for (let column = 0; column < GLYPH_COLUMNS; column++) {
					if (((bits >> (GLYPH_COLUMNS - 1 - column)) & 1) === 0) continue;
					this.box(left + i * CHARACTER + column, y - GLYPH_ROWS + row, bold ? 1.5 : 1, 1, INK);
				}
			});
		});
	}

	#dot(x: number, y: number, colour: Colour): void {
		const at = y * (1 + 3 * this.#width) + 1 + 3 * x;
		this.#rows[at] = colour >> 16;
		this.#rows[at + 1] = colour >> 8;
		this.#rows[at + 2] = colour;
	}

	png(): Uint8Array {
		const header = new DataView(new ArrayBuffer(13));
		header.setUint32(0, this.#width);
		header.setUint32(4, this.#height);
		// 8 bits a channel, red green blue; no other method of compression, filter or interlace is used.
		header.setUint8(8, 8);
		header.setUint8(9, 2);
		const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
		const parts = [chunk('IHDR', new Uint8Array(header.buffer)), chunk('IDAT', deflateSync(this.#rows)), chunk('IEND')];
		return Buffer.concat([signature, ...parts]);
	}
}

/** A chunk: length, type, data, and a check of type and data. PNG specification, third edition, 5.3. */
function chunk(type: string, data: Uint8Array = new Uint8Array(0)): Uint8Array {
	const out = Buffer.alloc(12 + data.length);
	out.writeUInt32BE(data.length);
	out.write(type, 4, 'latin1');
	out.set(data, 8);
	out.writeUInt32BE(crc32(out.subarray(4, 8 + data.length)), 8 + data.length);
	return out;
}
