import type { CryptoProvider, RandomSource, RsaPublicKey } from '@cvm/crypto';
import type { FirmwareVersion } from '../abi/policy.js';
import type { PlatformState } from '../abi/states.js';
import type { Status } from '../abi/status.js';
import type { ArkPin } from '../certificates/amd-certificate.js';
import type { Engine } from '../engine/engine.js';
import type { SevGeneration } from '../generations.js';
import type { AsidTable } from './asids.js';
import type { Guest, GuestTable, NewGuest } from './guests.js';
import type { Identity } from './identity.js';
import type { FirmwareOptions } from './options.js';
import type { IdentityStore } from './persistence.js';
import type { SaveAreaTable } from './save-areas.js';
import type { SystemMemory } from './system-memory.js';

/** The firmware's own memory: what commands work on. Nothing of it is in DRAM. */
export interface Platform {
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	/** Another one after DOWNLOAD_FIRMWARE. */
	version: FirmwareVersion;
	/** Whose images DOWNLOAD_FIRMWARE takes. */
	readonly firmwareKey: RsaPublicKey;
	readonly generation: SevGeneration;
	readonly options: FirmwareOptions;
	/** 64 bytes that GET_ID answers. */
	readonly chipId: Uint8Array;
	/** As `chipId`, of the second socket. */
	readonly secondChipId: Uint8Array | undefined;
	readonly cekPrivateKey: Uint8Array;
	/** The root that SEND_START accepts under POLICY.SEV. */
	readonly trustedRoot: ArkPin;
	/** Keys in the SPI flash. */
	readonly flash: IdentityStore;
	/** Where keys are kept since the last INIT: `flash`, or the memory that INIT_EX was given. */
	store: IdentityStore;
	readonly memory: SystemMemory;
	readonly engine: Engine;
	readonly asids: AsidTable;
	readonly guests: GuestTable;
	/** Save areas of SEV-ES guests. */
	readonly vmsaSlots: SaveAreaTable;
	/** Set by the dispatcher only. */
	state: PlatformState;
	/** The flags of INIT. */
	config: number;
	/** Present from INIT to SHUTDOWN. */
	identity: Identity | undefined;
}

/** A command's answer; `out` are the fields it changes in its buffer. */
export interface Reply<B> {
	readonly status: Status;
	readonly out?: Partial<B>;
}

/** A command of the platform. It runs in a platform state that the table allows. */
export type PlatformHandler<B> = (psp: Platform, buffer: B) => Reply<B>;

/** A command that makes a guest. */
export type CreatingHandler<B> = (psp: Platform, buffer: B) => Reply<B> & { readonly guest?: NewGuest };

/**
 * A command on a guest, in the stages between which the dispatcher makes its own checks. The order is part of the ABI:
 * `beforePlatform`, platform state, `beforeHandle`, handle, `beforeState`, guest state, `run`.
 */
export interface GuestHandler<B> {
	readonly beforePlatform?: (psp: Platform, buffer: B) => Reply<B>;
	readonly beforeHandle?: (psp: Platform, buffer: B) => Reply<B>;
	readonly beforeState?: (psp: Platform, guest: Guest, buffer: B) => Reply<B>;
	readonly run: (psp: Platform, guest: Guest, buffer: B) => Reply<B>;
}
