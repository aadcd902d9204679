import { PAGE_SHIFT, type Spa } from '@cvm/layout';
import type { KernelMemory } from '../../memory/host-memory.js';
import type { VcpuContext, VmContext } from '../../vm/context.js';
import { openVcpuState, VcpuWord } from '../../vm/vcpu-state.js';

/** A page for the registers of one vCPU of a SEV-ES guest (VMSA), in kernel memory: no process can map it. */
export interface SaveArea {
	readonly spa: Spa;
	/** As the host sees it: ciphertext once the firmware has encrypted it. */
	readonly bytes: Uint8Array;
	/**
	 * What LAUNCH_UPDATE_VMSA measured, in plain: the VMM chose it, so it is no secret, and a second LAUNCH_UPDATE_VMSA
	 * measures it again.
	 */
	image: Uint8Array | undefined;
}

/** A zeroed page. @throws KvmError `out-of-memory` */
export const createSaveArea = (memory: KernelMemory): SaveArea => ({ ...memory.allocate(4096), image: undefined });

/**
 * Gives a vCPU its save area, or takes it away, and tells the vCPU's thread.
 *
 * @param isProtected the firmware has encrypted it: the guest's registers are in there
 */
export function bindSaveArea(context: VcpuContext, area: SaveArea | undefined, isProtected: boolean): void {
	const { words } = openVcpuState(context.vcpu.share());
	context.saveArea = area;
	context.guestStateProtected = isProtected;
	Atomics.store(words, VcpuWord.saveAreaPage, area === undefined ? 0 : area.spa / 2 ** PAGE_SHIFT);
	Atomics.store(words, VcpuWord.guestStateProtected, isProtected ? 1 : 0);
}

/** The end of a VM's vCPUs: their pages go back, erased. */
export function freeSaveAreas({ host, vcpus }: VmContext): void {
	for (const context of vcpus.values()) {
		if (context.saveArea === undefined) continue;
		host.memory.free(context.saveArea);
		bindSaveArea(context, undefined, false);
	}
}
