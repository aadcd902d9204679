import type { Infer } from '@cvm/layout';
import {
	CHIP_ID_SIZE,
	type getIdBuffer,
	PLATFORM_CHAIN_SIZE,
	type pdhCertExportBuffer,
	type platformStatusBuffer,
} from '../../abi/buffers.js';
import { PlatformState } from '../../abi/states.js';
import { Status } from '../../abi/status.js';
import { SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import { wipeIdentity } from '../identity.js';
import type { Platform, PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import { forgetGuest } from './guest.js';

/** PLATFORM_STATUS `owner`. */
const OWNER_EXTERNAL = 1;

/** SEV API 0.24 SHUTDOWN: destroys all guest contexts, bound or not, and forgets the keys that are stored. */
export const shutdown: PlatformHandler<void> = (psp) => {
	for (const guest of psp.guests.values()) {
		forgetGuest(psp, guest);
		psp.guests.remove(guest.handle);
	}
	psp.asids.reset();
	if (psp.identity !== undefined) wipeIdentity(psp.identity);
	psp.identity = undefined;
	psp.memory.reserved = undefined;
	psp.config = 0;
	return OK;
};

/** SEV API 0.24 PLATFORM_STATUS. Without INIT nobody owns the platform, as far as it says. */
export const platformStatus: PlatformHandler<Infer<typeof platformStatusBuffer>> = (psp) => ({
	status: Status.SUCCESS,
	out: {
		apiMajor: psp.version.major,
		apiMinor: psp.version.minor,
		state: psp.state,
		owner: psp.identity?.owner === 'external' ? OWNER_EXTERNAL : 0,
		config: psp.state === PlatformState.UNINIT ? 0 : psp.config,
		build: psp.version.build,
		guestCount: psp.guests.count,
	},
});

/** SEV API 0.24 PDH_CERT_EXPORT: the PDH certificate, and PEK ‖ OCA ‖ CEK with an unsigned CEK. */
export const pdhCertExport: PlatformHandler<Infer<typeof pdhCertExportBuffer>> = (psp, b) => {
	const lengths = { pdhLen: SEV_CERT_SIZE, certsLen: PLATFORM_CHAIN_SIZE };
	if (b.pdhLen < SEV_CERT_SIZE || b.certsLen < PLATFORM_CHAIN_SIZE) {
		return { status: Status.INVALID_LENGTH, out: lengths };
	}
	const pdhAt = psp.memory.resolveLong(b.pdhPaddr, SEV_CERT_SIZE);
	const certsAt = psp.memory.resolveLong(b.certsPaddr, PLATFORM_CHAIN_SIZE);
	if (pdhAt < 0 || certsAt < 0) return refuse(Status.INVALID_ADDRESS);
	const { pdh, pek, oca, cek } = requireIdentity(psp);
	const { dram } = psp.memory;
	dram.set(pdh.certificate, pdhAt);
	for (const [i, key] of [pek, oca, cek].entries()) dram.set(key.certificate, certsAt + i * SEV_CERT_SIZE);
	return { status: Status.SUCCESS, out: lengths };
};

/**
 * SEV API 0.24 GET_ID: 64 bytes, of the first socket; 128 bytes, of both, if there are two and ID_LEN is exactly that.
 */
export const getId: PlatformHandler<Infer<typeof getIdBuffer>> = (psp, { idPaddr, idLen }) => {
	if (idLen < CHIP_ID_SIZE) return { status: Status.INVALID_LENGTH, out: { idLen: CHIP_ID_SIZE } };
	const ids = [psp.chipId];
	if (psp.secondChipId !== undefined && idLen === 2 * CHIP_ID_SIZE) ids.push(psp.secondChipId);
	const length = ids.length * CHIP_ID_SIZE;
	const at = psp.memory.resolveLong(idPaddr, length);
	if (at < 0) return refuse(Status.INVALID_ADDRESS);
	for (const [i, id] of ids.entries()) psp.memory.dram.set(id, at + i * CHIP_ID_SIZE);
	return { status: Status.SUCCESS, out: { idLen: length } };
};

/**
 * SEV API 0.24 DF_FLUSH. The first one after INIT with SEV-ES also enables the TMR, which shows nowhere: addresses in a
 * TMR that is only reserved are refused as well.
 */
export const dfFlush: PlatformHandler<void> = (psp) => (psp.asids.flush() ? OK : refuse(Status.WBINVD_REQUIRED));

/** SEV API 0.24 NOP. */
export const nop: PlatformHandler<void> = () => OK;

/** The keys that every state but UNINIT has. */
export function requireIdentity(psp: Platform) {
	if (psp.identity === undefined) throw new Error('platform: expected keys after INIT, got none');
	return psp.identity;
}
