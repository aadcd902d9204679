import type { KeySlotWriter } from '../engine/key-slots.js';

/**
 * Where an ASID stands in the caches of a core complex. A `dirty` one may still have lines in a cache that belong to its
 * last guest; WBINVD on all cores and then DF_FLUSH make it `clean`. `allocated`: a key is installed, VMRUN is blocked.
 */
type AsidState = 'dirty' | 'clean' | 'allocated' | 'in-use';

/** Cores of a complex: the cores with the APIC ids 0 … 7 are complex 0, and so on. */
const CORES_PER_COMPLEX = 8;
/** APIC ids are those of at most 1024 cores, which is also the longest list that ACTIVATE_EX takes. */
const MAX_COMPLEXES = 128;

/** The life of all ASIDs on each core complex: SEV API 0.24, ACTIVATE, ACTIVATE_EX, DEACTIVATE and DF_FLUSH. */
export interface AsidTable {
	readonly maxAsid: number;
	/** All core complexes, by number. */
	readonly complexes: readonly number[];
	/**
	 * All cores of a complex, or of all, have executed WBINVD.
	 *
	 * @throws RangeError for a complex that the machine has not
	 */
	wbinvd(complex?: number): void;
	/** INIT: every ASID is unusable and dirty on every complex. */
	reset(): void;
	/** DF_FLUSH: cleans the complexes whose cores have all executed WBINVD; false if a complex was left out. */
	flush(): boolean;
	stateOf(asid: number, complex: number): AsidState;
	/** Whether some guest has it, on any complex. */
	isOwned(asid: number): boolean;
	/** Whether it is dirty on any of these complexes. */
	isDirty(asid: number, complexes: readonly number[]): boolean;
	/** ACTIVATE, ACTIVATE_EX: installs a key and takes the ASID on those of the complexes that do not have it yet. */
	allocate(asid: number, key: Uint8Array, complexes: readonly number[]): void;
	/** Lets VMRUN use it wherever it is allocated. */
	enable(asid: number): void;
	/** DEACTIVATE: dirty where the guest may have run, clean again where the ASID was only allocated. */
	release(asid: number): void;
}

/** The complex of the core with an APIC id. */
export const complexOf = (apicId: number): number => Math.floor(apicId / CORES_PER_COMPLEX);

/**
 * A table for a machine.
 *
 * DEVIATION(SEV API 0.24 ACTIVATE_EX): cores are told apart by their complex only, and a key is usable on all of them:
 * vCPUs of this model stand on no particular core.
 *
 * @throws RangeError if `coreComplexes` is not 1 … 128
 */
export function createAsidTable(maxAsid: number, slots: KeySlotWriter, coreComplexes: number): AsidTable {
	if (!Number.isInteger(coreComplexes) || coreComplexes < 1 || coreComplexes > MAX_COMPLEXES) {
		throw new RangeError(`coreComplexes: expected 1 … ${MAX_COMPLEXES}, got ${coreComplexes}`);
	}
	const states = Array.from({ length: coreComplexes }, () => new Array<AsidState>(maxAsid + 1).fill('dirty'));
	const wbinvdDone = new Array<boolean>(coreComplexes).fill(false);
	const complexes = states.map((_, complex) => complex);

	const stateOf = (asid: number, complex: number): AsidState => states[complex]?.[asid] ?? 'dirty';
	const setState = (asid: number, complex: number, state: AsidState): void => {
		const ofComplex = states[complex];
		if (ofComplex !== undefined) ofComplex[asid] = state;
	};
	const isTaken = (state: AsidState) => state === 'allocated' || state === 'in-use';

	return {
		maxAsid,
		complexes,
		wbinvd: (complex) => {
			if (complex === undefined) wbinvdDone.fill(true);
			else if (complexes.includes(complex)) wbinvdDone[complex] = true;
			else throw new RangeError(`core complex: expected 0 … ${coreComplexes - 1}, got ${complex}`);
		},
		reset: () => {
			for (let asid = 1; asid <= maxAsid; asid++) slots.clear(asid);
			for (const ofComplex of states) ofComplex.fill('dirty');
			wbinvdDone.fill(false);
		},
		flush: () => {
			for (const [complex, ofComplex] of states.entries()) {
				if (wbinvdDone[complex] !== true) continue;
				for (const [asid, state] of ofComplex.entries()) if (state === 'dirty') ofComplex[asid] = 'clean';
			}
			return wbinvdDone.every((done) => done);
		},
		stateOf,
		isOwned: (asid) => complexes.some((complex) => isTaken(stateOf(asid, complex))),
		isDirty: (asid, on) => on.some((complex) => stateOf(asid, complex) === 'dirty'),
		allocate: (asid, key, on) => {
			// A repeated ACTIVATE_EX must not block a guest that runs.
			if (!complexes.some((complex) => isTaken(stateOf(asid, complex)))) slots.install(asid, key);
			for (const complex of on) if (!isTaken(stateOf(asid, complex))) setState(asid, complex, 'allocated');
		},
		enable: (asid) => {
			const pending = complexes.filter((complex) => stateOf(asid, complex) === 'allocated');
			if (pending.length > 0) slots.enable(asid);
			for (const complex of pending) setState(asid, complex, 'in-use');
		},
		release: (asid) => {
			slots.clear(asid);
			for (const complex of complexes) {
				const state = stateOf(asid, complex);
				if (state === 'in-use') wbinvdDone[complex] = false;
				if (isTaken(state)) setState(asid, complex, state === 'in-use' ? 'dirty' : 'clean');
			}
		},
	};
}
