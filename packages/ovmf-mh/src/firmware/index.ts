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
import { lifeCycleFragments } from './life-cycle.js';
import { mpFragment } from './mp.js';
import type { FirmwareOptions } from './options.js';
import { peiFragment } from './pei.js';
import { secFragment } from './sec.js';
import { runtimeFragment } from './variables.js';

export {
	HANDLER_ITEMS,
	type HandlerItem,
	type HandlerSettings,
	handlerSettings,
	parsePcdBoolean,
} from '../fw-cfg-names.js';
export {
	AS_POSTED_HANDLER,
	type Behaviour,
	DEFAULT_PLACES,
	FIXED_HANDLER,
	type HandlerDefects,
	type HandlerPlaces,
	handlerSetup,
	type PageTransport,
	type RfcHandlerOptions,
	rfcHandler,
	UNENCRYPTED_BASE,
} from './handler/index.js';
export {
	type HardenedHelperOptions,
	hardenedHelper,
	type RecordedGuest,
	recordForHelper,
	SHARED_ALIAS,
	sharedHelperRanges,
} from './helper/index.js';
export { NO_MAPPING } from './mem-encrypt.js';
export { type FirmwareOptions, type Position, REPORT_CALLS, type ReportOptions } from './options.js';
export { recordableRam } from './ram-map.js';
export { type DemonstratorOptions, demonstratorFragments, type ResumeOptions, resumeFragment } from './resume/index.js';
export { VARIABLE_STORE_MAGIC, variableRecord, variableStore } from './variables.js';
export { FirmwareMemory, VARIABLE_FLASH } from './work-area.js';

/**
 * The firmware's code. The program that it is linked into must have the label `kernel_entry`.
 *
 * @throws RangeError for a hardened helper without cryptography
 */
export const ovmfFirmware = (options: FirmwareOptions = {}): readonly CodeFragment[] => [
	secFragment(options),
	peiFragment(options),
	dxeFragment(options),
	bootFragment(options),
	runtimeFragment,
	mpFragment(options),
	...lifeCycleFragments(options),
];
