import { bytes, type Infer, isAligned, layout, PAGE_SIZE, u32 } from '@cvm/layout';
import {
	BATCH_PAGES,
	type GpaRange,
	HelperGeometry,
	helperRanges,
	MAX_HELPERS,
	PublishedGeometry,
} from '../geometry.js';
import { type NewTableEntry, TableGuid } from './table.js';

/** Most ranges of {@link HelperLayout.others}. */
const MAX_OTHERS = 6;

/**
 * PROJECT: data of the table entry that tells a VMM where the hardened helper has its memory, so that it need not be built with the
 * same numbers as the firmware. 96 bytes, all u32 little-endian; addresses are guest-physical, lengths are bytes.
 */
export const helperLayout = layout('cvm_helper_layout', 96, {
	/** 1. */
	version: u32(0),
	/** Helpers that there is memory for, from 1 to 64. */
	maxHelpers: u32(4),
	/** Most pages in a command, from 1 to 64. */
	batchPages: u32(8),
	/** Shared. */
	mailbox: u32(12),
	mailboxBytes: u32(16),
	/** Private. */
	entry: u32(20),
	entryBytes: u32(24),
	/** Private. */
	private: u32(28),
	privateEnd: u32(32),
	/** Shared: that of helper s at + s × `windowStride`; a mailbox page (helper 0's is the one above), then the bodies. */
	windows: u32(36),
	windowStride: u32(40),
	windowsEnd: u32(44),
	/** Other private ranges: address and length each, zeros behind the last. */
	others: bytes(48, 8 * MAX_OTHERS),
});
const VERSION = 1;

/** Where the hardened helper has its memory: see {@link helperLayout}. */
export interface HelperLayout extends Omit<Infer<typeof helperLayout>, 'version' | 'others'> {
	/** Private ranges besides: stacks, page tables and data that an allocator gave to the handler. */
	readonly others: readonly GpaRange[];
}

/** The places that this version of firmware and VMM are built with. */
export const builtInHelperLayout = (): HelperLayout => ({
	maxHelpers: MAX_HELPERS,
	batchPages: BATCH_PAGES,
	mailbox: PublishedGeometry.mailbox,
	mailboxBytes: PublishedGeometry.mailboxBytes,
	entry: PublishedGeometry.entry,
	entryBytes: PublishedGeometry.entryBytes,
	private: HelperGeometry.private,
	privateEnd: HelperGeometry.privateEnd,
	windows: HelperGeometry.windows,
	windowStride: HelperGeometry.windowStride,
	windowsEnd: HelperGeometry.windowsEnd,
	// The first four are the places above.
	others: helperRanges().slice(4),
});

/** The table entry of a layout. @throws RangeError for one that its readers refuse */
export function helperLayoutEntry(places: HelperLayout = builtInHelperLayout()): NewTableEntry {
	if (places.others.length > MAX_OTHERS) {
		throw new RangeError(`helper layout, others: expected at most ${MAX_OTHERS}, got ${places.others.length}`);
	}
	const others = new Uint8Array(8 * MAX_OTHERS);
	const view = new DataView(others.buffer);
	for (const [i, { start, end }] of places.others.entries()) {
		view.setUint32(8 * i, start, true);
		view.setUint32(8 * i + 4, end - start, true);
	}
	const data = helperLayout.encode({ ...places, version: VERSION, others });
	const fault = faultOfLayout(data);
	if (fault) throw new RangeError(`helper layout, ${fault.field}: expected ${fault.expected}, got ${fault.got}`);
	return { guid: TableGuid.helperLayout, data };
}

/** The layout in 96 bytes that have no {@link faultOfLayout}. */
export function decodeHelperLayout(data: Uint8Array): HelperLayout {
	const { version: _, ...places } = helperLayout.decode(data);
	return { ...places, others: othersIn(places.others) };
}

