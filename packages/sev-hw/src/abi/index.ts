/**
 * The SEV firmware's ABI as data: command ids, command buffers, legality, status codes, policy bits.
 *
 * ```ts
 * const { id, buffer } = COMMANDS.LAUNCH_START;
 * const bytes = buffer.encode({ policy: Policy.NODBG });
 * ```
 *
 * @packageDocumentation
 */

export { vmsa, vmsaSegment } from '../vmsa/layout.js';
export { ATTESTATION_SIGNED_SIZE, attestationReport } from './attestation.js';
export {
	ATTESTATION_SIZE,
	activateBuffer,
	activateExBuffer,
	attestationBuffer,
	CHIP_ID_SIZE,
	CONFIG_ES,
	copyBuffer,
	debugBuffer,
	downloadFirmwareBuffer,
	getIdBuffer,
	guestStatusBuffer,
	handleBuffer,
	initBuffer,
	initExBuffer,
	launchMeasureBuffer,
	launchStartBuffer,
	launchUpdateBuffer,
	MEASUREMENT_SIZE,
	NV_SIZE,
	PACKET_LIMIT,
	PLATFORM_CHAIN_SIZE,
	pdhCertExportBuffer,
	pekCertImportBuffer,
	pekCsrBuffer,
	platformStatusBuffer,
	receiveStartBuffer,
	SESSION_SIZE,
	sendStartBuffer,
	swapInBuffer,
	swapOutBuffer,
	TMR_SIZE,
	transportBuffer,
	VMSA_SIZE,
} from './buffers.js';
export type { CommandName, CommandRule, CopyBack, CreatingRule, GuestRule, PlatformRule } from './commands.js';
export { COMMANDS } from './commands.js';
export type { FirmwareVersion } from './policy.js';
export { Policy, policyAllowsVersion, policyIsWellFormed } from './policy.js';
export { GuestState, PlatformState } from './states.js';
export { Status, statusName, statusText } from './status.js';
export { SwapFlags, swapMetadata } from './swap-metadata.js';
