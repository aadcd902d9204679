import { PAGE_SIZE } from '@cvm/layout';
import { createSharedPages, type PageStatusTracker, type SharedPages } from './shared-pages.js';

/** Where RAM stands in guest-physical space: what `RamMap` of `@cvm/kvm/mirror` offers of it. */
export interface RamSplitter {
	/** The pieces of a guest-physical range, in order; `ramAddr` −1: no RAM is there. */
	split(gpa: number, length: number): readonly { gpa: number; length: number; ramAddr: number }[];
}

/**
 * Page status by place in RAM instead of guest-physical address, so that memory keeps its status while it is not mapped
 * (virtio-mem). Frames of {@link ram} are offsets in RAM divided by 4096.
 */
export interface RamPageStatus extends PageStatusTracker {
	readonly ram: SharedPages;
	/** What the guest said of addresses without RAM, by guest frame: MMIO. For information, nothing is sent for it. */
	readonly mmio: SharedPages;
}

/** Puts what a guest says about guest-physical addresses where its RAM is at that moment. */
export function createRamPageStatus(map: RamSplitter, options: { readonly limit?: number } = {}): RamPageStatus {
	const ram = createSharedPages(options);
	const mmio = createSharedPages(options);
	return {
		ram,
		mmio,
		set: (gfnStart, pages, isShared) => {
			const before = [ram.ranges, mmio.ranges] as const;
			for (const piece of map.split(gfnStart * PAGE_SIZE, pages * PAGE_SIZE)) {
				const isRam = piece.ramAddr >= 0;
				const at = (isRam ? piece.ramAddr : piece.gpa) / PAGE_SIZE;
				if ((isRam ? ram : mmio).set(at, piece.length / PAGE_SIZE, isShared)) continue;
				ram.replace(before[0]);
				mmio.replace(before[1]);
				return false;
			}
			return true;
		},
		clear: () => {
			ram.clear();
			mmio.clear();
		},
	};
}
