/** Advance of a character, in units of a drawing; capitals are 7 high. */
export const CHARACTER = 6;

/** Red, green and blue in the low 24 bits. */
export type Colour = number;

/** A picture before it takes a form: rectangles, text, and grids of coloured cells. Units are a CSS pixel each. */
export interface Drawing {
	readonly width: number;
	readonly height: number;
	readonly rectangles: readonly Rectangle[];
	readonly grids: readonly Grid[];
	readonly labels: readonly Label[];
}

export interface Rectangle {
	readonly x: number;
	readonly y: number;
	readonly width: number;
	readonly height: number;
	readonly colour: Colour;
}

/** Cells in rows; a last row may be short. */
export interface Grid {
	readonly x: number;
	readonly y: number;
	readonly columns: number;
	readonly cellWidth: number;
	readonly cellHeight: number;
	readonly cells: Uint32Array;
}

/** ASCII text; `y` is where it stands on. */
export interface Label {
	readonly x: number;
	readonly y: number;
	readonly text: string;
	readonly align: 'start' | 'end';
	readonly bold?: boolean;
}

/** Mixes colours by weight. */
export function blend(parts: readonly (readonly [colour: Colour, weight: number])[]): Colour {
	let [red, green, blue, total] = [0, 0, 0, 0];
	for (const [colour, weight] of parts) {
		red += weight * (colour >> 16);
		green += weight * ((colour >> 8) & 0xff);
		blue += weight * (colour & 0xff);
		total += weight;
	}
	if (total === 0) return 0xffffff;
	return (Math.round(red / total) << 16) | (Math.round(green / total) << 8) | Math.round(blue / total);
}

/** A colour on a scale of evenly spaced ones. @param at 0 to 1 */
export function onScale(scale: readonly Colour[], at: number): Colour {
	// Few steps keep pictures small, and nobody sees more.
	const place = (Math.round(Math.min(1, Math.max(0, at)) * 32) / 32) * (scale.length - 1);
	const low = Math.min(scale.length - 2, Math.floor(place));
	const part = place - low;
	return blend([
		[scale[low] ?? 0, 1 - part],
		[scale[low + 1] ?? 0, part],
	]);
}
