/** One block of guest RAM, named as in the stream. */
export interface RamBlock {
	readonly idstr: string;
	/** Bytes in use; a multiple of 4096. */
	readonly usedLength: number;
	/** Bytes of the host pages behind it, a power of two; only postcopy asks. Default 4096. */
	readonly pageSize?: number;
}

/** A half-open range of 4 KiB guest frames that the guest shares with the host. */
export interface SharedRegion {
	readonly gfnStart: number;
	readonly gfnEnd: number;
}

/** What the first encrypted page carries: everything RECEIVE_START needs. */
export interface SessionPrefix {
	readonly policy: number;
	/** The sender's PDH certificate, as the firmware gives it. */
	readonly pdh: Uint8Array;
	readonly session: Uint8Array;
}

/** Where header and payload of record i lie: at `header + i * stride` and `payload + i * stride`. */
export interface RecordLayout {
	readonly header: number;
	readonly payload: number;
	readonly stride: number;
}

/** Seals private pages for transport: the platform firmware, seen from the stream. */
export interface PageSealer {
	/** Bytes of the packet header of every page. */
	readonly headerLength: number;
	/** Called once, before the first private page. */
	start(): SessionPrefix;
	/**
	 * Seals `count` pages, whose numbers within the block are `pages[0..count)`, in order, writing each header and
	 * 4096-byte payload into `out` at the given places and nowhere else. @throws whatever made it fail; nothing is sent then
	 */
	seal(block: number, pages: Uint32Array, count: number, out: Uint8Array, at: RecordLayout): void;
	/** The guest's shared ranges, asked once, after the last page. */
	sharedRegions(): readonly SharedRegion[];
}

/**
 * Takes one record for the stream: at most 1024 bytes of header, whatever the helper needs, and 4096 of page; both are valid
 * during the call. Block and page name the place it goes by, and may be those of an earlier call of `seal`.
 */
export type EmitHelperPage = (block: number, page: number, header: Uint8Array, bytes: Uint8Array) => void;

/** The helper at the other end, through both hosts. Messages arrive whole and in order; nothing here looks into them. */
export interface HelperPeer {
	/** At most 60,000 bytes, copied; only inside a hook. @throws RangeError; the reason, once the migration has ended */
	send(message: Uint8Array): void;
	/** The next message, the caller's to keep. Rejects once the connection or the migration has ended; one call at a time. */
	receive(): Promise<Uint8Array>;
}

/**
 * The helper inside the guest which encrypts and decrypts its pages: dialects `mh-v1` and `mh-v2`. One that has `open` holds a
 * session with the target's helper: it needs the hand-over, and excludes postcopy and multifd. Any other works in every mode,
 * without messages.
 *
 * The hooks are called in the order in which they stand here. What one throws fails the migration. One that waits for `receive`
 * must settle when that rejects: the engine waits for it before it does anything else.
 */
export interface PageHelper {
	/** Most pages asked for at once; more than 64 is for several helpers. Default 1. */
	readonly batchPages?: number;
	/**
	 * Asks for the pages of a block with the numbers `pages[0..count)`, valid during the call, and emits what is ready, be it of
	 * this call or of earlier ones.
	 */
	seal(block: number, pages: Uint32Array, count: number, emit: EmitHelperPage): void;
	/** Emits all that was asked for and is not emitted yet. */
	flush?(emit: EmitHelperPage): void;
	/** The return path is open and no page asked for yet: agrees on a session with the target's helper. */
	open?(peer: HelperPeer): Promise<void>;
	/** The dirty log was read again: each time but the first. All that was asked for before has been emitted. */
	epoch?(peer: HelperPeer): void;
	/** The VM is stopped and the last epoch has begun; its pages follow. */
	freeze?(): void;
	/** The last page is sent, no device is: shows the target's helper what it must have, and awaits its word that it has. */
	prove?(peer: HelperPeer): Promise<void>;
	/**
	 * The target has everything, and the host has committed (`PrecopyOptions.commit`). What is sent here gives the guest up: from
	 * then on the source must not run it. A rejection before leaves it with the source.
	 */
	commit?(peer: HelperPeer): Promise<void>;
	/**
	 * The stream's own commit is sent: awaits the word of the target's helper that the guest is its. A rejection with an error
	 * whose `name` is `HelperRevived` says that it has proved the opposite, and gives the guest back to the source.
	 */
	conclude?(peer: HelperPeer): Promise<void>;
	/** Once, when the migration has failed or was cancelled and the guest is still the source's. Must not throw. */
	failed?(): void;
}

