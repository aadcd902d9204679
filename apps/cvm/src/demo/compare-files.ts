import { open } from 'node:fs/promises';

const PAGE = 4096;
const PIECE = 1 << 20;

/** Offsets of the pages in which two files differ, ascending; what one of them lacks is different. They are not read whole. */
export async function differingPages(one: string, other: string): Promise<number[]> {
	const files = [await open(one), await open(other)] as const;
	try {
		const pieces = files.map(() => Buffer.alloc(PIECE));
		const differing: number[] = [];
		for (let at = 0; ; at += PIECE) {
			const [a, b] = await Promise.all(
				files.map(async (file, i) => {
					const piece = pieces[i] ?? Buffer.alloc(0);
					return piece.subarray(0, (await file.read(piece, 0, PIECE, at)).bytesRead);
				}),
			);
			if (!a || !b || a.length + b.length === 0) return differing;
			for (let page = 0; page < Math.max(a.length, b.length); page += PAGE) {
				if (!a.subarray(page, page + PAGE).equals(b.subarray(page, page + PAGE))) differing.push(at + page);
			}
		}
	} finally {
		await Promise.all(files.map((file) => file.close()));
	}
}
