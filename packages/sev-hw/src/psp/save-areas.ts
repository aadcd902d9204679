import type { SystemMemory } from './system-memory.js';

/**
 * Bytes of the trusted memory region per save area. UNCERTAIN(SEV API 0.24 LAUNCH_UPDATE_VMSA): a slot takes one cache
 * line of the TMR, so that 1 MiB has 16384, as how the firmware divides it is not public.
 */
const SLOT_SIZE = 64;

/**
 * The save areas that the firmware has put into guests, each with its slot in the trusted memory region (TMR).
 *
 * DEVIATION(SEV API 0.24 INIT): checksums stay in firmware memory, and slots lend only their addresses. Real firmware
 * keeps them in the TMR, which no host can reach; the TMR of this model is DRAM, and the host reads and writes that.
 */
export interface SaveAreaTable {
	/** Slots in use. */
	readonly count: number;
	/** The address of the lowest free slot; `undefined` if none is left, or there is no TMR. */
	freeSlot(): number | undefined;
	/** Takes a free slot for a save area of a guest. */
	register(slot: number, handle: number, checksum: bigint): void;
	/** The checksum of a guest's save area; `undefined` if the address is no slot of this guest. */
	checksumOf(handle: number, slot: bigint): bigint | undefined;
	/** Frees all slots of a guest. */
	release(handle: number): void;
}

/** Slots for the TMR that `memory` reserves at each moment. It changes only while there are no guests. */
export function createSaveAreaTable(memory: Pick<SystemMemory, 'reserved'>): SaveAreaTable {
	const slots = new Map<number, { readonly handle: number; readonly checksum: bigint }>();
	/** No slot with a lower number is free. */
	let lowest = 0;
	return {
		get count() {
			return slots.size;
		},
		freeSlot: () => {
			const { reserved } = memory;
			if (reserved === undefined) return undefined;
			while (slots.has(reserved.start + lowest * SLOT_SIZE)) lowest++;
			const slot = reserved.start + lowest * SLOT_SIZE;
			return slot + SLOT_SIZE <= reserved.end ? slot : undefined;
		},
		register: (slot, handle, checksum) => {
			slots.set(slot, { handle, checksum });
		},
		checksumOf: (handle, slot) => {
			const entry = slots.get(Number(slot));
			return entry?.handle === handle ? entry.checksum : undefined;
		},
		release: (handle) => {
			for (const [slot, entry] of slots) if (entry.handle === handle) slots.delete(slot);
			lowest = 0;
		},
	};
}
