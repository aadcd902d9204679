import { PAGE_SIZE } from '@cvm/layout';
import { type GuestPages, pageOfFrame, touch } from './pages.js';

/**
 * The echo device answers a request in place: every byte of the page becomes its complement. A frame that the guest did not share is left
 * alone, as is one without RAM; the guest sees that in its answer.
 */
export function echo(pages: GuestPages, gfn: number): void {
	const place = pageOfFrame(pages.blocks, gfn);
	const memory = place && pages.blocks[place.block]?.mapping.bytes;
	if (!place || !memory || (pages.confidential && !pages.shared.has(gfn))) return;
	const page = memory.subarray(place.page * PAGE_SIZE, (place.page + 1) * PAGE_SIZE);
	for (let i = 0; i < page.length; i++) page[i] = ~(page[i] ?? 0);
	touch(pages, gfn);
}
