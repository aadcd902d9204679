import type { Dialect } from '../dialect.js';
import type { ConfigurationSubsection } from '../events.js';
import type { ReturnPathMode } from '../handover/source.js';
import type { ByteSink, Clock, PageSource, VmControl } from '../ports.js';
import type { PrecopyCapabilities } from './capabilities.js';
import type { PrecopyError } from './failure.js';
import type { MigrationStatus } from './info.js';
import type { MultifdSinks } from './multifd-sender.js';
import type { PrecopyParameters } from './parameters.js';
import type { PrecopyStatistics } from './statistics.js';

/** A section was written, headers and footer included. */
export interface SectionWritten {
	readonly type: 'start' | 'part' | 'end' | 'full';
	readonly idstr: string;
	/** Stream offset of its first byte. */
	readonly offset: number;
	readonly bytes: number;
	/** Pages in it; 0 for devices. */
	readonly pages: number;
}

/** What the engine tells while it runs. Called synchronously; must not throw. */
export interface PrecopyEvents {
	status?(status: MigrationStatus): void;
	/** A synchronisation of the dirty log, counted from 1. */
	pass?(count: number): void;
	section?(section: SectionWritten): void;
}

/** Options of {@link createPrecopy}. */
export interface PrecopyOptions {
	readonly source: PageSource;
	readonly vm: VmControl;
	readonly sink: ByteSink;
	readonly clock: Clock;
	readonly dialect: Dialect;
	readonly machineType: string;
	/** 16 bytes; written as `configuration/uuid` (QEMU: capability `validate-uuid`). */
	readonly uuid?: Uint8Array;
	/** More subsections, after the capabilities, in order. */
	readonly subsections?: readonly ConfigurationSubsection[];
	/** Read whenever they are needed, so the caller may change them; the engine itself writes the downtime bump. */
	readonly parameters?: PrecopyParameters;
	readonly capabilities?: PrecopyCapabilities;
	/** More connections, for pages only. */
	readonly multifd?: MultifdSinks;
	/**
	 * The connection of capability `postcopy-preempt`, for pages that the guest waits for. QEMU takes the connection that
	 * it accepts first for the main one, and must have this one before the guest moves.
	 */
	readonly urgent?: ByteSink;
	/** Default `none`. */
	readonly returnPath?: ReturnPathMode;
	/** With `handover`: the source gives the guest up for good. A rejection leaves the guest with the source. */
	commit?(): void | Promise<void>;
	/** Raise `downtimeLimit` to 1000 ms as the SEV trees do. Default: on for `sev-v4` with a sealer. */
	readonly downtimeBump?: boolean;
	/** Default on, and always on with `handover`; QEMU: `suppress-vmdesc=off`. */
	readonly vmDescription?: boolean;
	readonly events?: PrecopyEvents;
}

/** How an outgoing migration ended. */
export type PrecopyResult =
	| { readonly status: 'completed' }
	| {
			readonly status: 'cancelled';
			/** Whether `vm.stop` was called: the caller restarts the VM. */
			readonly stopped: boolean;
	  }
	| {
			readonly status: 'failed';
			readonly error: PrecopyError;
			readonly stopped: boolean;
			/**
			 * False once the target may be running: the source must never run again then. Without hand-over that begins with
			 * EOF, although QEMU would resume; with postcopy, with the command that ends the package of devices.
			 */
			readonly mayResume: boolean;
	  };

/** An outgoing migration. */
export interface Precopy {
	/** Runs it to its end. Never rejects. May be called once. */
	run(): Promise<PrecopyResult>;
	/**
	 * Asks for an early end, which `run` then reports. False when it comes too late: already ended, committing, or, without
	 * hand-over, the target has been given the whole stream and may run. In postcopy it always is.
	 */
	cancel(): boolean;
	/**
	 * Asks for the guest to move now, its memory later; it happens when the present section ends, unless what is left fits
	 * into the allowed downtime. False without capability `postcopy-ram`, or when the guest is stopped already.
	 */
	startPostcopy(): boolean;
	/**
	 * Goes on with postcopy on another connection, while its status is `postcopy-paused`; otherwise false. What the target
	 * answers there is fed to `returnPath` as before; to be called before the first of it is.
	 *
	 * @param urgent with capability `postcopy-preempt`, which breaks and recovers with the main connection
	 * @throws RangeError if it is missing, or there without that capability
	 */
	recover(sink: ByteSink, urgent?: ByteSink): boolean;
	/**
	 * Gives up in the status `postcopy-paused`; otherwise false. `run` fails, and the source must not resume unless it is
	 * certain that the guest never ran on the target.
	 */
	abandon(): boolean;
	/** Ends the status `pre-switchover`; false in any other. QEMU: `migrate-continue`. */
	continue(): boolean;
	/** The live object: change its fields at any time. */
	readonly parameters: PrecopyParameters;
	readonly statistics: PrecopyStatistics;
	/** Feed what the target sends here. */
	readonly returnPath: {
		push(chunk: Uint8Array): void;
		/** The reverse direction ended. */
		end(): void;
	};
}
