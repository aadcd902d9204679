/** What the last record of a page was. */
export const PageKind = {
	/** None came. */
	unsent: 0,
	/** PAGE. */
	raw: 1,
	/** ZERO. */
	zero: 2,
	/** ZERO with a fill byte other than 0, which QEMU accepts but does not send. */
	filled: 3,
	xbzrle: 4,
	/** COMPRESS_PAGE. */
	zlib: 5,
	/** In the payload of a multifd packet. */
	multifd: 6,
	/** Named zero by a multifd packet (QEMU >= 9.0). */
	multifdZero: 7,
	/** Sealed by the platform firmware: content is ciphertext. */
	encrypted: 8,
	/** Sealed by a migration helper in the guest. */
	helper: 9,
	/** Present in a mapped-ram file. */
	mapped: 10,
	/** Absent from a mapped-ram file, which means zero. */
	absent: 11,
	/** Dropped by POSTCOPY_RAM_DISCARD and not sent again. */
	discarded: 12,
} as const;
export type PageKind = (typeof PageKind)[keyof typeof PageKind];

/** A name of {@link PageKind}. */
export type PageKindName = keyof typeof PageKind;

/** The names by number. */
export const PAGE_KIND_NAMES: readonly PageKindName[] = [
	'unsent',
	'raw',
	'zero',
	'filled',
	'xbzrle',
	'zlib',
	'multifd',
	'multifdZero',
	'encrypted',
	'helper',
	'mapped',
	'absent',
	'discarded',
];

/** Whether a target has no content for the page. */
export const isMissing = (kind: PageKind): boolean => kind === PageKind.unsent || kind === PageKind.discarded;
/** Whether the content is nothing but zeros because the stream said so. */
export const isZeroKind = (kind: PageKind): boolean =>
	kind === PageKind.zero || kind === PageKind.multifdZero || kind === PageKind.absent;
/** Whether the content is ciphertext. */
export const isSealed = (kind: PageKind): boolean => kind === PageKind.encrypted || kind === PageKind.helper;

/** Counts by name of the kind. */
export type KindCounts = Readonly<Record<PageKindName, number>>;

/** A tally by number, as a record by name. */
export function namedCounts(tally: ArrayLike<number>): KindCounts {
	const counts: Partial<Record<PageKindName, number>> = {};
	for (const [kind, name] of PAGE_KIND_NAMES.entries()) counts[name] = tally[kind] ?? 0;
	return counts as KindCounts;
}
