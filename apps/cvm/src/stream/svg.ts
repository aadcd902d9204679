import type { Colour, Drawing, Grid } from './drawing.js';

const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const code = (colour: Colour): string => `#${colour.toString(16).padStart(6, '0')}`;

/** A drawing as SVG. */
export function svgOf({ width, height, rectangles, grids, labels }: Drawing): string {
	return [
		`<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
		`<rect width="${width}" height="${height}" fill="#ffffff"/>`,
		...rectangles.map((r) => `<rect ${box(r)} fill="${code(r.colour)}"/>`),
		...grids.flatMap(paths),
		'<g font-family="monospace" font-size="10" fill="#222222">',
		...labels.map(
			({ x, y, text, align, bold }) =>
				`<text x="${x}" y="${y}"${align === 'end' ? ' text-anchor="end"' : ''}${bold ? ' font-weight="bold"' : ''}>${escaped(text)}</text>`,
		),
		'</g>',
		'</svg>',
		'',
	].join('\n');
}

const box = (r: { x: number; y: number; width: number; height: number }): string =>
	`x="${r.x}" y="${r.y}" width="${r.width}" height="${r.height}"`;

/** A path for each colour, of the runs of equal cells. */
function paths({ x, y, columns, cellWidth, cellHeight, cells }: Grid): string[] {
	const byColour = new Map<Colour, string[]>();
	for (let at = 0; at < cells.length; ) {
		const colour = cells[at] ?? 0;
		const rowEnd = Math.min(cells.length, at - (at % columns) + columns);
		let end = at + 1;
		while (end < rowEnd && cells[end] === colour) end++;
		const runs = byColour.get(colour) ?? [];
		byColour.set(colour, runs);
		const [left, top] = [x + (at % columns) * cellWidth, y + Math.floor(at / columns) * cellHeight];
		const width = (end - at) * cellWidth;
		runs.push(`M${left} ${top}h${width}v${cellHeight}h${-width}z`);
		at = end;
	}
	return [...byColour].map(
		([colour, runs]) => `<path shape-rendering="crispEdges" fill="${code(colour)}" d="${runs.join('')}"/>`,
	);
}
