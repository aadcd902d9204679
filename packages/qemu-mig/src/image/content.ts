import type { SaveImage } from '../codec/libvirt/header.js';
import type { VmDescription } from '../device/description.js';
import type { Dialect } from '../dialect.js';
import type { BitmapSlot, Configuration, HostRegionList, SectionInfo, StreamEnd } from '../events.js';
import type { SessionPrefix, SharedRegion } from '../ports.js';
import type { Detection } from '../read/detect.js';
import type { PageFacts } from './facts.js';
import type { KindCounts } from './page-kind.js';
import type { RamStore } from './store.js';

/** One block of guest RAM. */
export interface ImageBlock {
	/** Number of the block in the image's store. */
	readonly index: number;
	readonly idstr: string;
	/** Bytes. */
	readonly usedLength: number;
	/** Whether the stream's block list said so; otherwise it is the end of the highest page seen. */
	readonly listed: boolean;
	/** Bytes of its host pages, where the list says so. */
	readonly pageSize?: number;
	/** Address in its container, where the list says so (`x-ignore-shared`). */
	readonly address?: bigint;
	readonly facts: PageFacts;
	/** Where headers of sealed pages are kept: a block of the store, and bytes per page in it. */
	readonly headers?: HeaderSlots;
}

/** Each slot: be16 length, and as many bytes. */
export interface HeaderSlots {
	readonly block: number;
	readonly stride: number;
}

/** A section other than `ram`. */
export interface ImageDevice {
	/** FULL for devices; START, PART and END for others that go by pieces. */
	readonly section: SectionInfo;
	/** Offset of the section in its input. */
	readonly offset: number;
	/** Offset of the body. */
	readonly bodyOffset: number;
	readonly body: Uint8Array;
	/** Whether it came inside a PACKAGED command. */
	readonly packaged: boolean;
	/** Number of the input. */
	readonly input: number;
	/** Whether it was read after a gap in a damaged stream. */
	readonly recovered: boolean;
}

/** A command, with its data. */
export interface ImageCommand {
	readonly command: number;
	readonly data: Uint8Array;
	readonly offset: number;
	readonly input: number;
}

/** Which pages the guest shares with the host, in the form of the dialect. */
export type PageStatus = { readonly offset: number } & (
	| { readonly kind: 'regions'; readonly regions: readonly SharedRegion[]; readonly terminator: number }
	| { readonly kind: 'host-regions'; readonly list: HostRegionList }
	| { readonly kind: 'bitmap'; readonly slots: readonly BitmapSlot[] }
);

/** One section of `ram`, for a time line. */
export interface RamSection {
	readonly section: SectionInfo;
	readonly offset: number;
	/** Bytes, header and footer included. */
	readonly length: number;
	readonly input: number;
	/** Records of pages by kind. */
	readonly pages: KindCounts;
	/** `StreamImage.passes` as it was at its end. */
	readonly pass: number;
	/** Sections summed up in this entry; 1 unless there are very many. */
	readonly sections: number;
}

/** What multifd channels carried. */
export interface MultifdInfo {
	/** Per channel, in the order of the inputs. */
	readonly channels: readonly MultifdChannelInfo[];
	/** Barriers in the main stream. */
	readonly barriers: number;
}

/** One multifd channel. */
export interface MultifdChannelInfo {
	readonly input: number;
	readonly channel: number;
	readonly uuid: Uint8Array;
	readonly packets: number;
	readonly syncs: number;
	readonly pages: number;
	/** Flags of compression, see `MultifdFlag`. */
	readonly compression: number;
	/** Lowest and highest packet number; -1n without packets. */
	readonly first: bigint;
	readonly last: bigint;
	/** Device state of QEMU >= 10.0, which is counted but not kept. */
	readonly deviceStates: number;
}

/** What an input turned out to be. */
export type InputKind = 'migration' | 'multifd' | 'recovery' | 'preempt';

/** One input that was read. */
export interface InputInfo {
	readonly name: string;
	readonly kind: InputKind;
	/** Bytes read of the file or connection. */
	readonly bytes: number;
	/** The header in front, if libvirt wrote the file; offsets do not count it. */
	readonly libvirt?: SaveImage;
}

/** The VMDESCRIPTION. */
export interface ImageDescription {
	readonly json: Uint8Array;
	readonly parsed?: VmDescription;
	/** Why it could not be parsed. */
	readonly problem?: string;
	readonly offset: number;
}

/** The content of a migration stream, however it was encoded. */
export interface StreamImage {
	readonly dialect: Dialect;
	/** How the dialect was found out, if it was. */
	readonly detection?: Detection;
	readonly configuration?: Configuration;
	readonly capabilities: readonly string[];
	/** In the order of the block list. */
	readonly blocks: readonly ImageBlock[];
	/** In stream order. */
	readonly devices: readonly ImageDevice[];
	/** In stream order. */
	readonly commands: readonly ImageCommand[];
	/** Prefix of the first encrypted page. */
	readonly session?: SessionPrefix;
	readonly pageStatus?: PageStatus;
	readonly description?: ImageDescription;
	readonly ramSection?: SectionInfo;
	readonly sections: readonly RamSection[];
	/** Records of the page that was sent most often. A pass sends no page twice, so that there were at least as many. */
	readonly passes: number;
	/** Page records by kind, repeated ones included. */
	readonly counts: KindCounts;
	/** Whether the source switched to postcopy. */
	readonly postcopy: boolean;
	readonly multifd?: MultifdInfo;
	readonly inputs: readonly InputInfo[];
	/** How the stream ended; absent if it was cut. */
	readonly end?: StreamEnd;
	/** What was odd but understood, one line each. */
	readonly notes: readonly string[];
	/** Page contents; absent if none were kept. */
	readonly store?: RamStore;
}
