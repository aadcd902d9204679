import type { Dialect } from '../dialect.js';
import type { SectionInfo, StreamBlock, StreamHandler } from '../events.js';

/** Caps on what a stream may make the reader hold, in bytes unless said otherwise. */
export interface ReaderLimits {
	/** Body of one section other than `ram`. Default 16 MiB. */
	readonly deviceBody: number;
	/** VMDESCRIPTION. Default 10 MiB: as far as scripts/analyze-migration.py looks for it. */
	readonly vmDescription: number;
	/** Entries of the block list. Default 1024. */
	readonly blocks: number;
	/** Entries of the shared-region list. Default 65536. */
	readonly sharedRegions: number;
	/** Page-encryption bitmap of `sev-v1`, all slots. Default 16 MiB: 512 GiB of guest memory. */
	readonly encryptionBitmap: number;
	/** Bitmap of one block of a mapped-ram file. Default 16 MiB. */
	readonly mappedBitmap: number;
}

/** Default {@link ReaderLimits}. */
export const DEFAULT_LIMITS: ReaderLimits = {
	deviceBody: 16 * 1024 * 1024,
	vmDescription: 10 * 1024 * 1024,
	blocks: 1024,
	sharedRegions: 65536,
	encryptionBitmap: 16 * 1024 * 1024,
	mappedBitmap: 16 * 1024 * 1024,
};

/**
 * Length of a device's body where the caller knows it; `undefined` leaves it to the footer scan.
 */
export type DeviceLength = (idstr: string, instanceId: number, version: number) => number | undefined;

/**
 * Whether the entry of a block in the block list holds a page size; `undefined` leaves it to what the stream advised. A
 * source writes it if capability `postcopy-ram` is on and the block's host pages are not of the usual size.
 */
export type PageSizeListed = (idstr: string, usedLength: number) => boolean | undefined;

/**
 * What a connection carries.
 *
 * - `migration`: all of it, from the magic on
 * - `recovery`: the source's second connection after postcopy paused: no header, commands and sections only
 * - `preempt`: urgent pages of postcopy, from QEMU 7.2 on: records with a CONTINUE state of their own, up to EOS
 */
export type StreamKind = 'migration' | 'recovery' | 'preempt';

/** What a recovery or preempt stream needs to know of the stream before it. */
export interface ResumeState {
	/** Sections introduced, with their ids. */
	readonly sections: readonly SectionInfo[];
	/** The block list, if it was read. */
	readonly blocks: readonly StreamBlock[] | undefined;
	/** The block that a record with CONTINUE belongs to. */
	readonly block: string | undefined;
	/** Whether the session prefix of encrypted pages was read. */
	readonly session: boolean;
	readonly postcopy: PostcopyState;
}

/** Where a target stands. QEMU 7.2 migration/postcopy-ram.h `PostcopyState`. */
export const PostcopyState = { none: 0, advise: 1, discard: 2, listening: 3, running: 4 } as const;
export type PostcopyState = (typeof PostcopyState)[keyof typeof PostcopyState];

/** Options of {@link StreamReader}. */
export interface ReaderOptions {
	readonly dialect: Dialect;
	readonly handler: StreamHandler;
	readonly deviceLength?: DeviceLength;
	readonly limits?: Partial<ReaderLimits>;
	/** Default `migration`. */
	readonly stream?: StreamKind;
	/** `resumeState` of the reader of the first connection. Without it a recovery stream's PART sections are taken for `ram`. */
	readonly resume?: ResumeState;
	/**
	 * `syntax` (default): what can be read is read. `target`: also refused is what a target of the dialect's tree refuses:
	 * unknown commands, wrong lengths, PING without return path, commands and records in the wrong state of postcopy, records
	 * outside the blocks that the stream listed.
	 */
	readonly check?: 'syntax' | 'target';
	/** Whether capability `compress` is on. Default true; false refuses compressed pages as such a target does. */
	readonly compress?: boolean;
	readonly pageSizeListed?: PageSizeListed;
	/** Default true. False for machine types before 2.4, which write none; `deviceLength` must know every length then. */
	readonly sectionFooters?: boolean;
	/** Default true. False for machine types before 2.4, which write none. */
	readonly configurationSection?: boolean;
}
