import { oneLine } from '../latin1.js';

/**
 * - `argument`: the caller's options make no sense
 * - `input`: the inputs do not belong together, or are not what they are said to be
 * - `limit`: what was announced exceeds a cap; nothing was allocated for it
 * - `store`: page contents are needed, but none were kept, or the store refused them
 * - `missing-pages`: pages that never arrived are needed
 * - `encrypted`: encrypted pages cannot be had as asked: plain, or in a dialect that has none
 * - `dialect`: the dialect asked for cannot say what the image holds
 * - `unsupported`: legal, not handled here; the message says what handles it
 */
export type ImageErrorCode =
	| 'argument'
	| 'input'
	| 'limit'
	| 'store'
	| 'missing-pages'
	| 'encrypted'
	| 'dialect'
	| 'unsupported';

/** A stream's content cannot be had, or written, as asked. Recognise it by `name` and `code`. */
export class ImageError extends Error {
	override readonly name = 'ImageError';
	readonly code: ImageErrorCode;

	constructor(code: ImageErrorCode, message: string, cause?: unknown) {
		super(oneLine(message), cause === undefined ? undefined : { cause });
		this.code = code;
	}
}

/** Whether an unknown value is an {@link ImageError}, also one of another copy of this package. */
export const isImageError = (value: unknown): value is ImageError =>
	value instanceof Error && value.name === 'ImageError' && 'code' in value;
