/** First word of a migration stream, "QEVM". QEMU 7.2 migration/savevm.c `QEMU_VM_FILE_MAGIC`. */
export const STREAM_MAGIC = 0x5145564d;
/** The only version QEMU reads or writes. QEMU 7.2 migration/savevm.c `QEMU_VM_FILE_VERSION`. */
export const STREAM_VERSION = 3;
/** Version of the `ram` section; 3 and 5 are refused. QEMU 7.2 migration/ram.c. */
export const RAM_SECTION_VERSION = 4;

/** The byte that opens each element of the stream. QEMU 7.2 migration/savevm.h. */
export const SectionType = {
	eof: 0x00,
	start: 0x01,
	part: 0x02,
	end: 0x03,
	full: 0x04,
	subsection: 0x05,
	vmDescription: 0x06,
	configuration: 0x07,
	command: 0x08,
	footer: 0x7e,
} as const;
export type SectionType = (typeof SectionType)[keyof typeof SectionType];

/** The four elements that carry a section body. */
export type BodyType =
	| typeof SectionType.start
	| typeof SectionType.part
	| typeof SectionType.end
	| typeof SectionType.full;

/**
 * Values of a COMMAND element. QEMU 7.2 migration/savevm.c `enum qemu_vm_cmd`; `handoverCommit` and `helperMessage` are this
 * project's own (see {@link HANDOVER_CAPABILITY}) and lie far outside QEMU's numbering.
 */
export const Command = {
	openReturnPath: 1,
	ping: 2,
	postcopyAdvise: 3,
	postcopyListen: 4,
	postcopyRun: 5,
	postcopyRamDiscard: 6,
	packaged: 7,
	enableColo: 8,
	postcopyResume: 9,
	recvBitmap: 10,
	/** Since QEMU 10.0. */
	switchoverStart: 11,
	handoverCommit: 0x4356,
	/** From the in-guest helper of the source to that of the target; only dialects that have one. */
	helperMessage: 0x4357,
} as const;
export type Command = (typeof Command)[keyof typeof Command];

/** Name QEMU prints for a command, and its fixed length (-1: varies). QEMU 7.2 migration/savevm.c `mig_cmd_args`. */
export const COMMAND_RULES: ReadonlyMap<number, { readonly name: string; readonly length: number }> = new Map([
	[Command.openReturnPath, { name: 'OPEN_RETURN_PATH', length: 0 }],
	[Command.ping, { name: 'PING', length: 4 }],
	[Command.postcopyAdvise, { name: 'POSTCOPY_ADVISE', length: -1 }],
	[Command.postcopyListen, { name: 'POSTCOPY_LISTEN', length: 0 }],
	[Command.postcopyRun, { name: 'POSTCOPY_RUN', length: 0 }],
	[Command.postcopyRamDiscard, { name: 'POSTCOPY_RAM_DISCARD', length: -1 }],
	[Command.packaged, { name: 'PACKAGED', length: 4 }],
	[Command.enableColo, { name: 'ENABLE_COLO', length: -1 }],
	[Command.postcopyResume, { name: 'POSTCOPY_RESUME', length: 0 }],
	[Command.recvBitmap, { name: 'RECV_BITMAP', length: -1 }],
	[Command.switchoverStart, { name: 'SWITCHOVER_START', length: 0 }],
	[Command.handoverCommit, { name: 'HANDOVER_COMMIT', length: 0 }],
	[Command.helperMessage, { name: 'HELPER_MESSAGE', length: -1 }],
]);

/**
 * Name under which a stream announces, in `configuration/capabilities`, that it uses this project's hand-over: the
 * target runs only after {@link Command.handoverCommit}. An extension; no QEMU knows it, so every QEMU refuses such a stream.
 */
export const HANDOVER_CAPABILITY = 'x-handover-commit';
/** QEMU's only "validated" capability in 7.2: shared blocks are listed, with their address, but not sent. */
export const IGNORE_SHARED_CAPABILITY = 'x-ignore-shared';
/** "Validated" since QEMU 9.0: pages lie at fixed places of a file, after each entry of the block list. */
export const MAPPED_RAM_CAPABILITY = 'mapped-ram';

/** Low 12 bits of the word that opens each RAM record. QEMU 7.2 migration/ram.c `RAM_SAVE_FLAG_*`. */
export const RamFlag = {
	zero: 0x002,
	memSize: 0x004,
	page: 0x008,
	endOfSection: 0x010,
	continue: 0x020,
	xbzrle: 0x040,
	hook: 0x080,
	compressPage: 0x100,
	/** `RAM_SAVE_FLAG_ENCRYPTED_DATA` of the SEV trees (AMDESE/qemu `sev_live_migration_v4`); unknown to QEMU 7.2. */
	encryptedData: 0x200,
	/** `RAM_SAVE_FLAG_MULTIFD_FLUSH` of QEMU >= 8.1, the same value. */
	multifdFlush: 0x200,
} as const;

/** Byte after the block name of an XBZRLE record. QEMU 7.2 migration/ram.c `ENCODING_FLAG_XBZRLE`. */
export const XBZRLE_ENCODING = 1;
/** Most bytes of a compressed page: zlib's `compressBound(4096)`. QEMU 7.2 migration/ram.c `ram_load_precopy`. */
export const MAX_COMPRESSED_PAGE = 4110;

/**
 * Word after the block name of an encrypted-data record; 2 is a bitmap or a region list, as the dialect says.
 * AMDESE/qemu `sev_live_migration_v4` migration/ram.c; 4: qemu-devel "Confidential guest-assisted live migration" v2.
 */
export const EncryptedSubtype = { page: 1, sharedRegions: 2, migrationHelperPage: 4 } as const;

/** Words of the subtype-2 bitmap. AMDESE/qemu `sev-migration-v1` target/i386/sev.c. */
export const BitmapWord = { slot: 1, end: 2 } as const;

/** Words of the subtype-2 list. AMDESE/qemu `sev_live_migration_v4` target/i386/sev.c. */
export const RegionListWord = { entry: 1, end: 2 } as const;

/** Largest of the four blobs of an encrypted page. AMDESE/qemu `sev_live_migration_v4` `SEV_FW_BLOB_MAX_SIZE`. */
export const MAX_FIRMWARE_BLOB = 0x4000;

/** Entries of a host-order region list: one page of them. AMDESE/qemu `build33`. */
export const MAX_HOST_REGIONS = 256;

/** Largest header of a migration-helper page. qemu-devel "Confidential guest-assisted live migration" v2, patch 2. */
export const MAX_HELPER_HEADER = 1024;
/** PROJECT: most bytes of a message between two in-guest helpers, in either direction. */
export const MAX_HELPER_MESSAGE = 60_000;

/** The only version of the header after an entry of the block list. QEMU 9.0 migration/ram.c `MAPPED_RAM_HDR_VERSION`. */
export const MAPPED_RAM_VERSION = 1;
/** Bytes of it. */
export const MAPPED_RAM_HEADER = 28;
