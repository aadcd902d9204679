import type { Spa } from '@cvm/layout';
import { COMMANDS, type CommandName } from '../abi/commands.js';
import { Status } from '../abi/status.js';
import { createBulk } from './bulk.js';
import { attestation } from './commands/attestation.js';
import { downloadFirmware } from './commands/download.js';
import * as guest from './commands/guest.js';
import { activateEx, copy } from './commands/guest-copy.js';
import { init, initEx } from './commands/init.js';
import * as launch from './commands/launch.js';
import * as pages from './commands/page-commands.js';
import * as platform from './commands/platform.js';
import * as identity from './commands/platform-identity.js';
import * as session from './commands/session.js';
import * as swap from './commands/swap.js';
import * as vmsa from './commands/vmsa.js';
import { bare, creating, type Executor, onGuest, onPages, onPlatform } from './dispatch.js';
import type { Platform } from './platform.js';

/** The firmware's mailbox. Commands run one at a time, to their end. */
export interface Psp {
	/**
	 * Runs a command whose buffer stands at `bufferSpa` in DRAM; commands without a buffer ignore the address. The buffer
	 * is read once, and written back when the command's class in `COMMANDS` says so. A command that fails has changed
	 * nothing else.
	 *
	 * @param command id of `COMMANDS`; any other number is answered with INVALID_COMMAND
	 */
	submit(command: number, bufferSpa: Spa): Status;
	/**
	 * The same command over several buffers, with the same results as if they were submitted one after the other. Stops
	 * after the first that fails. SEND_, RECEIVE_ and LAUNCH_UPDATE_DATA do their cryptography in bulk.
	 *
	 * @param statuses one for each command that ran, from index 0
	 * @returns how many ran, with the one that failed
	 * @throws RangeError if `statuses` is shorter than `bufferSpas`
	 */
	submitBatch(command: number, bufferSpas: readonly Spa[], statuses: Uint16Array): number;
}

const EXECUTORS: Readonly<Record<CommandName, Executor>> = {
	INIT: onPlatform(COMMANDS.INIT, init),
	SHUTDOWN: bare(COMMANDS.SHUTDOWN, platform.shutdown),
	PLATFORM_RESET: bare(COMMANDS.PLATFORM_RESET, identity.platformReset),
	PEK_GEN: bare(COMMANDS.PEK_GEN, identity.pekGen),
	PEK_CSR: onPlatform(COMMANDS.PEK_CSR, identity.pekCsr),
	PEK_CERT_IMPORT: onPlatform(COMMANDS.PEK_CERT_IMPORT, identity.pekCertImport),
	DOWNLOAD_FIRMWARE: onPlatform(COMMANDS.DOWNLOAD_FIRMWARE, downloadFirmware),
	INIT_EX: onPlatform(COMMANDS.INIT_EX, initEx),
	PLATFORM_STATUS: onPlatform(COMMANDS.PLATFORM_STATUS, platform.platformStatus),
	PDH_CERT_EXPORT: onPlatform(COMMANDS.PDH_CERT_EXPORT, platform.pdhCertExport),
	PDH_GEN: bare(COMMANDS.PDH_GEN, identity.pdhGen),
	DF_FLUSH: bare(COMMANDS.DF_FLUSH, platform.dfFlush),
	GET_ID: onPlatform(COMMANDS.GET_ID, platform.getId),
	NOP: bare(COMMANDS.NOP, platform.nop),
	DECOMMISSION: onGuest(COMMANDS.DECOMMISSION, guest.decommission),
	ACTIVATE: onGuest(COMMANDS.ACTIVATE, guest.activate),
	DEACTIVATE: onGuest(COMMANDS.DEACTIVATE, guest.deactivate),
	GUEST_STATUS: onPlatform(COMMANDS.GUEST_STATUS, guest.guestStatus),
	COPY: onGuest(COMMANDS.COPY, copy),
	ACTIVATE_EX: onGuest(COMMANDS.ACTIVATE_EX, activateEx),
	LAUNCH_START: creating(COMMANDS.LAUNCH_START, launch.launchStart),
	LAUNCH_UPDATE_DATA: onPages(COMMANDS.LAUNCH_UPDATE_DATA, pages.launchUpdateData),
	LAUNCH_UPDATE_VMSA: onGuest(COMMANDS.LAUNCH_UPDATE_VMSA, vmsa.launchUpdateVmsa),
	LAUNCH_MEASURE: onGuest(COMMANDS.LAUNCH_MEASURE, launch.launchMeasure),
	LAUNCH_SECRET: onGuest(COMMANDS.LAUNCH_SECRET, launch.launchSecret),
	LAUNCH_FINISH: onGuest(COMMANDS.LAUNCH_FINISH, launch.endChannel),
	ATTESTATION: onGuest(COMMANDS.ATTESTATION, attestation),
	SEND_START: onGuest(COMMANDS.SEND_START, session.sendStart),
	SEND_UPDATE_DATA: onPages(COMMANDS.SEND_UPDATE_DATA, pages.sendUpdateData),
	SEND_UPDATE_VMSA: onGuest(COMMANDS.SEND_UPDATE_VMSA, vmsa.sendUpdateVmsa),
	SEND_FINISH: onGuest(COMMANDS.SEND_FINISH, launch.endChannel),
	SEND_CANCEL: onGuest(COMMANDS.SEND_CANCEL, launch.endChannel),
	RECEIVE_START: creating(COMMANDS.RECEIVE_START, session.receiveStart),
	RECEIVE_UPDATE_DATA: onPages(COMMANDS.RECEIVE_UPDATE_DATA, pages.receiveUpdateData),
	RECEIVE_UPDATE_VMSA: onGuest(COMMANDS.RECEIVE_UPDATE_VMSA, vmsa.receiveUpdateVmsa),
	RECEIVE_FINISH: onGuest(COMMANDS.RECEIVE_FINISH, launch.endChannel),
	DBG_DECRYPT: onGuest(COMMANDS.DBG_DECRYPT, guest.dbgDecrypt),
	DBG_ENCRYPT: onGuest(COMMANDS.DBG_ENCRYPT, guest.dbgEncrypt),
	SWAP_OUT: onGuest(COMMANDS.SWAP_OUT, swap.swapOut),
	SWAP_IN: onGuest(COMMANDS.SWAP_IN, swap.swapIn),
};

const NAMES = Object.keys(COMMANDS) as CommandName[];
const BY_ID: ReadonlyMap<number, Executor> = new Map(NAMES.map((name) => [COMMANDS[name].id, EXECUTORS[name]]));

/** The firmware over its own memory. */
export function createPsp(platform: Platform): Psp {
	const bulk = createBulk(platform.engine.scratch);
	const one: [number] = [0];
	const status = new Uint16Array(1);
	const submitBatch: Psp['submitBatch'] = (command, bufferSpas, statuses) => {
		if (statuses.length < bufferSpas.length) {
			throw new RangeError(`statuses: expected room for ${bufferSpas.length}, got ${statuses.length}`);
		}
		const execute = BY_ID.get(command);
		if (execute !== undefined) return execute(platform, bulk, bufferSpas, statuses);
		statuses[0] = Status.INVALID_COMMAND;
		return Math.min(1, bufferSpas.length);
	};
	return {
		submit: (command, bufferSpa) => {
			const execute = BY_ID.get(command);
			if (execute === undefined) return Status.INVALID_COMMAND;
			one[0] = bufferSpa;
			execute(platform, bulk, one, status);
			return status[0] as Status;
		},
		submitBatch,
	};
}