function othersIn(data: Uint8Array): readonly GpaRange[] {
	const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
	const all = Array.from({ length: MAX_OTHERS }, (_, i) => {
		const start = view.getUint32(8 * i, true);
		return { start, end: start + view.getUint32(8 * i + 4, true) };
	});
	const used = all.findLastIndex(({ end }) => end !== 0) + 1;
	return all.slice(0, used);
}

/** Everything in a layout that is the helper's own: what a VMM neither has sealed nor opened. In the layout's order. */
export const rangesOfLayout = (l: HelperLayout): readonly GpaRange[] => [
	{ start: l.mailbox, end: l.mailbox + l.mailboxBytes },
	{ start: l.entry, end: l.entry + l.entryBytes },
	{ start: l.private, end: l.privateEnd },
	{ start: l.windows, end: l.windowsEnd },
	...l.others,
];

interface LayoutFault {
	/** Offset of the field in the data. */
	readonly at: number;
	readonly field: string;
	readonly expected: string;
	readonly got: string | number;
}

const COUNTS = ['version', 'maxHelpers', 'batchPages'] as const;
const PLACES = [
	...(['mailbox', 'mailboxBytes', 'entry', 'entryBytes', 'private', 'privateEnd'] as const),
	...(['windows', 'windowStride', 'windowsEnd'] as const),
] as const;
const hex = (n: number) => `0x${n.toString(16)}`;

/** What a VMM must not go by: `data` has the right length, and nothing else is known of it. */
export function faultOfLayout(data: Uint8Array): LayoutFault | undefined {
	const found = helperLayout.decode(data);
	const fault = (field: (typeof COUNTS)[number] | (typeof PLACES)[number], expected: string): LayoutFault => {
		const got = COUNTS.some((name) => name === field) ? found[field] : hex(found[field]);
		return { at: helperLayout.offsetOf(field), field, expected, got };
	};
	if (found.version !== VERSION) return fault('version', `${VERSION}`);
	if (found.maxHelpers < 1 || found.maxHelpers > 64) return fault('maxHelpers', '1 to 64');
	if (found.batchPages < 1 || found.batchPages > 64) return fault('batchPages', '1 to 64');
	for (const field of PLACES) {
		if (found[field] === 0 || !isAligned(found[field], PAGE_SIZE)) return fault(field, 'a multiple of 4096, not 0');
	}
	const stride = (1 + found.batchPages) * PAGE_SIZE;
	if (found.windowStride < stride) return fault('windowStride', `at least ${hex(stride)}`);
	if (found.privateEnd <= found.private) return fault('privateEnd', `more than ${hex(found.private)}`);
	const windowsEnd = found.windows + found.maxHelpers * found.windowStride;
	if (found.windowsEnd < windowsEnd) return fault('windowsEnd', `at least ${hex(windowsEnd)}`);
	return faultOfRanges(decodeHelperLayout(data));
}

function faultOfRanges(places: HelperLayout): LayoutFault | undefined {
	const named = ['mailbox', 'entry', 'private', 'windows'] as const;
	const ranges = rangesOfLayout(places);
	for (const [i, range] of ranges.entries()) {
		const { start, end } = range;
		const fault = (expected: string): LayoutFault => {
			const field = named[i];
			const at = field ? helperLayout.offsetOf(field) : helperLayout.offsetOf('others') + 8 * (i - named.length);
			return { at, field: field ?? 'others', expected, got: `${hex(start)} to ${hex(end)}` };
		};
		const isPages = start > 0 && end > start && isAligned(start, PAGE_SIZE) && isAligned(end, PAGE_SIZE);
		if (!isPages) return fault('a range of whole pages');
		if (end > 2 ** 32) return fault('a range below 4 GiB');
		// Shared and private memory of the helper must not be the same.
		const other = ranges.findIndex((o, j) => j < i && o.start < end && start < o.end);
		if (other >= 0) return fault(`a range apart from ${named[other] ?? 'others'}`);
	}
	return undefined;
}
