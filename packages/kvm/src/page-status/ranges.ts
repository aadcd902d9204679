/** A half-open range of guest frames. */
export interface FrameRange {
	readonly gfnStart: number;
	readonly gfnEnd: number;
}

/** The same frames in one way only: sorted, disjoint, none empty, none that touch. */
export function coalesce(ranges: readonly FrameRange[]): FrameRange[] {
	const out: { gfnStart: number; gfnEnd: number }[] = [];
	for (const { gfnStart, gfnEnd } of [...ranges].sort((a, b) => a.gfnStart - b.gfnStart)) {
		if (gfnStart >= gfnEnd) continue;
		const last = out.at(-1);
		if (last !== undefined && gfnStart <= last.gfnEnd) last.gfnEnd = Math.max(last.gfnEnd, gfnEnd);
		else out.push({ gfnStart, gfnEnd });
	}
	return out;
}

/** `ranges` without the frames of one range. The order stays. */
export function cut(ranges: readonly FrameRange[], { gfnStart, gfnEnd }: FrameRange): FrameRange[] {
	const out: FrameRange[] = [];
	for (const range of ranges) {
		if (range.gfnEnd <= gfnStart || range.gfnStart >= gfnEnd) {
			out.push(range);
			continue;
		}
		if (range.gfnStart < gfnStart) out.push({ gfnStart: range.gfnStart, gfnEnd: gfnStart });
		if (range.gfnEnd > gfnEnd) out.push({ gfnStart: gfnEnd, gfnEnd: range.gfnEnd });
	}
	return out;
}
