import type { MemoryController } from '../engine/memory-controller.js';
import { openSilicon, type SiliconHandle } from '../engine/silicon-state.js';
import { vmsaChecksum } from './checksum.js';
import { openIntegritySlots } from './integrity.js';
import { vmsa } from './layout.js';

const SLOT_AT = vmsa.offsetOf('slotPaddr');

/**
 * The save area of a SEV-ES guest's vCPU as VMRUN reads it and a VMEXIT writes it: through the guest's key, and with the
 * checksum that the firmware's commands set up and check.
 */
export interface SaveAreas {
	/**
	 * VMRUN: the plaintext of the 4096 bytes at `spa` in `page`. False unless the firmware made it this guest's save area
	 * and nobody but the processor has written it since; `page` is zeros then.
	 *
	 * @throws SiliconError `range`, `asid` or `key`
	 */
	load(asid: number, spa: number, page: Uint8Array): boolean;
	/**
	 * VMEXIT: encrypts what `load` gave and the guest has changed, and renews the checksum. `page` keeps the slot that it
	 * was loaded with.
	 *
	 * @throws SiliconError as `load`
	 */
	store(asid: number, spa: number, page: Uint8Array): void;
}

/** Opens a machine's save areas in the thread of a vCPU. */
export function openSaveAreas(handle: SiliconHandle, memory: Pick<MemoryController, 'read' | 'write'>): SaveAreas {
	const slots = openIntegritySlots(openSilicon(handle).integritySlots);
	const slotOf = (page: Uint8Array): number =>
		Number(new DataView(page.buffer, page.byteOffset, page.byteLength).getBigUint64(SLOT_AT, true));
	return {
		load: (asid, spa, page) => {
			memory.read(asid, spa, page);
			const slot = slotOf(page);
			const isIntact = slots.isTaken(slot) && slots.checksumOf(slot) === vmsaChecksum(page);
			if (!isIntact) page.fill(0);
			return isIntact;
		},
		store: (asid, spa, page) => {
			const slot = slotOf(page);
			memory.write(asid, spa, page);
			slots.set(slot, slots.handleOf(slot), vmsaChecksum(page));
		},
	};
}
