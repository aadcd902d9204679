import type { BodyType } from './abi/stream.js';
import type { SessionPrefix, SharedRegion } from './ports.js';

/** Header of a section: for PART and END, the START or FULL that introduced its id. */
export interface SectionInfo {
	/** Which of START, PART, END, FULL this occurrence is. */
	readonly type: BodyType;
	/** Number local to the stream. */
	readonly id: number;
	readonly idstr: string;
	readonly instanceId: number;
	readonly version: number;
}

/** Where in the stream an event happened. The object is reused: read it inside the callback. */
export interface Place {
	/** Bytes from the magic to the element or record that caused the event. */
	readonly offset: number;
	/** The section it lies in. */
	readonly section: SectionInfo | undefined;
	/** Bytes of the element or record, from `offset`: those bytes of the stream are what the event stands for. */
	readonly length: number;
	/** Whether it lies in the section's body rather than its header or footer. */
	readonly inBody: boolean;
	/** Whether it lies in the contents of a PACKAGED command. */
	readonly packaged: boolean;
}

/** Place of a RAM record. */
export interface RecordPlace extends Place {
	/** Whether CONTINUE was set: the record names no block. */
	readonly continued: boolean;
}

/** A subsection of the configuration, as read: `data` is its body. */
export interface ConfigurationSubsection {
	readonly name: string;
	readonly version: number;
	readonly data: Uint8Array;
}

/** The configuration section. */
export interface Configuration {
	readonly machineType: string;
	readonly subsections: readonly ConfigurationSubsection[];
}

/** One entry of the MEM_SIZE list. */
export interface StreamBlock {
	readonly idstr: string;
	/** Bytes. */
	readonly usedLength: number;
	/** Bytes of its host pages; only in postcopy, for blocks whose pages are not the host's usual ones. */
	readonly pageSize?: number;
	/** Address of the region in its container; only with capability `x-ignore-shared`. */
	readonly address?: bigint;
	/** Where its pages lie in the file; only with capability `mapped-ram`. */
	readonly mapped?: MappedLayout;
}

/** Header after an entry of the block list of a mapped-ram file. */
export interface MappedLayout {
	readonly version: number;
	/** Bytes. */
	readonly pageSize: bigint;
	/** File offset of the bitmap: right after this header. */
	readonly bitmapOffset: bigint;
	/** File offset of the block's first page. */
	readonly pagesOffset: bigint;
}

/** How the data of an encoded page is encoded: against the page's previous contents, or as a zlib stream of its own. */
export type PageEncoding = 'xbzrle' | 'zlib';

/** One memory slot of the page-encryption bitmap of dialect `sev-v1`. */
export interface BitmapSlot {
	/** The word that announced it; 1, but a target takes any but 2. */
	readonly word: number;
	readonly startGpa: bigint;
	readonly pages: bigint;
	/** Bit i of byte i>>3: page i is encrypted. */
	readonly bitmap: Uint8Array;
}

/** The region list of dialect `sev-list`, as the kernel gave it: little-endian on the wire. */
export interface HostRegionList {
	/** 1 before a list; anything else means that there is none, and no `end`. */
	readonly start: number;
	readonly regions: readonly { readonly gfnStart: bigint; readonly gfnEnd: bigint }[];
	/** 2, but no target looks. */
	readonly end: number | undefined;
}

/** Bytes of a block, as POSTCOPY_RAM_DISCARD and page requests name them. */
export interface ByteRange {
	readonly start: bigint;
	readonly length: bigint;
}

/**
 * Receives what a {@link StreamReader} reads, in stream order. Byte arrays are views into the chunk or a reassembly
 * buffer, valid until the callback returns. An exception thrown here ends the reader and reaches the caller of `push`.
 */