/** Guest memory as the sending engine sees it. Blocks are indices into `blocks`, pages are 4096 bytes. */
export interface PageSource {
	readonly blocks: readonly RamBlock[];
	startDirtyLog(): void;
	stopDirtyLog(): void;
	/** ORs the pages dirtied since the last call into `into` (bit i of word i>>5). */
	syncDirty(block: number, into: Uint32Array): void;
	/** Asked right before each send of the page: whether it stays here, as a helper's own memory does. Default: none does. */
	omits?(block: number, page: number): boolean;
	/** Asked right before each send of the page. */
	isPrivate(block: number, page: number): boolean;
	/** 4096 bytes, valid until the next call. */
	plainPage(block: number, page: number): Uint8Array;
	readonly sealer?: PageSealer;
	/** In place of `sealer`, in the dialects of the in-guest helper. */
	readonly helper?: PageHelper;
	/** Postcopy with `release-ram`: the target has these pages, and nobody will ask for them here again. */
	release?(block: number, page: number, count: number): void;
	/** Where outgoing batches are built; lets a host give memory that its firmware can write. */
	allocate(bytes: number): Uint8Array;
}

/** Opens sealed pages on the target. */
export interface PageOpener {
	/** Called once, before the first `open`; the arrays are valid during the call. */
	start(prefix: SessionPrefix): void;
	/** Records gathered from the stream, in stream order. @throws whatever made it fail; the load fails then */
	open(block: number, pages: Uint32Array, count: number, input: Uint8Array, at: RecordLayout): void;
	allocate(bytes: number): Uint8Array;
	sharedRegions(list: readonly SharedRegion[]): void;
}

/** The counterpart of {@link PageHelper}. */
export interface PageHelperTarget {
	/** One record, to be opened now or at the next `flush`; the arrays are valid during the call. @throws what fails the load */
	open(block: number, page: number, header: Uint8Array, bytes: Uint8Array): void;
	/** Opens what was gathered: at the end of each section, and before a message. @throws what fails the load */
	flush?(): void;
	/**
	 * A message of the source's helper, valid during the call. A helper without this takes none, and no stream that has any.
	 *
	 * @param reply sends one of at most 60,000 bytes back. @throws RangeError if there are more
	 * @throws what fails the load
	 */
	message?(data: Uint8Array, reply: (message: Uint8Array) => void): void;
	/** Once, when the load has failed before the guest ran; `reply` may still reach the source. Must not throw. */
	failed?(reply: (message: Uint8Array) => void): void;
}

/** Guest memory as the loader sees it. */
export interface PageSink {
	readonly blocks: readonly RamBlock[];
	/** `bytes` is valid during the call. */
	plainPage(block: number, page: number, bytes: Uint8Array): void;
	zeroPage(block: number, page: number, fill: number): void;
	/** The page's 4096 bytes as they are, valid until the next call. Needed for XBZRLE, which says what changes in them. */
	contents?(block: number, page: number): Uint8Array;
	readonly opener?: PageOpener;
	readonly helper?: PageHelperTarget;
}

/**
 * Memory whose pages may be missing while the guest runs. Addresses and lengths are bytes of whole host pages. A guest that
 * touches a missing page waits until it is placed; the host tells the loader by `Loader.fault`.
 */
export interface PostcopyMemory {
	/** What is there is outdated: drop it, and let accesses fault. */
	discard(block: number, address: number, length: number): void;
	/** From now on every page that is missing faults. Called once, before the guest runs. */
	watch(): void;
	/** One host page, all at once; whoever waits for it goes on. `bytes` is valid during the call. */
	place(block: number, address: number, bytes: Uint8Array): void;
	/** The same with a page of zeros. */
	placeZero(block: number, address: number): void;
	/** The same with a page for the in-guest helper to open; only host pages of 4096 bytes can be such. */
	placeSealed?(block: number, address: number, header: Uint8Array, bytes: Uint8Array): void;
}

/**
 * Takes stream bytes in order. A promise means back-pressure; the chunk may be reused only after it resolves. Further
 * writes may be made before it does, and must keep their order.
 */
export interface ByteSink {
	write(chunk: Uint8Array): void | Promise<void>;
}

/** State of one device, opaque to the stream. */
export interface DeviceSection {
	readonly idstr: string;
	readonly instanceId: number;
	readonly version: number;
	readonly body: Uint8Array;
}

/** The guest's execution, as the engine needs it. */
export interface VmControl {
	/** Resolves when no vCPU runs any more. */
	stop(): Promise<void>;
	/** Asked after `stop`. */
	devices(): DeviceSection[];
	/** Takes so many percent of its time from each vCPU, 1 to 99; 0 lets them run freely again. For `auto-converge`. */
	throttle?(percent: number): void;
}

/** Time, and the way to let others run. */
export interface Clock {
	/** Milliseconds since any origin; may have a fraction. */
	now(): number;
	sleep(milliseconds: number): Promise<void>;
	/** Lets pending input, timers and control commands of the process run. */
	yield(): Promise<void>;
}
