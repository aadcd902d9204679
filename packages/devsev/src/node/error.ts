/** What kept a device from starting. */
export type DevsevErrorCode = 'system' | 'compiler' | 'state' | 'server';

/** A device could not be started: one line, with what to do about it where that is known. */
export class DevsevError extends Error {
	override readonly name = 'DevsevError';
	readonly code: DevsevErrorCode;

	constructor(code: DevsevErrorCode, message: string) {
		super(message);
		this.code = code;
	}
}

/** The text of something thrown. */
export const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
