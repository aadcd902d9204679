import { ignored, layout, u32, u64 } from '@cvm/layout';
import type { Series } from './generation.js';

/*
 * How the earlier postings of "Add AMD SEV guest live migration support" (kvm list, 2019 to 2021) told a VMM which pages are
 * shared. None of it was merged; the numbers collide with later ioctls of Linux, so that they hold for one posting only.
 */

/** Argument of KVM_GET_PAGE_ENC_BITMAP and KVM_SET_PAGE_ENC_BITMAP: bit = 1 encrypted, page i is bit i % 8 of byte i / 8. */
export const kvmPageEncBitmap = layout('kvm_page_enc_bitmap', 24, {
	startGfn: u64(0),
	numPages: u64(8),
	encBitmap: u64(16),
});

/** Argument of KVM_GET_SHARED_PAGES_LIST and KVM_SET_SHARED_PAGES_LIST (v10). `size` in bytes. */
export const kvmSharedPagesList = layout('kvm_shared_pages_list', 24, {
	/** Address of an int: the number of entries. */
	pnents: u64(0),
	buffer: u64(8),
	size: u32(16),
	pad: ignored(20, 4),
});

/** One entry of the v10 list: guest frames, half-open. */
export const kvmSharedPagesEntry = layout('shared_region', 16, { gfnStart: u64(0), gfnEnd: u64(8) });

/** Request numbers of one posting; absent: it has no such ioctl. */
export interface PageStatusIoctls {
	/** What GET and SET take: {@link kvmPageEncBitmap} or {@link kvmSharedPagesList}. */
	readonly form: 'bitmap' | 'list';
	readonly get: number;
	/** From v2 on. */
	readonly set?: number;
	/** No argument; v4 to v6. Later, SET with a null pointer. */
	readonly reset?: number;
}

const FEBRUARY_2020 = { form: 'bitmap', get: 0x4018aec2, set: 0x4018aec3 } as const;
const SPRING_2020 = { form: 'bitmap', get: 0x4018aec5, set: 0x4018aec6 } as const;
const WINTER_2020 = { form: 'bitmap', get: 0x4018aec6, set: 0x4018aec7 } as const;

/**
 * The ioctls of each posting; v11 and later have none.
 *
 * UNCERTAIN(kvm list): v1 and v2 are taken to use the numbers of v3 and v4, v7 those of v5, v9 those of v8. In v1 GET named
 * a memory slot, in a structure that was not found: this model puts the slot where `startGfn` is.
 */
export const PAGE_STATUS_IOCTLS: Readonly<Partial<Record<Series, PageStatusIoctls>>> = {
	v1: { form: 'bitmap', get: FEBRUARY_2020.get },
	v2: FEBRUARY_2020,
	v3: FEBRUARY_2020,
	v4: { ...FEBRUARY_2020, reset: 0xaec4 },
	v5: { ...SPRING_2020, reset: 0xaec7 },
	v6: { ...SPRING_2020, reset: 0xaec7 },
	v7: SPRING_2020,
	v8: WINTER_2020,
	v9: WINTER_2020,
	v10: { form: 'list', get: 0x4018aec8, set: 0x4018aec9 },
};

/** What a posting calls the feature that says "hypercall 12 and the MSR exist": a bit of KVM's feature leaf, and the MSR. */
export interface LiveMigrationFeature {
	readonly bit: number;
	readonly msr: number;
	/** KVM keeps the MSR and sets the bit in the CPUID of every SEV guest: v5 to v10. Later both are the VMM's. */
	readonly inKvm: boolean;
}

/** The feature of a posting; `undefined`: v1 to v4 have none, and `upstream` has two bits that are its VMM's business. */
export function liveMigrationFeature(series: Series): LiveMigrationFeature | undefined {
	switch (series) {
		case 'v5':
		case 'v6':
		case 'v7':
		case 'v8':
			// Bit and MSR became those of ASYNC_PF_INT later.
			return { bit: 14, msr: 0x4b564d06, inKvm: true };
		case 'v9':
		case 'v10':
			return { bit: 16, msr: 0x4b564d08, inKvm: true };
		case 'v11':
		case 'v12':
			return { bit: 16, msr: 0x4b564d08, inKvm: false };
		default:
			return undefined;
	}
}
