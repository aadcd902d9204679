import * as buffer from './buffers.js';
import { GuestState, PlatformState } from './states.js';

const { UNINIT, INIT, WORKING } = PlatformState;
const { LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE, SENT } = GuestState;

const ANY_PLATFORM = [UNINIT, INIT, WORKING] as const;
const USABLE = [INIT, WORKING] as const;
const ANY_GUEST = [LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE, SENT] as const;

/**
 * When the command buffer is written back, as a whole: `in` and `none` never, `out` and `inout` on success,
 * `query` on success and on INVALID_LENGTH (the length query), even if nothing in it changed.
 */
export type CopyBack = 'none' | 'in' | 'out' | 'inout' | 'query';

interface BaseRule {
	readonly id: number;
	/** The command buffer; absent for commands without one. */
	readonly buffer?: { readonly name: string; readonly size: number };
	readonly copyBack: CopyBack;
	/** Elsewhere: INVALID_PLATFORM_STATE. */
	readonly platform: readonly PlatformState[];
}

/** A command of the platform: no guest context is looked up for it. */
export interface PlatformRule extends BaseRule {
	readonly kind: 'platform';
	/** The platform's state after success; absent: as before. */
	readonly next?: PlatformState;
}

/** A command that makes a guest context; the platform is WORKING after success. */
export interface CreatingRule extends BaseRule {
	readonly kind: 'creating';
	/** State of the new guest. */
	readonly next: GuestState;
}

/** A command on one guest. */
export interface GuestRule extends BaseRule {
	readonly kind: 'guest';
	/** Elsewhere: INVALID_GUEST_STATE. */
	readonly guest: readonly GuestState[];
	/** The guest's state after success; absent: as before; UNINIT: the context is gone. */
	readonly next?: GuestState;
}

/** One row of {@link COMMANDS}. */
export type CommandRule = PlatformRule | CreatingRule | GuestRule;

/**
 * Every command that this firmware knows: id and legality from SEV API 0.24 §4.3, §5 and §6, copy-back as public firmware
 * (1.55.25) does it. Dispatch, legality checks and the tests are made from this table.
 */
