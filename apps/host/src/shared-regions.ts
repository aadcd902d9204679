/** A half-open range of guest frames that the guest declared shared with its host. */
export interface SharedRegion {
	readonly gfnStart: number;
	readonly gfnEnd: number;
}

/**
 * What the guest said about its pages, by KVM_HC_PAGE_ENC_STATUS or KVM_HC_MAP_GPA_RANGE. Everything not listed is private.
 * Kept sorted, disjoint and coalesced, so that two lists with the same meaning are the same bytes in a stream. (QEMU's
 * never-merged branches keep entries that may overlap; a part of a removed range could stay listed there.)
 */
export class SharedRegions {
	#regions: SharedRegion[] = [];

	get list(): readonly SharedRegion[] {
		return this.#regions;
	}

	/** The guest asked for [start, start + pages) to be shared, or private again. */
	set(gfnStart: number, pages: number, shared: boolean): void {
		const gfnEnd = gfnStart + pages;
		const out: SharedRegion[] = [];
		for (const region of this.#regions) {
			if (region.gfnStart < gfnStart) {
				out.push({ gfnStart: region.gfnStart, gfnEnd: Math.min(region.gfnEnd, gfnStart) });
			}
			if (region.gfnEnd > gfnEnd) out.push({ gfnStart: Math.max(region.gfnStart, gfnEnd), gfnEnd: region.gfnEnd });
		}
		if (shared) out.push({ gfnStart, gfnEnd });
		this.#regions = coalesce(out);
	}

	/** Replaces the list: what arrived with a guest. */
	replace(regions: readonly SharedRegion[]): void {
		this.#regions = coalesce([...regions]);
	}

	has(gfn: number): boolean {
		let low = 0;
		let high = this.#regions.length - 1;
		while (low <= high) {
			const middle = (low + high) >> 1;
			const region = this.#regions[middle] as SharedRegion;
			if (gfn < region.gfnStart) high = middle - 1;
			else if (gfn >= region.gfnEnd) low = middle + 1;
			else return true;
		}
		return false;
	}
}

function coalesce(regions: SharedRegion[]): SharedRegion[] {
	const out: { gfnStart: number; gfnEnd: number }[] = [];
	for (const region of regions.sort((a, b) => a.gfnStart - b.gfnStart)) {
		const last = out.at(-1);
		if (region.gfnStart >= region.gfnEnd) continue;
		if (last && region.gfnStart <= last.gfnEnd) last.gfnEnd = Math.max(last.gfnEnd, region.gfnEnd);
		else out.push({ ...region });
	}
	return out;
}
