import type { Dialect } from '../dialect.js';
import type { StreamError } from '../error.js';
import type { SectionInfo } from '../events.js';
import type { ByteSink, PageSink, PostcopyMemory } from '../ports.js';
import type { DeviceLength, ReaderLimits } from '../read/options.js';
import type { LoaderChannel, MultifdInputsOptions } from './multifd.js';

/** Which part of a migration arrived, in the order a sender writes them. */
export const LOAD_PARTS = [
	'header',
	'configuration',
	'block-list',
	'ram-end',
	'shared-regions',
	'devices',
	'eof',
	'description',
] as const;
export type LoadPart = (typeof LOAD_PARTS)[number];

/** What arrived so far. */
export interface LoadProgress {
	/** Stream offset at which each part was complete; `devices` is the last device so far. */
	readonly parts: ReadonlyMap<LoadPart, number>;
	readonly bytes: number;
	readonly plainPages: number;
	readonly zeroPages: number;
	readonly privatePages: number;
	/** Pages that came as XBZRLE or compressed. */
	readonly encodedPages: number;
	/** Devices in order, as `idstr/instance`. */
	readonly devices: readonly string[];
	/** Things QEMU only warns about. */
	readonly warnings: readonly string[];
}

/** How a load ended. */
export type LoadOutcome =
	| {
			readonly status: 'running';
			/** Whether every part of {@link LOAD_PARTS} that this stream should hold arrived; QEMU runs without, too. */
			readonly complete: boolean;
			readonly missing: readonly LoadPart[];
	  }
	| { readonly status: 'failed'; readonly error: StreamError };

/** Statuses a target goes through. QEMU 7.2 qapi/migration.json `MigrationStatus`. */
export type LoadStatus = 'active' | 'postcopy-active' | 'postcopy-paused' | 'postcopy-recover' | 'completed' | 'failed';

/** Options of {@link createLoader}. */
export interface LoaderOptions {
	readonly sink: PageSink;
	readonly dialect: Dialect;
	/** The local machine type; the received name must be a prefix of it, as in QEMU. */
	readonly machineType: string;
	/** 16 bytes: a different one in the stream is refused. */
	readonly uuid?: Uint8Array;
	/** Whether this side wants the hand-over; must agree with the stream. Default false. */
	readonly handover?: boolean;
	/** Loads one device section; `body` is valid during the call. `'unknown'` refuses it with QEMU's text. */
	device(section: SectionInfo, body: Uint8Array): 'loaded' | 'unknown';
	/**
	 * Makes the guest ready and runs it. Called once, when all is loaded and, with hand-over, the source has committed; with
	 * postcopy, when the devices are.
	 */
	finish(progress: LoadProgress): void | Promise<void>;
	/** Whether a description is awaited before running, as QEMU does unless `suppress-vmdesc` is set. Default true. */
	readonly vmDescription?: boolean;
	/** The reverse direction, if the transport has one. */
	readonly reply?: ByteSink;
	readonly deviceLength?: DeviceLength;
	readonly limits?: Partial<ReaderLimits>;
	/** Capability `compress`: compressed pages are taken. Default false, which refuses them as QEMU does. */
	readonly compress?: boolean;
	/** Capability `mapped-ram` of dialect `qemu-9`: the stream is such a file, from its magic on. Default false. */
	readonly mappedRam?: boolean;
	/** Capability `multifd`: pages come on more connections, see {@link Loader.channel}. */
	readonly multifd?: MultifdInputsOptions;
	/** Capability `postcopy-ram`; needs `reply`. Not with hand-over. */
	readonly postcopy?: PostcopyMemory;
	/** Capability `postcopy-preempt`: pages that were asked for come on another connection, see {@link Loader.urgent}. */
	readonly preempt?: boolean;
	/** The status changed. Must not throw. */
	status?(status: LoadStatus): void;
	/** A part is complete. Must not throw. */
	arrived?(part: LoadPart, progress: LoadProgress): void;
}

/** An incoming migration. */
export interface Loader {
	/**
	 * @throws StreamError; the load has failed then, and `outcome` says the same unless the guest was already being started. In
	 * postcopy nothing is thrown once the guest was started: the status becomes `postcopy-paused`
	 */
	push(chunk: Uint8Array): void;
	/** No more bytes come. @throws StreamError if the stream is not whole */
	end(): void;
	readonly progress: LoadProgress;
	readonly status: LoadStatus;
	/** Bytes arrived that wait for other channels: read no further from this connection for now. */
	readonly waiting: boolean;
	/** One more connection of `multifd`; its first bytes say which. @throws RangeError without option `multifd` */
	channel(): LoaderChannel;
	/**
	 * The connection of `preempt`; with `recover` another one begins. When it breaks, or the main one, postcopy pauses, and the
	 * host closes both. @throws RangeError without option `preempt`, or if there is one already
	 */
	urgent(): LoaderChannel;
	/**
	 * The guest waits for a page of 4096 bytes that is missing. True: it was asked for and will be placed. False: nothing is
	 * missing there, try again.
	 */
	fault(block: number, page: number): boolean;
	/**
	 * Goes on with postcopy on another connection, whose bytes are pushed from now on, while the status is `postcopy-paused`;
	 * otherwise false. Until then bytes of the old connection are ignored.
	 */
	recover(reply: ByteSink): boolean;
	/** Never rejects. */
	readonly outcome: Promise<LoadOutcome>;
}