export const COMMANDS = {
	INIT: { id: 0x001, kind: 'platform', buffer: buffer.initBuffer, copyBack: 'in', platform: [UNINIT], next: INIT },
	SHUTDOWN: { id: 0x002, kind: 'platform', copyBack: 'none', platform: ANY_PLATFORM, next: UNINIT },
	PLATFORM_RESET: {
		id: 0x003,
		kind: 'platform',
		copyBack: 'none',
		platform: [UNINIT],
	},
	PLATFORM_STATUS: {
		id: 0x004,
		kind: 'platform',
		buffer: buffer.platformStatusBuffer,
		copyBack: 'out',
		platform: ANY_PLATFORM,
	},
	PEK_GEN: {
		id: 0x005,
		kind: 'platform',
		copyBack: 'none',
		platform: [INIT],
	},
	PEK_CSR: {
		id: 0x006,
		kind: 'platform',
		buffer: buffer.pekCsrBuffer,
		copyBack: 'query',
		platform: USABLE,
	},
	PEK_CERT_IMPORT: {
		id: 0x007,
		kind: 'platform',
		buffer: buffer.pekCertImportBuffer,
		copyBack: 'in',
		platform: [INIT],
	},
	PDH_CERT_EXPORT: {
		id: 0x008,
		kind: 'platform',
		buffer: buffer.pdhCertExportBuffer,
		copyBack: 'query',
		platform: USABLE,
	},
	PDH_GEN: { id: 0x009, kind: 'platform', copyBack: 'none', platform: USABLE },
	DF_FLUSH: { id: 0x00a, kind: 'platform', copyBack: 'none', platform: ANY_PLATFORM },
	DOWNLOAD_FIRMWARE: {
		id: 0x00b,
		kind: 'platform',
		buffer: buffer.downloadFirmwareBuffer,
		copyBack: 'in',
		platform: [UNINIT],
	},
	GET_ID: { id: 0x00c, kind: 'platform', buffer: buffer.getIdBuffer, copyBack: 'query', platform: ANY_PLATFORM },
	INIT_EX: {
		id: 0x00d,
		kind: 'platform',
		buffer: buffer.initExBuffer,
		copyBack: 'in',
		platform: [UNINIT],
		next: INIT,
	},
	NOP: { id: 0x00e, kind: 'platform', copyBack: 'none', platform: ANY_PLATFORM },
	DECOMMISSION: {
		id: 0x020,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
		next: GuestState.UNINIT,
	},
	ACTIVATE: {
		id: 0x021,
		kind: 'guest',
		buffer: buffer.activateBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE],
	},
	DEACTIVATE: {
		id: 0x022,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
	// Not of kind `guest`: a handle that nobody has is a success here.
	GUEST_STATUS: { id: 0x023, kind: 'platform', buffer: buffer.guestStatusBuffer, copyBack: 'inout', platform: USABLE },
	COPY: {
		id: 0x024,
		kind: 'guest',
		buffer: buffer.copyBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
	ACTIVATE_EX: {
		id: 0x025,
		kind: 'guest',
		buffer: buffer.activateExBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE],
	},
	LAUNCH_START: {
		id: 0x030,
		kind: 'creating',
		buffer: buffer.launchStartBuffer,
		copyBack: 'inout',
		platform: USABLE,
		next: LUPDATE,
	},
	LAUNCH_UPDATE_DATA: {
		id: 0x031,
		kind: 'guest',
		buffer: buffer.launchUpdateBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LUPDATE],
	},
	LAUNCH_UPDATE_VMSA: {
		id: 0x032,
		kind: 'guest',
		buffer: buffer.launchUpdateBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LUPDATE],
	},
	LAUNCH_MEASURE: {
		id: 0x033,
		kind: 'guest',
		buffer: buffer.launchMeasureBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: [LUPDATE],
		next: LSECRET,
	},
	LAUNCH_SECRET: {
		id: 0x034,
		kind: 'guest',
		buffer: buffer.transportBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LSECRET],
	},
	LAUNCH_FINISH: {
		id: 0x035,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [LSECRET],
		next: RUNNING,
	},
	ATTESTATION: {
		id: 0x036,
		kind: 'guest',
		buffer: buffer.attestationBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: [LSECRET, RUNNING, SUPDATE, SENT],
	},
	SEND_START: {
		id: 0x040,
		kind: 'guest',
		buffer: buffer.sendStartBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: [RUNNING],
		next: SUPDATE,
	},
	SEND_UPDATE_DATA: {
		id: 0x041,
		kind: 'guest',
		buffer: buffer.transportBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: [SUPDATE],
	},
	SEND_UPDATE_VMSA: {
		id: 0x042,
		kind: 'guest',
		buffer: buffer.transportBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: [SUPDATE],
	},
	SEND_FINISH: {
		id: 0x043,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [SUPDATE],
		next: SENT,
	},
	SEND_CANCEL: {
		id: 0x044,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [SUPDATE],
		next: RUNNING,
	},
	RECEIVE_START: {
		id: 0x050,
		kind: 'creating',
		buffer: buffer.receiveStartBuffer,
		copyBack: 'inout',
		platform: USABLE,
		next: RUPDATE,
	},
	RECEIVE_UPDATE_DATA: {
		id: 0x051,
		kind: 'guest',
		buffer: buffer.transportBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [RUPDATE],
	},
	RECEIVE_UPDATE_VMSA: {
		id: 0x052,
		kind: 'guest',
		buffer: buffer.transportBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [RUPDATE],
	},
	RECEIVE_FINISH: {
		id: 0x053,
		kind: 'guest',
		buffer: buffer.handleBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: [RUPDATE],
		next: RUNNING,
	},
	DBG_DECRYPT: {
		id: 0x060,
		kind: 'guest',
		buffer: buffer.debugBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
	DBG_ENCRYPT: {
		id: 0x061,
		kind: 'guest',
		buffer: buffer.debugBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
	SWAP_OUT: {
		id: 0x070,
		kind: 'guest',
		buffer: buffer.swapOutBuffer,
		copyBack: 'query',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
	SWAP_IN: {
		id: 0x071,
		kind: 'guest',
		buffer: buffer.swapInBuffer,
		copyBack: 'in',
		platform: [WORKING],
		guest: ANY_GUEST,
	},
} as const satisfies Record<string, CommandRule>;

/** The name of a command in {@link COMMANDS}. */
export type CommandName = keyof typeof COMMANDS;
