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
export {
	activateBuffer,
	CHIP_ID_SIZE,
	CONFIG_ES,
	debugBuffer,
	getIdBuffer,
	guestStatusBuffer,
	handleBuffer,
	initBuffer,
	launchMeasureBuffer,
	launchStartBuffer,
	launchUpdateBuffer,
	MEASUREMENT_SIZE,
	PACKET_LIMIT,
	PLATFORM_CHAIN_SIZE,
	pdhCertExportBuffer,
	platformStatusBuffer,
	receiveStartBuffer,
	SESSION_SIZE,
	sendStartBuffer,
	TMR_SIZE,
	transportBuffer,
} from './buffers.js';
export type { CommandName, CommandRule, CopyBack, CreatingRule, GuestRule, PlatformRule } from './commands.js';
export { COMMANDS } from './commands.js';
export type { FirmwareVersion } from './policy.js';
export { Policy, policyAllowsVersion, policyIsWellFormed } from './policy.js';
export { GuestState, PlatformState } from './states.js';
export { Status, statusName, statusText } from './status.js';
