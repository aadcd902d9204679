import type { SaveFormat } from '../codec/libvirt/header.js';
import type { MultifdCompression } from '../codec/multifd/reader.js';
import type { ZlibLevel } from '../codec/zlib.js';
import type { Dialect } from '../dialect.js';
import type { ByteSink } from '../ports.js';

/** How page contents are written. Zero pages are ZERO records unless said otherwise. */
export type ImageEncoding =
	/** PAGE records. */
	| 'raw'
	/** Each page twice: altered a little, and then the difference, against which the target must decode. */
	| 'xbzrle'
	/** COMPRESS_PAGE records, where that is shorter. */
	| 'zlib'
	/** Pages on channels of their own. */
	| 'multifd'
	/** Pages at fixed places of a file (QEMU >= 9.0). */
	| 'mapped-ram';

/** Where a stream goes. */
export interface ImageSinks {
	readonly main: ByteSink;
	/** A multifd channel, by number. Asked for once each, before anything is written. */
	readonly channel?: (index: number) => ByteSink;
}

/** Options of {@link writeImage}. */
export interface WriteImageOptions {
	/** Default `raw`. Sealed pages keep their own form in any of them but `mapped-ram`, which has none for them. */
	readonly encoding?: ImageEncoding;
	/** Default: the image's. */
	readonly dialect?: Dialect;
	/** zlib level, of pages and channels. Default 1. */
	readonly level?: ZlibLevel;
	readonly multifd?: {
		/** Default 2. */
		readonly channels?: number;
		/** Default `none`. */
		readonly compression?: MultifdCompression;
		/** Whether zero pages go into packets, which only QEMU >= 9.0 reads. Default false: on the main channel. */
		readonly zeroPages?: boolean;
	};
	/** Names of blocks to come first, in this order, in the block list and in the walk. Default: as they are. */
	readonly blockOrder?: readonly string[];
	/** The VMDESCRIPTION: as it was, none, or a new one that names devices and lengths. Default `keep`. */
	readonly description?: 'keep' | 'drop' | 'generate';
	/** False: every record names its block. Default true: CONTINUE as QEMU sets it. */
	readonly continued?: boolean;
	/** PART sections of about so many bytes. Default: one for all pages. */
	readonly partBytes?: number;
	/** A header of libvirt in front, and the stream packed behind it. */
	readonly libvirt?: {
		/** The domain, UTF-8. */
		readonly xml: Uint8Array;
		readonly cookie?: Uint8Array;
		readonly running?: boolean;
		/** `raw` (default), `gzip` or `zstd`, the latter without compressing. */
		readonly format?: SaveFormat;
	};
	/** For an image without configuration, or to change its machine type. */
	readonly machineType?: string;
	/**
	 * Pages that never came: `refuse` (default), as `zero`, or left out (`omit`), which a target takes for what it has. Blocks
	 * that are shared and therefore not sent (`x-ignore-shared`) are left out in any case.
	 */
	readonly missing?: 'refuse' | 'zero' | 'omit';
	/** Told now and then: bytes of the main stream so far. */
	readonly progress?: (bytes: number) => void;
}

/** What was written. */
export interface WrittenImage {
	/** Bytes of the migration stream, before packing and without libvirt's header. */
	readonly bytes: number;
	/** Bytes per multifd channel. */
	readonly channels: readonly number[];
}
