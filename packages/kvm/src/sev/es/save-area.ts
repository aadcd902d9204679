import type { Spa } from '@cvm/layout';

/** A page for the registers of one vCPU of a SEV-ES guest. */
export interface SaveArea {
	readonly spa: Spa;
	/** As the host sees it: ciphertext once the firmware has encrypted it. */
	readonly bytes: Uint8Array;
}
