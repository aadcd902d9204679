import type { Infer } from '@cvm/layout';
import { CONFIG_ES, type initBuffer, initExBuffer, NV_SIZE, TMR_SIZE } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { completeIdentity, endorsementKey, type StoredIdentity, wipeIdentity } from '../identity.js';
import { type IdentityStore, storageInMemory } from '../persistence.js';
import type { Platform, PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import type { SpaRange } from '../system-memory.js';
import { shutdown } from './platform.js';

const PAGE = 4096n;

/** What INIT and INIT_EX have in common. */
interface Configuration {
	readonly flags: number;
	readonly tmrPaddr: bigint;
	readonly tmrLength: number;
}

/** Where keys are kept; `area` is absent for the flash. */
interface Place {
	readonly store: IdentityStore;
	readonly area?: SpaRange;
}

/**
 * SEV API 0.24 INIT: takes up or makes the platform's keys, marks all ASIDs dirty, reserves the TMR of SEV-ES.
 *
 * Refuses, in this order, with INVALID_CONFIG (flags, reserved bytes), HWERROR_PLATFORM (the flash cannot be read),
 * SECURE_DATA_INVALID (it holds something else than this chip's keys), INVALID_ADDRESS and INVALID_LENGTH (TMR), and
 * HWERROR_PLATFORM (new keys cannot be written). Memory encryption is always enabled on all cores.
 */
export const init: PlatformHandler<Infer<typeof initBuffer>> = (psp, b) => {
	const status = isKnown(b.flags, b.reserved) ? start(psp, b, { store: psp.flash }) : Status.INVALID_CONFIG;
	return started(psp, status);
};

/**
 * SEV API 0.24 INIT_EX: INIT with the keys in {@link NV_SIZE} bytes of the system's memory, sealed as in the flash. They are
 * saved there until SHUTDOWN. Contents that are not this chip's are erased, so that the next INIT_EX succeeds.
 *
 * UNCERTAIN(SEV API 0.24 INIT_EX): the order of checks behind LENGTH is not public; here those of NV_PADDR and NV_LENGTH are
 * followed by the contents, the TMR, and whether the two overlap.
 */
export const initEx: PlatformHandler<Infer<typeof initExBuffer>> = (psp, b) => {
	if (!isKnown(b.flags, b.reserved, b.reserved2)) return started(psp, Status.INVALID_CONFIG);
	if (b.length !== initExBuffer.size) return started(psp, Status.INVALID_LENGTH);
	const place = placeOf(psp, b);
	return started(psp, typeof place === 'number' ? place : start(psp, b, place));
};

/** Flags other than ES, and reserved bytes, are refused. */
const isKnown = (flags: number, ...reserved: readonly Uint8Array[]): boolean =>
	(flags & ~CONFIG_ES) === 0 && reserved.every((field) => field.every((b) => b === 0));

/** An INIT that the state check let through and that fails leaves the platform as after SHUTDOWN. */
function started(psp: Platform, status: Status) {
	if (status === Status.SUCCESS) return OK;
	shutdown(psp);
	return refuse(status);
}

/** NV_LENGTH is looked at only if NV_PADDR names memory. */
function placeOf(psp: Platform, { nvPaddr, nvLength }: Infer<typeof initExBuffer>): Place | Status {
	if (nvPaddr === 0n) return { store: psp.flash };
	if (nvPaddr % PAGE !== 0n) return Status.INVALID_ADDRESS;
	if (nvLength !== NV_SIZE) return Status.INVALID_LENGTH;
	const start = psp.memory.resolveLong(nvPaddr, NV_SIZE);
	if (start < 0) return Status.INVALID_ADDRESS;
	const store = psp.flash.in(storageInMemory(psp.memory.dram, start));
	return { store, area: { start, end: start + NV_SIZE } };
}

function start(psp: Platform, b: Configuration, place: Place): Status {
	const { store, area } = place;
	const stored = store.load();
	if (stored === 'unreadable') return Status.HWERROR_PLATFORM;
	if (stored === 'invalid') {
		if (area !== undefined) store.erase();
		return Status.SECURE_DATA_INVALID;
	}
	const known: StoredIdentity = stored === 'empty' ? { owner: 'self' } : stored;
	const status = startWith(psp, b, place, known);
	if (status !== Status.SUCCESS) wipeIdentity(known);
	return status;
}

function startWith(psp: Platform, b: Configuration, { store, area }: Place, known: StoredIdentity): Status {
	const tmr = (b.flags & CONFIG_ES) !== 0 ? tmrOf(psp, b) : undefined;
	if (typeof tmr === 'number') return tmr;
	if (tmr !== undefined && area !== undefined && tmr.start < area.end && tmr.end > area.start) {
		return Status.INVALID_ADDRESS;
	}
	const identity = completeIdentity(psp, endorsementKey(psp, psp.cekPrivateKey), known);
	const isNew = identity.oca !== known.oca || identity.pek !== known.pek || identity.pdh !== known.pdh;
	if (isNew && !store.save(identity)) {
		wipeIdentity(identity);
		return Status.HWERROR_PLATFORM;
	}
	psp.identity = identity;
	psp.store = store;
	psp.memory.reserved = tmr;
	psp.config = b.flags;
	psp.asids.reset();
	return Status.SUCCESS;
}

function tmrOf(psp: Platform, { tmrPaddr, tmrLength }: Configuration): SpaRange | Status {
	if (tmrPaddr % BigInt(TMR_SIZE) !== 0n) return Status.INVALID_ADDRESS;
	if (tmrLength !== TMR_SIZE) return Status.INVALID_LENGTH;
	const start = psp.memory.resolveLong(tmrPaddr, TMR_SIZE);
	return start < 0 ? Status.INVALID_ADDRESS : { start, end: start + TMR_SIZE };
}
