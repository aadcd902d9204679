import type { Place } from './events.js';
import { oneLine } from './latin1.js';

/**
 * - `not-a-stream`, `version`, `configuration`: the beginning is wrong, or describes another machine
 * - `truncated`: the stream ended inside an element or before EOF
 * - `section`, `footer`, `command`: an element is unknown or out of place
 * - `record`, `continue`, `offset`, `block`, `block-list`, `encrypted`: a RAM record is wrong
 * - `too-large`: a length exceeds its cap; nothing was allocated for it
 * - `unsupported`: legal in QEMU, not handled by this reader
 * - `device`, `page`: the receiver of a device section or page refused it; see `cause`
 * - `helper`: the in-guest helper refused a message; see `cause`
 * - `finish`: everything arrived, but the guest could not be started
 * - `incomplete`: a hand-over stream ended its part without all that a target needs
 * - `closed`: the reader was used after it ended or failed
 */
export type StreamErrorCode =
	| 'not-a-stream'
	| 'version'
	| 'configuration'
	| 'truncated'
	| 'section'
	| 'footer'
	| 'command'
	| 'record'
	| 'continue'
	| 'offset'
	| 'block'
	| 'block-list'
	| 'encrypted'
	| 'too-large'
	| 'unsupported'
	| 'device'
	| 'page'
	| 'helper'
	| 'finish'
	| 'incomplete'
	| 'closed';

/** Error texts as QEMU prints them after `load of migration failed: `. */
export type Strerror =
	| 'Invalid argument'
	| 'Input/output error'
	| 'Operation not supported'
	| 'Operation not permitted'
	| 'Numerical result out of range'
	| 'No such file or directory'
	| 'Resource temporarily unavailable';

/** What {@link StreamError} needs beyond its place. */
export interface StreamFault {
	readonly code: StreamErrorCode;
	/** One line: what, expected, got. */
	readonly message: string;
	/** The lines QEMU 7.2 prints for this fault, without the generic section line; empty where QEMU is silent. */
	readonly qemu?: readonly string[];
	readonly strerror?: Strerror;
	readonly cause?: unknown;
}

/** What an error keeps of a {@link Place}. */
export type FaultPlace = Pick<Place, 'offset' | 'section' | 'inBody'>;

/** A migration stream is malformed, or its receiver refused it. Recognise it by `name` and `code`. */
export class StreamError extends Error {
	override readonly name = 'StreamError';
	readonly code: StreamErrorCode;
	/** Stream offset, in bytes from the magic, of the element at fault. */
	readonly offset: number;
	/** `idstr` of the section at fault, if inside one. */
	readonly section: string | undefined;
	/** What QEMU 7.2 prints on stderr for the same fault, in order. */
	readonly qemu: readonly string[];
	/** X of QEMU's last line, `load of migration failed: X`. */
	readonly strerror: Strerror;

	constructor(fault: StreamFault, place: FaultPlace) {
		super(
			oneLine(
				`offset ${place.offset}${place.section === undefined ? '' : ` (${place.section.idstr})`}: ${fault.message}`,
			),
			fault.cause === undefined ? undefined : { cause: fault.cause },
		);
		this.code = fault.code;
		this.offset = place.offset;
		this.section = place.section?.idstr;
		const generic = place.inBody && place.section !== undefined ? [sectionLine(place.section)] : [];
		this.qemu = [...(fault.qemu ?? []), ...generic];
		this.strerror = fault.strerror ?? 'Invalid argument';
	}
}

/** QEMU's generic line when a section body fails. QEMU 7.2 migration/savevm.c. */
function sectionLine(section: NonNullable<Place['section']>): string {
	return section.type === 1 || section.type === 4
		? `error while loading state for instance 0x${section.instanceId.toString(16)} of device '${section.idstr}'`
		: `error while loading state section id ${section.id}(${section.idstr})`;
}

/** Whether an unknown value is a {@link StreamError}, also one of another copy of this package. */
export const isStreamError = (value: unknown): value is StreamError =>
	value instanceof Error && value.name === 'StreamError' && 'code' in value && 'offset' in value;
