/**
 * The boot steps of OVMF in a confidential guest, as guest code for the vCPU of `@cvm/kvm/vcpu`: page tables with the C-bit,
 * fw_cfg, detection and use of the page-status hypercall, the variable SevLiveMigrationEnabled and its runtime service.
 *
 * ```ts
 * const program = link(...ovmfFirmware({ abi: 'upstream' }), ...kernel);
 * program.address('reset'); // 0xFFFFFFF0
 * ```
 *
 * @packageDocumentation
 */
import type { CodeFragment } from '@cvm/kvm/vcpu';
import { bootFragment } from './boot.js';
import { dxeFragment } from './dxe.js';
import { mpFragment } from './mp.js';
import type { FirmwareOptions } from './options.js';
import { peiFragment } from './pei.js';
import { secFragment } from './sec.js';
import { runtimeFragment } from './variables.js';

export type { FirmwareOptions } from './options.js';
export { VARIABLE_STORE_MAGIC, variableRecord, variableStore } from './variables.js';
export { FirmwareMemory, VARIABLE_FLASH } from './work-area.js';

/** The firmware's code. The program that it is linked into must have the label `kernel_entry`. */
export const ovmfFirmware = (options: FirmwareOptions = {}): readonly CodeFragment[] => [
	secFragment,
	peiFragment,
	dxeFragment(options),
	bootFragment,
	runtimeFragment,
	mpFragment,
];
