import { type IntegritySlots, SLOT_SIZE } from '../vmsa/integrity.js';
import type { SystemMemory } from './system-memory.js';

/**
 * The save areas that the firmware has put into guests, each with its slot in the trusted memory region (TMR), where the
 * processor renews the checksum whenever it writes the save area.
 *
 * UNCERTAIN(SEV API 0.24 LAUNCH_UPDATE_VMSA): a slot takes one cache line of the TMR, so that 1 MiB has 16384, as how the
 * firmware divides it is not public.
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
export function createSaveAreaTable(memory: Pick<SystemMemory, 'reserved'>, checksums: IntegritySlots): SaveAreaTable {
	const slots = new Set<number>();
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
			slots.add(slot);
			checksums.set(slot, handle, checksum);
		},
		checksumOf: (handle, slot) => {
			const at = Number(slot);
			return slots.has(at) && checksums.handleOf(at) === handle ? checksums.checksumOf(at) : undefined;
		},
		release: (handle) => {
			for (const slot of [...slots]) {
				if (checksums.handleOf(slot) !== handle) continue;
				checksums.free(slot);
				slots.delete(slot);
			}
			lowest = 0;
		},
	};
}