export interface StreamHandler {
	header?(version: number, at: Place): void;
	configuration?(configuration: Configuration, at: Place): void;
	/** A section begins; for `ram` its records follow, for others one `opaqueBody`. */
	sectionBegin?(section: SectionInfo, at: Place): void;
	/** MEM_SIZE record: `total` bytes in all blocks. */
	blockList?(blocks: readonly StreamBlock[], total: number, at: RecordPlace): void;
	/** PAGE record: `page` is 4096 bytes; `address` is the byte offset inside the block. */
	rawPage?(block: string, address: number, page: Uint8Array, at: RecordPlace): void;
	/** ZERO record: every byte of the page is `fill`. */
	zeroPage?(block: string, address: number, fill: number, at: RecordPlace): void;
	/** Encrypted-data record, subtype 1; `prefix` only with the first of the stream. */
	encryptedPage?(
		block: string,
		address: number,
		header: Uint8Array,
		payload: Uint8Array,
		at: RecordPlace,
		prefix: SessionPrefix | undefined,
	): void;
	/** Encrypted-data record, subtype 2; `terminator` is the word that ended the list. */
	sharedRegions?(
		block: string,
		address: number,
		regions: readonly SharedRegion[],
		terminator: number,
		at: RecordPlace,
	): void;
	/** XBZRLE or COMPRESS_PAGE record: `data` as on the wire, at most 4096 or 4110 bytes. */
	/**
	 * In place of `zeroPage`, of pages that follow one another, all of zeros and with CONTINUE: record i is the 9 bytes from
	 * `at.offset` + 9 i on. For readers of memory that is mostly empty; without it each page is told by itself.
	 */
	zeroPages?(block: string, address: number, count: number, at: RecordPlace): void;
	encodedPage?(kind: PageEncoding, block: string, address: number, data: Uint8Array, at: RecordPlace): void;
	/** MULTIFD_FLUSH record of QEMU >= 8.1; its word may carry an address, which QEMU ignores. */
	multifdFlush?(address: number, at: RecordPlace): void;
	/** Page of the in-guest helper: at most 1024 bytes of header, 4096 of page. `subtype` is absent in `mh-v1`. */
	migrationHelperPage?(
		block: string,
		address: number,
		header: Uint8Array,
		page: Uint8Array,
		at: RecordPlace,
		subtype: 4 | undefined,
	): void;
	/** Encrypted-data record, subtype 2, of `sev-v1`. */
	encryptedBitmap?(block: string, address: number, slots: readonly BitmapSlot[], at: RecordPlace): void;
	/** Encrypted-data record, subtype 2, of `sev-list`. */
	hostRegions?(block: string, address: number, list: HostRegionList, at: RecordPlace): void;
	/** MEM_SIZE record of a mapped-ram file, in place of `blockList`; blocks with their pages follow. */
	mappedListBegin?(total: number, at: RecordPlace): void;
	/** A block of it. Bit k of the bitmap (little-endian): page k is present. */
	mappedBlock?(block: StreamBlock, bitmap: Uint8Array, at: RecordPlace): void;
	/** Bytes between the bitmap and the first page, in pieces. */
	mappedGap?(data: Uint8Array, at: RecordPlace): void;
	/** Each page of the block, also the absent ones: those count as zero, whatever the file still holds there. */
	mappedPage?(block: string, address: number, page: Uint8Array, present: boolean, at: RecordPlace): void;
	/** The list is complete. */
	mappedListEnd?(blocks: readonly StreamBlock[], total: number, at: RecordPlace): void;
	/** EOS record; its word may carry an address, which QEMU ignores. */
	endOfRecords?(address: number, at: RecordPlace): void;
	/** The whole body of a section other than `ram`. */
	opaqueBody?(section: SectionInfo, body: Uint8Array, at: Place): void;
	/** The footer of the section was read. */
	sectionEnd?(section: SectionInfo, at: Place): void;
	command?(command: number, data: Uint8Array, at: Place): void;
	/** After the command PACKAGED: `length` bytes of elements follow, which are told as such. */
	packageBegin?(length: number, at: Place): void;
	packageEnd?(at: Place): void;
	/** What the command POSTCOPY_RAM_DISCARD says, after it. */
	ramDiscard?(block: string, ranges: readonly ByteRange[], at: Place): void;
	/** End of the elements; inside a package, of those in it. */
	eof?(at: Place): void;
	/** JSON text, ASCII. */
	vmDescription?(json: Uint8Array, at: Place): void;
	/** Bytes after the end of the stream, in as many pieces as they arrive. */
	trailing?(data: Uint8Array, at: Place): void;
}

/** What `end()` of a reader found. */
export interface StreamEnd {
	/** Whether a VMDESCRIPTION followed EOF. QEMU only warns when it is missing. */
	readonly description: boolean;
	/** Bytes after it. */
	readonly trailing: number;
	/** The first of them, where a description should have been. */
	readonly instead?: number;
}
