/**
 * The VMM's end of what firmware reads, the fw_cfg device, and of the migration helpers in the guest.
 *
 * ```ts
 * const device = createFwCfgDevice({ files: { 'opt/cvm/seed': text('42') }, ramBytes: 64 << 20, bootCpus: 2 });
 * device.ioWrite(0x510, 2, 0x20);
 * device.ioRead(0x511, 1); // 0x34
 * ```
 *
 * @packageDocumentation
 */
export { FIRST_FILE_KEY, FwCfgKey, FwCfgPort } from '../fw-cfg-abi.js';
export {
	HANDLER_ITEMS,
	type HandlerItem,
	type HandlerSettings,
	handlerSettings,
	parsePcdBoolean,
} from '../fw-cfg-names.js';
export {
	BATCH_PAGES,
	bodiesOf,
	type GpaRange,
	HelperGeometry,
	helperRanges,
	MAX_HELPERS,
	mailboxOf,
	PublishedGeometry,
	TARGET_REST,
} from '../geometry.js';
export { HelperCommand, HelperPhase, HelperStatus, helperReport, ReportFlag } from '../mailbox/abi.js';
export { type HelperPageRecord, helperPageBytes } from '../mailbox/record.js';
export type { E820Range } from './e820.js';
export { e820File } from './e820.js';
export type { DmaMemory, FwCfgDevice, FwCfgOptions } from './fw-cfg.js';
export { createFwCfgDevice } from './fw-cfg.js';
export type { HelperPort } from './hardened/channel.js';
export { HelperError, type HelperErrorCode } from './hardened/error.js';
export {
	type ControlInput,
	createHelperHost,
	type HelperHost,
	type HelperHostOptions,
	spinThenSleep,
} from './hardened/helper-host.js';
export type { EmitRecord } from './hardened/lane.js';
export {
	createPageHelper,
	type HardenedPageHelper,
	type MessagePeer,
	type PageHelperOptions,
} from './hardened/page-helper.js';
export {
	createPageHelperTarget,
	type HardenedPageHelperTarget,
	type PageHelperTargetOptions,
} from './hardened/page-helper-target.js';
export { type BatchHeader, readBatchHeader } from './hardened/record.js';
export {
	AS_POSTED_MAILBOX,
	createMailboxHost,
	createMailboxProcess,
	FIXED_MAILBOX,
	type MailboxDefects,
	MailboxError,
	type MailboxHost,
	type MailboxHostOptions,
	type MailboxProcess,
	POSTED_POLLS,
	REQUEST_TIMEOUT_MS,
	type SavedPage,
} from './mailbox.js';
export { type MailboxMemory, mailboxMemory } from './mailbox-memory.js';
export { type MirrorResetState, mirrorResetState } from './mirror-reset.js';
