import { PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, MAX_RAM } from '../geometry.js';

/**
 * RAM as the firmware records it for the migration helper before any OS runs: the host's RAM entries in whole pages, ascending, without
 * overlaps, below {@link MAX_RAM}.
 */
export function recordableRam(
	entries: readonly { readonly addr: number; readonly size: number; readonly type: number }[],
): GpaRange[] {
	const RAM = 1;
	const ranges = entries
		.filter(({ type }) => type === RAM)
		.map(({ addr, size }) => ({
			start: Math.ceil(addr / PAGE_SIZE) * PAGE_SIZE,
			end: Math.min(MAX_RAM, Math.floor((addr + size) / PAGE_SIZE) * PAGE_SIZE),
		}))
		.filter(({ start, end }) => start < end)
		.sort((a, b) => a.start - b.start);
	const out: { start: number; end: number }[] = [];
	for (const range of ranges) {
		const last = out.at(-1);
		if (last !== undefined && range.start <= last.end) last.end = Math.max(last.end, range.end);
		else out.push({ ...range });
	}
	return out;
}

/**
 * Whether recorded RAM has every byte of a range. The host writes the list: memory that it leaves out is memory that no helper seals
 * or proves, and so there must be none that firmware or kernel use without asking.
 */
export const coversRam = (ram: readonly GpaRange[], from: number, to: number): boolean =>
	ram.some(({ start, end }) => start <= from && end >= to);
