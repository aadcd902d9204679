import type { KeySlotWriter } from '../engine/key-slots.js';

/**
 * Where an ASID stands in the caches of the core complex. A `dirty` one may still have lines in a cache that belong to its
 * last guest; WBINVD on all cores and then DF_FLUSH make it `clean`. `allocated`: a key is installed, VMRUN is blocked.
 */
type AsidState = 'dirty' | 'clean' | 'allocated' | 'in-use';

/** The life of all ASIDs, with one core complex: SEV API 0.24, ACTIVATE, DEACTIVATE and DF_FLUSH. */
export interface AsidTable {
	readonly maxAsid: number;
	/** All cores have executed WBINVD. */
	wbinvd(): void;
	/** INIT: every ASID is unusable and dirty. */
	reset(): void;
	/** DF_FLUSH: false if a WBINVD is missing. */
	flush(): boolean;
	/** Whether some guest has it. */
	isOwned(asid: number): boolean;
	isDirty(asid: number): boolean;
	/** ACTIVATE: installs a key. */
	allocate(asid: number, key: Uint8Array): void;
	/** Lets VMRUN use it, if it is allocated. */
	enable(asid: number): void;
	/** DEACTIVATE: dirty if the guest may have run, else clean again. */
	release(asid: number): void;
}

export function createAsidTable(maxAsid: number, slots: KeySlotWriter): AsidTable {
	const states: AsidState[] = new Array<AsidState>(maxAsid + 1).fill('dirty');
	let wbinvdDone = false;
	return {
		maxAsid,
		wbinvd: () => {
			wbinvdDone = true;
		},
		reset: () => {
			for (let asid = 1; asid <= maxAsid; asid++) slots.clear(asid);
			states.fill('dirty');
			wbinvdDone = false;
		},
		flush: () => {
			if (!wbinvdDone) return false;
			for (const [asid, state] of states.entries()) if (state === 'dirty') states[asid] = 'clean';
			return true;
		},
		isOwned: (asid) => states[asid] === 'allocated' || states[asid] === 'in-use',
		isDirty: (asid) => states[asid] === 'dirty',
		allocate: (asid, key) => {
			slots.install(asid, key);
			states[asid] = 'allocated';
		},
		enable: (asid) => {
			if (states[asid] !== 'allocated') return;
			slots.enable(asid);
			states[asid] = 'in-use';
		},
		release: (asid) => {
			slots.clear(asid);
			const ran = states[asid] === 'in-use';
			states[asid] = ran ? 'dirty' : 'clean';
			if (ran) wbinvdDone = false;
		},
	};
}
