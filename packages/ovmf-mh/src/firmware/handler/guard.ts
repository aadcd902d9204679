import { isAligned, PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, HandlerAllocations, PublishedGeometry } from '../../geometry.js';
import type { HandlerDefects } from './defects.js';
import { POOL_BYTES } from './page-tables.js';

/** Bytes that the posted guard of the stack covers: the variable counts pages. */
const STACK_PAGES = 4;
/** Pages that the posted guard of the page tables covers, from the top table on. */
const TABLE_PAGES = 11;
const POOL_HEADER_BYTES = PAGE_SIZE;

const from = (start: number, bytes: number): GpaRange => ({ start, end: start + bytes });

/**
 * What a restore must not touch, as the loop works it out when it starts (edk2 branch sev-mirror2-patches, "Don't overwrite
 * mailbox or pagetables", "Don't overwrite MH stack").
 */
export const mailboxGuard = ({ mailboxGuardLength }: HandlerDefects): GpaRange =>
	from(
		PublishedGeometry.mailbox,
		mailboxGuardLength === 'asPosted' ? PublishedGeometry.skippedBytes : PublishedGeometry.mailboxBytes,
	);

/** @param root address of the top table with the C-bit in it; below 2^53 */
export function tableGuard(
	{ tableGuardAddress, tableGuardLength }: HandlerDefects,
	root: number,
	mask: bigint,
): GpaRange {
	const start = tableGuardAddress === 'asPosted' ? root : Number(BigInt(root) & ~mask);
	if (tableGuardLength === 'asPosted') return from(start, TABLE_PAGES * PAGE_SIZE);
	return from(start - POOL_HEADER_BYTES, POOL_BYTES);
}

/** @param base lowest address of the stack */
export const stackGuard = ({ stackGuardLength }: HandlerDefects, base: number): GpaRange =>
	from(base, stackGuardLength === 'asPosted' ? STACK_PAGES : STACK_PAGES * PAGE_SIZE);

/** Entry page and variables; nothing as posted. */
export const imageGuards = ({ imageGuard }: HandlerDefects): readonly GpaRange[] =>
	imageGuard === 'asPosted'
		? []
		: [
				from(PublishedGeometry.entry, PublishedGeometry.entryBytes),
				from(HandlerAllocations.data, HandlerAllocations.dataBytes),
			];

/** Whether a page at an address, unsigned, is refused for a range. */
export const isInside = ({ guardRange }: HandlerDefects, gpa: number, { start, end }: GpaRange): boolean =>
	guardRange === 'asPosted' ? gpa >= start && gpa < end : gpa < end && gpa + PAGE_SIZE > start;

/** What does not depend on a range: alignment, and being RAM, which begins at 0. */
export const isRefusedAnyway = ({ guardRange, addressCheck }: HandlerDefects, gpa: number, ramEnd: number): boolean =>
	(guardRange === 'fixed' && !isAligned(gpa, PAGE_SIZE)) || (addressCheck === 'fixed' && gpa + PAGE_SIZE > ramEnd);
