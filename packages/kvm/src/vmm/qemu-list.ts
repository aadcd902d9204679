import type { FrameRange } from '../page-status/ranges.js';

/*
 * The shared-region list of the public QEMU branches (AMDESE/qemu, sev_live_migration_v4 and _v4_1, target/i386/sev.c), with
 * its two traps: entries may overlap, and removing stops early.
 */

/** A range inside an entry changes nothing; one that begins in an entry, or at its end, moves that entry's end. */
export function addAsQemu(list: readonly FrameRange[], range: FrameRange): readonly FrameRange[] {
	for (const [i, entry] of list.entries()) {
		const begins = entry.gfnStart <= range.gfnStart;
		if (begins && entry.gfnEnd >= range.gfnEnd) return list;
		// What the entry now runs into stays as it is.
		if (begins && range.gfnStart <= entry.gfnEnd) {
			return list.with(i, { gfnStart: entry.gfnStart, gfnEnd: range.gfnEnd });
		}
		if (entry.gfnEnd >= range.gfnStart) return list.toSpliced(i, 0, range);
	}
	return [...list, range];
}

/** Cuts entries in their order, up to the first one that ends at or behind the range: later ones may still list frames of it. */
export function removeAsQemu(list: readonly FrameRange[], { gfnStart, gfnEnd }: FrameRange): readonly FrameRange[] {
	const out: FrameRange[] = [];
	for (const [i, entry] of list.entries()) {
		if (entry.gfnEnd <= gfnStart || entry.gfnStart >= gfnEnd) {
			out.push(entry);
		} else {
			if (entry.gfnStart < gfnStart) out.push({ gfnStart: entry.gfnStart, gfnEnd: gfnStart });
			if (entry.gfnEnd > gfnEnd) out.push({ gfnStart: gfnEnd, gfnEnd: entry.gfnEnd });
		}
		if (entry.gfnEnd >= gfnEnd) return [...out, ...list.slice(i + 1)];
	}
	return out;
}
