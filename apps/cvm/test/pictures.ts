/** Pictures back into pixels: PNG by its own rules, SVG as far as maps use it. */
import { inflateSync } from 'node:zlib';

/** Rows of pixels, red, green and blue in 24 bits each. */
export interface Pixels {
	readonly width: number;
	readonly height: number;
	readonly data: Uint32Array;
}

/** A PNG of 8-bit RGB without filters, as ours are. */
export function pixelsOfPng(png: Buffer): Pixels {
	const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
	const parts: Buffer[] = [];
	for (let at = 8; at < png.length; ) {
		const length = png.readUInt32BE(at);
		if (png.toString('latin1', at + 4, at + 8) === 'IDAT') parts.push(png.subarray(at + 8, at + 8 + length));
		at += 12 + length;
	}
	const rows = inflateSync(Buffer.concat(parts));
	const data = new Uint32Array(width * height);
	for (let y = 0; y < height; y++) {
		const row = y * (1 + 3 * width);
		if (rows[row] !== 0) throw new Error(`PNG: expected filter 0, got ${rows[row]}`);
		for (let x = 0; x < width; x++) data[y * width + x] = rows.readUIntBE(row + 1 + 3 * x, 3);
	}
	return { width, height, data };
}

/** A box of a picture, in units. */
interface Box {
	readonly x: number;
	readonly y: number;
	readonly width: number;
	readonly height: number;
}

/** A map's SVG, painted in the order of the file; texts are not, but told. */
export function pixelsOfSvg(svg: string, scale: number): Pixels & { readonly texts: readonly Box[] } {
	const [, w, h] = /<svg [^>]*width="(\d+)" height="(\d+)"/.exec(svg) ?? [];
	const [width, height] = [Number(w) * scale, Number(h) * scale];
	const data = new Uint32Array(width * height);
	const paint = ({ x, y, width: across, height: down }: Box, colour: number): void => {
		const [left, right] = [Math.round(x * scale), Math.min(width, Math.round((x + across) * scale))];
		const bottom = Math.min(height, Math.round((y + down) * scale));
		for (let row = Math.round(y * scale); row < bottom; row++) {
			data.fill(colour, row * width + left, row * width + right);
		}
	};
	for (const [, name, rest = ''] of svg.matchAll(/<(\w+)([^>]*)>/g)) {
		const of = (attribute: string): string => new RegExp(` ${attribute}="([^"]*)"`).exec(rest)?.[1] ?? '';
		const numbers = (): Box => ({
			...{ x: Number(of('x')), y: Number(of('y')) },
			...{ width: Number(of('width')), height: Number(of('height')) },
		});
		const colour = Number.parseInt(of('fill').slice(1), 16);
		if (name === 'rect') paint(numbers(), colour);
		else if (name === 'path') for (const box of boxesOf(of('d'))) paint(box, colour);
		else if (!['svg', 'g', 'text'].includes(name ?? '')) throw new Error(`SVG: expected nothing else, got <${name}>`);
	}
	return { width, height, data, texts: textsOf(svg) };
}

/** Each `M x y h w v h h -w z` is a box. */
function boxesOf(path: string): Box[] {
	const boxes = [...path.matchAll(/M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-([\d.]+)z/g)];
	if (boxes.map(([text]) => text).join('') !== path) throw new Error('SVG: expected a path of boxes');
	return boxes.map(([, x, y, width, height, back]) => {
		if (width !== back) throw new Error(`SVG: expected a box, got ${width} there and ${back} back`);
		return { x: Number(x), y: Number(y), width: Number(width), height: Number(height) };
	});
}

/** Where texts may leave ink: characters are 6 wide and 8 high, and stand on their y. */
function textsOf(svg: string): Box[] {
	return [...svg.matchAll(/<text x="([\d.]+)" y="([\d.]+)"([^>]*)>([^<]*)<\/text>/g)].map(
		([, x, y, rest, text = '']) => {
			const width = text.replace(/&#\d+;/g, '?').length * 6 + 2;
			const left = rest?.includes('text-anchor="end"') ? Number(x) - width + 2 : Number(x);
			return { x: left, y: Number(y) - 8, width, height: 10 };
		},
	);
}
