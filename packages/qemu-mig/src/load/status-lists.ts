import { StreamError } from '../error.js';
import type { BitmapSlot, HostRegionList, Place } from '../events.js';
import type { SharedRegion } from '../ports.js';

const PAGE_SHIFT = 12n;

/**
 * The shared pages that a bitmap of `sev-v1` tells of: those of its slots whose bit is clear. AMDESE/qemu
 * `sev_live_migration_v1` target/i386/sev.c `sev_load_incoming_page_enc_bitmap`.
 *
 * @throws StreamError if there are more ranges than `most`, or frames beyond 2^53
 */
export function regionsOfBitmap(slots: readonly BitmapSlot[], most: number, at: Place): SharedRegion[] {
	const out: SharedRegion[] = [];
	for (const { startGpa, pages, bitmap } of slots) {
		const base = frame(startGpa >> PAGE_SHIFT, at);
		const count = frame(pages, at);
		for (let first = nextClear(bitmap, 0, count); first < count; ) {
			let end = first + 1;
			while (end < count && !isSet(bitmap, end)) end++;
			if (out.length >= most)
				throw refused('too-large', `bitmap: expected at most ${most} shared ranges, got more`, at);
			out.push({ gfnStart: base + first, gfnEnd: base + end });
			first = nextClear(bitmap, end, count);
		}
	}
	return out;
}

/** The list of `sev-list`. Without one, nothing is shared. @throws StreamError if there are frames beyond 2^53 */
export const regionsOfHostList = ({ regions }: HostRegionList, at: Place): SharedRegion[] =>
	regions.map(({ gfnStart, gfnEnd }) => ({ gfnStart: frame(gfnStart, at), gfnEnd: frame(gfnEnd, at) }));

const isSet = (bitmap: Uint8Array, page: number): boolean => ((bitmap[page >>> 3] ?? 0) & (1 << (page & 7))) !== 0;

/** Whole bytes of private pages, which most are, are skipped at once. */
function nextClear(bitmap: Uint8Array, from: number, count: number): number {
	let page = from;
	while (page < count) {
		if ((page & 7) === 0 && bitmap[page >>> 3] === 0xff) page += 8;
		else if (isSet(bitmap, page)) page++;
		else return page;
	}
	return count;
}

function frame(value: bigint, at: Place): number {
	const number = Number(value);
	if (Number.isSafeInteger(number)) return number;
	throw refused('record', `shared regions: expected frames below 2^53, got ${value}`, at);
}

const refused = (code: 'too-large' | 'record', message: string, at: Place): StreamError =>
	new StreamError({ code, message }, at);
