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
	/** Whether it lies in the section's body rather than its header or footer. */
	readonly inBody: boolean;
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
	/** Address of the region in its container; only with capability `x-ignore-shared`. */
	readonly address?: bigint;
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
	/** EOS record; its word may carry an address, which QEMU ignores. */
	endOfRecords?(address: number, at: RecordPlace): void;
	/** The whole body of a section other than `ram`. */
	opaqueBody?(section: SectionInfo, body: Uint8Array, at: Place): void;
	/** The footer of the section was read. */
	sectionEnd?(section: SectionInfo, at: Place): void;
	command?(command: number, data: Uint8Array, at: Place): void;
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
}
