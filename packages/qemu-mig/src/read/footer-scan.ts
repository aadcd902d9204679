import { COMMAND_RULES, Command, SectionType } from '../abi/stream.js';

/** What the scan needs to know of the stream so far. */
export interface ScanContext {
	/** Section whose footer is sought. */
	readonly id: number;
	/** Ids that PART and END may name. */
	isKnown(id: number): boolean;
	/** Cap of a VMDESCRIPTION. */
	readonly descriptionLimit: number;
	/** No more bytes will come. */
	readonly ended: boolean;
	/** EOF may be followed by anything, as a target takes it: for bodies that end nowhere else. */
	readonly anyTail?: boolean;
}

const Verdict = { no: 0, yes: 1, undecided: 2 } as const;
type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** Whether the footer was found, and where; or from where to look again with more bytes. */
export interface ScanResult {
	readonly found: boolean;
	readonly at: number;
}

/**
 * Finds the footer that ends a section body of unknown length: 0x7e, the section's id (big-endian), and then the
 * beginning of an element that may legally follow (or the end of the input).
 *
 * QEMU writes no length for device state, so this is a guess in theory: a body may contain those bytes itself. To be
 * mistaken, it must hold 0x7e, its own 32-bit id and a plausible element: the header of a section with a printable
 * name, PART or END of a known id, a known command, or EOF followed by a description that begins with `{`, by a
 * hand-over command, or by the end. Give the reader a `deviceLength` where lengths are known and that cannot happen.
 * A stream whose EOF is followed by other bytes is understood by a second look, with `anyTail`.
 */
export function findFooter(view: DataView, from: number, end: number, context: ScanContext): ScanResult {
	const bytes = new Uint8Array(view.buffer, view.byteOffset, end);
	for (let at = bytes.indexOf(SectionType.footer, from); at >= 0; at = bytes.indexOf(SectionType.footer, at + 1)) {
		const verdict = footerAt(view, at, end, context);
		if (verdict === Verdict.yes || (verdict === Verdict.undecided && context.ended && at + 5 <= end)) {
			return { found: true, at };
		}
		if (verdict === Verdict.undecided) return { found: false, at };
	}
	return { found: false, at: end };
}

function footerAt(view: DataView, at: number, end: number, context: ScanContext): Verdict {
	if (at + 5 > end) return Verdict.undecided;
	if (view.getUint32(at + 1) !== context.id) return Verdict.no;
	return elementAt(view, at + 5, end, context);
}

function elementAt(view: DataView, at: number, end: number, context: ScanContext): Verdict {
	if (at >= end) return Verdict.undecided;
	switch (view.getUint8(at)) {
		case SectionType.eof:
			return afterEof(view, at + 1, end, context);
		case SectionType.start:
		case SectionType.full:
			return sectionName(view, at + 5, end);
		case SectionType.part:
		case SectionType.end:
			return at + 5 > end ? Verdict.undecided : verdict(context.isKnown(view.getUint32(at + 1)));
		case SectionType.command:
			return at + 3 > end ? Verdict.undecided : verdict(COMMAND_RULES.has(view.getUint16(at + 1)));
		default:
			return Verdict.no;
	}
}

function afterEof(view: DataView, at: number, end: number, context: ScanContext): Verdict {
	if (context.anyTail) return Verdict.yes;
	if (at >= end) return Verdict.undecided;
	const type = view.getUint8(at);
	if (type === SectionType.command) {
		if (at + 3 > end) return Verdict.undecided;
		const command = view.getUint16(at + 1);
		return verdict(command === Command.handoverCommit || command === Command.helperMessage);
	}
	if (type !== SectionType.vmDescription) return Verdict.no;
	if (at + 5 > end) return Verdict.undecided;
	const length = view.getUint32(at + 1);
	if (length === 0) return Verdict.yes;
	if (length > context.descriptionLimit) return Verdict.no;
	return at + 6 > end ? Verdict.undecided : verdict(view.getUint8(at + 5) === 0x7b);
}

/** A section name has 1 to 255 printable ASCII characters. */
function sectionName(view: DataView, at: number, end: number): Verdict {
	if (at >= end) return Verdict.undecided;
	const length = view.getUint8(at);
	if (length === 0) return Verdict.no;
	for (let i = at + 1; i < Math.min(end, at + 1 + length); i++) {
		const character = view.getUint8(i);
		if (character < 0x20 || character > 0x7e) return Verdict.no;
	}
	return at + 1 + length > end ? Verdict.undecided : Verdict.yes;
}

const verdict = (yes: boolean): Verdict => (yes ? Verdict.yes : Verdict.no);
