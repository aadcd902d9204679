/** One block of guest RAM, named as in the stream. */
export interface RamBlock {
	readonly idstr: string;
	/** Bytes in use; a multiple of 4096. */
	readonly usedLength: number;
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

/** Guest memory as the sending engine sees it. Blocks are indices into `blocks`, pages are 4096 bytes. */
export interface PageSource {
	readonly blocks: readonly RamBlock[];
	startDirtyLog(): void;
	stopDirtyLog(): void;
	/** ORs the pages dirtied since the last call into `into` (bit i of word i>>5). */
	syncDirty(block: number, into: Uint32Array): void;
	/** Asked right before each send of the page. */
	isPrivate(block: number, page: number): boolean;
	/** 4096 bytes, valid until the next call. */
	plainPage(block: number, page: number): Uint8Array;
	readonly sealer?: PageSealer;
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

/** Guest memory as the loader sees it. */
export interface PageSink {
	readonly blocks: readonly RamBlock[];
	/** `bytes` is valid during the call. */
	plainPage(block: number, page: number, bytes: Uint8Array): void;
	zeroPage(block: number, page: number, fill: number): void;
	readonly opener?: PageOpener;
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
}

/** Time, and the way to let others run. */
export interface Clock {
	/** Milliseconds since any origin; may have a fraction. */
	now(): number;
	sleep(milliseconds: number): Promise<void>;
	/** Lets pending input, timers and control commands of the process run. */
	yield(): Promise<void>;
}
