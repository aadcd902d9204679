import type { Infer } from '@cvm/layout';
import {
	CHIP_ID_SIZE,
	CONFIG_ES,
	type getIdBuffer,
	type initBuffer,
	PLATFORM_CHAIN_SIZE,
	type pdhCertExportBuffer,
	type platformStatusBuffer,
	TMR_SIZE,
} from '../../abi/buffers.js';
import { PlatformState } from '../../abi/states.js';
import { Status } from '../../abi/status.js';
import { SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import { closeChannel } from '../guests.js';
import { createIdentity, createPdh, endorsementKey } from '../identity.js';
import type { Platform, PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import type { SpaRange } from '../system-memory.js';

/** SEV API 0.24 INIT: takes up or makes the platform's keys, marks all ASIDs dirty, reserves the TMR of SEV-ES. */
export const init: PlatformHandler<Infer<typeof initBuffer>> = (psp, { flags, reserved, tmrPaddr, tmrLength }) => {
	if ((flags & ~CONFIG_ES) !== 0 || reserved.some((b) => b !== 0)) return refuse(Status.INVALID_CONFIG);
	const stored = psp.store.load();
	if (stored === 'invalid') return refuse(Status.SECURE_DATA_INVALID);
	let tmr: SpaRange | undefined;
	if ((flags & CONFIG_ES) !== 0) {
		if (tmrPaddr % BigInt(TMR_SIZE) !== 0n) return refuse(Status.INVALID_ADDRESS);
		if (tmrLength !== TMR_SIZE) return refuse(Status.INVALID_LENGTH);
		const start = psp.memory.resolveLong(tmrPaddr, TMR_SIZE);
		if (start < 0) return refuse(Status.INVALID_ADDRESS);
		tmr = { start, end: start + TMR_SIZE };
	}
	const cek = endorsementKey(psp, psp.cekPrivateKey);
	const identity = stored === 'empty' ? createIdentity(psp, cek) : { cek, ...stored };
	if (stored === 'empty') psp.store.save(identity);
	psp.identity = identity;
	psp.memory.reserved = tmr;
	psp.config = flags;
	psp.asids.reset();
	return OK;
};

/** SEV API 0.24 SHUTDOWN: destroys all guest contexts, bound or not. */
export const shutdown: PlatformHandler<void> = (psp) => {
	for (const guest of psp.guests.values()) {
		closeChannel(psp.provider, guest);
		guest.vek.fill(0);
		psp.guests.remove(guest.handle);
	}
	psp.asids.reset();
	psp.identity = undefined;
	psp.memory.reserved = undefined;
	psp.config = 0;
	return OK;
};

/** SEV API 0.24 PLATFORM_STATUS. The platform is always self-owned: PEK_CERT_IMPORT is not implemented. */
export const platformStatus: PlatformHandler<Infer<typeof platformStatusBuffer>> = (psp) => ({
	status: Status.SUCCESS,
	out: {
		apiMajor: psp.version.major,
		apiMinor: psp.version.minor,
		state: psp.state,
		owner: 0,
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

/** SEV API 0.24 PDH_GEN: a new PDH. Every session buffer made for the old one is worthless from now on. */
export const pdhGen: PlatformHandler<void> = (psp) => {
	const old = requireIdentity(psp);
	const identity = { ...old, pdh: createPdh(psp, old.pek) };
	psp.store.save(identity);
	psp.identity = identity;
	old.pdh.privateKey.fill(0);
	return OK;
};

/** SEV API 0.24 GET_ID: 64 bytes, of one socket. */
export const getId: PlatformHandler<Infer<typeof getIdBuffer>> = (psp, { idPaddr, idLen }) => {
	const out = { idLen: CHIP_ID_SIZE };
	if (idLen < CHIP_ID_SIZE) return { status: Status.INVALID_LENGTH, out };
	const at = psp.memory.resolveLong(idPaddr, CHIP_ID_SIZE);
	if (at < 0) return refuse(Status.INVALID_ADDRESS);
	psp.memory.dram.set(psp.chipId, at);
	return { status: Status.SUCCESS, out };
};

/** SEV API 0.24 DF_FLUSH. */
export const dfFlush: PlatformHandler<void> = (psp) => (psp.asids.flush() ? OK : refuse(Status.WBINVD_REQUIRED));

/** SEV API 0.24 NOP. */
export const nop: PlatformHandler<void> = () => OK;

/** The keys that every state but UNINIT has. */
export function requireIdentity(psp: Platform) {
	if (psp.identity === undefined) throw new Error('platform: expected keys after INIT, got none');
	return psp.identity;
}
