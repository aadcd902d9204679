import { PAGE_SIZE } from '@cvm/layout';
import type { SharedRegion } from './ports.js';

/** Whether a defect of the published patches is kept or mended. */
export type Quirk = 'asPosted' | 'fixed';

/** First byte of the pages through which the VMM and the in-guest helper talk. QEMU v2 patch 1/12. */
const MAILBOX = 0x820000;
/** The VMM knows of two pages; the firmware reserves three. QEMU v2 patch 3/12; edk2 `PcdConfidentialMigrationMailboxSize`. */
const MAILBOX_END = { asPosted: 0x822000, fixed: 0x823000 } as const satisfies Record<Quirk, number>;

/** Where a page is, in bytes. */
export interface PagePlace {
	/** From the beginning of its RAM block. */
	readonly blockOffset: number;
	/** Guest-physical address, of RAM where the machine shows it. */
	readonly gpa: number;
}

/**
 * Whether a source leaves a page out because it belongs to the helper's mailbox.
 *
 * As posted the address tested is the offset in the block (`gpa_inside_migration_helper_shared_area` is given one), so that the
 * same offsets of every other block of more than 8 MiB are lost, too (K22), and the third reserved page is not known (K5).
 * QEMU v2 patches 3 and 4/12.
 */
export function skipsHelperPage({ blockOffset, gpa }: PagePlace, address: Quirk, extent: Quirk = address): boolean {
	const at = address === 'asPosted' ? blockOffset : gpa;
	return at >= MAILBOX && at < MAILBOX_END[extent];
}

/** What the choice of a page's way depends on. */
export interface RoutedPage extends PagePlace {
	/** Name of its memory region. */
	readonly region: string;
	/** `rom`: RAM that the guest cannot write; `romd`: a ROM device in the mode in which it is read; `io`: no RAM at all. */
	readonly kind: 'ram' | 'rom' | 'romd' | 'io';
	/** Guest-physical address of the region, in bytes. */
	readonly regionAddress: number;
}

/** What becomes of a page: left out; sent in the clear, as zero, compressed or raw; or sealed. */
export type PageRoute = 'dropped' | 'plain' | 'sealed';

/** How {@link routePage} decides. */
export interface RouteRules {
	/** `psp`: sealed by SEV firmware (AMDESE/qemu `sev_live_migration_v4`); `helper`: by the in-guest helper (QEMU v2 series). */
	readonly mode: 'psp' | 'helper';
	/** K22: what the mailbox is looked up by. */
	readonly skip: Quirk;
	/** K5: how much of the mailbox is known. Default as `skip`. */
	readonly extent?: Quirk;
	/**
	 * What the shared regions are looked up by. As posted: the frame of the region's beginning plus the page's number in the
	 * block, which is wrong for RAM that the machine shows in two pieces, as above 4 GiB.
	 */
	readonly frame: Quirk;
}

const inside = (regions: readonly SharedRegion[], frame: number): boolean =>
	regions.some(({ gfnStart, gfnEnd }) => frame >= gfnStart && frame < gfnEnd);

/**
 * The way a page of a confidential guest goes, first match first. AMDESE/qemu `sev_live_migration_v4` migration/ram.c and
 * target/i386/sev.c; QEMU v2 patches 4 and 6/12, which keep the helper from pages that made it hang.
 *
 * | Page | psp | helper |
 * | --- | --- | --- |
 * | of the mailbox | | dropped |
 * | ROM | plain | plain |
 * | ROM device in romd mode, or no RAM | | plain |
 * | region `system.flash0` | sealed | |
 * | region `system.flash1` | plain | |
 * | region `vga.vram` | | plain |
 * | in a shared region | plain | plain |
 * | any other | sealed | sealed |
 */
export function routePage(page: RoutedPage, shared: readonly SharedRegion[], rules: RouteRules): PageRoute {
	const { region, kind, blockOffset, gpa, regionAddress } = page;
	const helper = rules.mode === 'helper';
	if (helper && skipsHelperPage(page, rules.skip, rules.extent)) return 'dropped';
	if (kind === 'rom') return 'plain';
	if (helper && kind !== 'ram') return 'plain';
	// The variable store is the VMM's to write; the code in the other one was measured.
	if (region === 'system.flash0') return 'sealed';
	if (region === 'system.flash1') return 'plain';
	if (helper && region === 'vga.vram') return 'plain';
	const address = rules.frame === 'asPosted' ? regionAddress + blockOffset : gpa;
	return inside(shared, Math.floor(address / PAGE_SIZE)) ? 'plain' : 'sealed';
}
