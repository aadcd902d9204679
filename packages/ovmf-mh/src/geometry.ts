import { PAGE_SIZE } from '@cvm/layout';

/** A half-open range of guest-physical bytes. */
export interface GpaRange {
	readonly start: number;
	readonly end: number;
}

/**
 * Where the migration helper of August 2021 has its memory, hard-coded in firmware and VMM alike (edk2 branch sev-mirror2-patches,
 * `OvmfPkg/AmdSev/AmdSevX64.fdf`; QEMU v2 patch 1/12). Guest-physical byte addresses.
 */
export const PublishedGeometry = {
	/** Command block at its start, header of the page at + 0x800. Shared. */
	mailbox: 0x820000,
	ioHeader: 0x820800,
	/** The page body. Shared. */
	ioPage: 0x821000,
	/** Firmware reserves three pages, the VMM knows of two. */
	mailboxBytes: 0x3000,
	skippedBytes: 0x2000,
	/** Private: start code, addresses, GDT. */
	entry: 0x823000,
	entryBytes: 0x1000,
} as const;

/**
 * PROJECT: what an allocator gave to the handler in our firmware, whose build never changes it: both 2 MiB aligned, as posted.
 * Private, and kept from the OS by the reserved firmware range of the E820 list.
 */
export const HandlerAllocations = {
	/** 11 pages: the pool's header, PML4, two PDPTs, seven spare. */
	pageTablePool: 0xc00000,
	pageTablePoolBytes: 11 * PAGE_SIZE,
	/** 4 pages. */
	stack: 0xe00000,
	stackBytes: 4 * PAGE_SIZE,
	/** One page: the driver's variables. */
	data: 0xe04000,
	dataBytes: PAGE_SIZE,
} as const;

/** Most helpers of one guest, each on a mirror vCPU with a stream of its own. */
export const MAX_HELPERS = 8;
/** Most pages in one command of the hardened helper. */
export const BATCH_PAGES = 64;

/** PROJECT: memory of the hardened helper besides the published places. Guest-physical byte addresses. */
export const HelperGeometry = {
	/** Private from here to `privateEnd`: state, keys, maps. Never leaves the machine. */
	private: 0x8a0000,
	privateEnd: 0x900000,
	/** State of the session, one page. */
	state: 0x8a0000,
	/** State of stream s at + s × 4096. */
	streamStates: 0x8a1000,
	/** Stack of helper s: one page at + s × 4096. */
	stacks: 0x8a9000,
	/** Private work area of helper s: one page at + s × 4096. */
	scratch: 0x8b1000,
	/** Page tables of all helpers: PML4, the PDPT of the private map, the PDPT of the shared alias. */
	pageTables: 0x8b9000,
	/** What the firmware recorded for the helper, one page: see {@link helperRecord}. */
	record: 0x8bc000,
	/** SEV-ES: what the vCPUs of a guest that arrived resume by, {@link RESUME_SLOT_BYTES} each. */
	resume: 0x8bd000,
	/** See `MemoryMap.helperGate` of `@cvm/kvm/guest`. */
	gate: 0x8bf000,
	/** Bitmaps, a bit per frame from 0 on: what the guest shares, what was sealed or opened in this epoch. */
	sharedMap: 0x8c0000,
	epochMap: 0x8d0000,
	mapBytes: 0x10000,
	/**
	 * SEV-ES: the save area of vCPU i at + i × 4096. At the source the host maps the processor's page there, for the helper to read; at the
	 * target it is memory, in which the helper puts what arrived and the vCPU finds it.
	 */
	saveAreas: 0x8f0000,
	saveAreasEnd: 0x900000,
	/** Shared windows: that of helper s at + s × `windowStride`. First a page as the mailbox has it, then the bodies of a batch. */
	windows: 0x900000,
	windowStride: 0x41000,
	windowsEnd: 0x900000 + MAX_HELPERS * 0x41000,
} as const;

/** vCPUs whose save areas have room. */
export const MAX_SAVE_AREAS = (HelperGeometry.saveAreasEnd - HelperGeometry.saveAreas) / PAGE_SIZE;
/** Bytes of {@link HelperGeometry.resume} that one vCPU has. */
export const RESUME_SLOT_BYTES = PAGE_SIZE / MAX_SAVE_AREAS;
/** Where the helper finds, or puts, the save areas of a SEV-ES guest's vCPUs. @throws RangeError for more than fit */
export function saveAreasOf(vcpus: number): readonly number[] {
	if (!Number.isInteger(vcpus) || vcpus < 0 || vcpus > MAX_SAVE_AREAS) {
		throw new RangeError(`vCPUs: expected at most ${MAX_SAVE_AREAS}, got ${vcpus}`);
	}
	return Array.from({ length: vcpus }, (_, i) => HelperGeometry.saveAreas + i * PAGE_SIZE);
}

/** RAM that the maps cover. */
export const MAX_RAM = HelperGeometry.mapBytes * 8 * PAGE_SIZE;

/** The mailbox page of a helper: the published one for helper 0. */
export const mailboxOf = (helper: number): number =>
	helper === 0 ? PublishedGeometry.mailbox : HelperGeometry.windows + helper * HelperGeometry.windowStride;
/** The bodies of a batch, {@link BATCH_PAGES} pages. */
export const bodiesOf = (helper: number): number =>
	HelperGeometry.windows + helper * HelperGeometry.windowStride + PAGE_SIZE;

/** Everything that is the helper's own and must neither be sealed nor opened; a VMM that knows it need not ask. Ascending. */
export const helperRanges = (): readonly GpaRange[] => {
	const { mailbox, mailboxBytes, entry, entryBytes } = PublishedGeometry;
	const { pageTablePool, pageTablePoolBytes, stack, stackBytes, data, dataBytes } = HandlerAllocations;
	const range = (start: number, bytes: number): GpaRange => ({ start, end: start + bytes });
	return [
		range(mailbox, mailboxBytes),
		range(entry, entryBytes),
		{ start: HelperGeometry.private, end: HelperGeometry.privateEnd },
		{ start: HelperGeometry.windows, end: HelperGeometry.windowsEnd },
		range(pageTablePool, pageTablePoolBytes),
		range(stack, stackBytes),
		range(data, dataBytes),
	];
};

/**
 * The stream that owns a frame when `streams` are in use: 128 frames at a time, so that no two helpers ever write to the same
 * 16 bytes of a map.
 */
export const streamOfFrame = (gfn: number, streams: number): number => Math.floor(gfn / 128) % streams;

/** PROJECT: RIP of a target's first processor once its firmware rests and touches no memory any more: how a VMM knows that it may start. */
export const TARGET_REST = 0xffca3000;
