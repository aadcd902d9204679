/**
 * /dev/sev as programs see it: the user ABI of Linux's driver for the secure processor, over a machine of `@cvm/sev-hw`.
 *
 * ```ts
 * const device = createSevMiscDevice({ machine });
 * await device.open(2).ioctl(SEV_ISSUE_CMD, address, memory); // 0, or a negative errno
 * ```
 *
 * @packageDocumentation
 */
export { createSevMiscDevice, type SevFile, type SevMiscDevice, type SevMiscDeviceOptions } from './misc-device.js';
export { NO_ANSWER } from './sev-device.js';
export {
	SEV_ISSUE_CMD,
	SEV_USER_DATA_GET_ID_SIZE,
	SevUserCommand,
	sevIssueCmd,
	sevUserDataGetId2,
	sevUserDataPdhCertExport,
	sevUserDataPekCertImport,
	sevUserDataPekCsr,
	sevUserDataStatus,
} from './user-abi.js';
export type { UserMemory } from './user-memory.js';
