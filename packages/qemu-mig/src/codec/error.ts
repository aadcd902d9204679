import { oneLine } from '../latin1.js';

/**
 * - `argument`: the caller passed a buffer of the wrong size or a value that does not fit its field
 * - `truncated`: the input ended inside an element
 * - `malformed`: the input breaks the grammar of its format
 * - `too-short`, `too-long`: decoding gave fewer or more bytes than the format promises here
 * - `too-large`: a length exceeds its cap; nothing was allocated for it
 * - `checksum`: the decoded bytes do not match the checksum that follows them
 * - `magic`, `version`: not this format, or a version of it that nobody here reads
 * - `compression`: compressed otherwise than announced
 * - `block`, `offset`: a page lies outside what the receiver has
 * - `unsupported`: legal, not handled here; the message says what handles it
 * - `closed`: used after it ended or failed
 */
export type CodecErrorCode =
	| 'argument'
	| 'truncated'
	| 'malformed'
	| 'too-short'
	| 'too-long'
	| 'too-large'
	| 'checksum'
	| 'magic'
	| 'version'
	| 'compression'
	| 'block'
	| 'offset'
	| 'unsupported'
	| 'closed';

/** Encoded bytes are malformed, or do not fit where they should go. Recognise it by `name` and `code`. */
export class CodecError extends Error {
	override readonly name = 'CodecError';
	readonly code: CodecErrorCode;
	/** The message without the offset. */
	readonly detail: string;
	/** Bytes from the start of what the codec was given (of the channel or file, for readers) to the fault. */
	readonly offset: number;
	/** What QEMU prints on stderr for the same fault, in order; empty where it is silent or has no such fault. */
	readonly qemu: readonly string[];

	constructor(code: CodecErrorCode, offset: number, detail: string, qemu: readonly string[] = [], cause?: unknown) {
		super(oneLine(`offset ${offset}: ${detail}`), cause === undefined ? undefined : { cause });
		this.code = code;
		this.detail = detail;
		this.offset = offset;
		this.qemu = qemu;
	}
}

/** Whether an unknown value is a {@link CodecError}, also one of another copy of this package. */
export const isCodecError = (value: unknown): value is CodecError =>
	value instanceof Error && value.name === 'CodecError' && 'code' in value && 'offset' in value;
