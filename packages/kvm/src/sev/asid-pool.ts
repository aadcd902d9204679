/** The ASIDs that KVM gives to SEV VMs: sev_asid_bitmap and sev_reclaim_asid_bitmap of Linux arch/x86/kvm/svm/sev.c. */
export interface AsidPool {
	/** ASIDs there are: 0 on a machine whose set-up left none for this kind of guest. */
	readonly capacity: number;
	/** The lowest free ASID, or 0. A used one is free again only after a recycling, which is done once if none is free. */
	allocate(): number;
	release(asid: number): void;
}

/**
 * @param range lowest and highest ASID, both included: CPUID Fn8000_001F
 * @param flush WBINVD and DF_FLUSH; false = the firmware refused
 */
export function createAsidPool(range: { readonly min: number; readonly max: number }, flush: () => boolean): AsidPool {
	const used = new Set<number>();
	const reclaimable = new Set<number>();
	const lowest = (): number => {
		for (let asid = range.min; asid <= range.max; asid++) if (!used.has(asid)) return asid;
		return 0;
	};
	const recycle = (): boolean => {
		if (reclaimable.size === 0 || !flush()) return false;
		for (const asid of reclaimable) used.delete(asid);
		reclaimable.clear();
		return true;
	};
	return {
		capacity: Math.max(0, range.max - range.min + 1),
		allocate: () => {
			let asid = lowest();
			if (asid === 0 && recycle()) asid = lowest();
			if (asid !== 0) used.add(asid);
			return asid;
		},
		release: (asid) => {
			if (used.has(asid)) reclaimable.add(asid);
		},
	};
}
