/**
 * - `source`: the page source failed, or a page is private and nothing can seal it
 * - `seal`: the sealer failed
 * - `sink`: the stream could not be written
 * - `vm`: stopping the VM or collecting its devices failed
 * - `return-path`: the target's answers are malformed, out of order, or ended
 * - `target`: the target reported failure
 * - `helper`: the in-guest helper failed, apart from sealing
 * - `commit`: the commit callback failed
 */
export type PrecopyErrorCode = 'source' | 'seal' | 'sink' | 'vm' | 'return-path' | 'target' | 'helper' | 'commit';

/** Why an outgoing migration failed. Recognise it by `name` and `code`. */
export class PrecopyError extends Error {
	override readonly name = 'PrecopyError';
	readonly code: PrecopyErrorCode;

	constructor(code: PrecopyErrorCode, message: string, cause?: unknown) {
		super(message, cause === undefined ? undefined : { cause });
		this.code = code;
	}
}

/** Runs a step of the host; what it throws becomes the cause of a {@link PrecopyError}. */
export function attempt<T>(code: PrecopyErrorCode, work: () => T): T {
	try {
		return work();
	} catch (cause) {
		throw failureOf(code, cause);
	}
}

/** Any exception as a {@link PrecopyError}; one that already is stays. */
export function failureOf(code: PrecopyErrorCode, cause: unknown): PrecopyError {
	if (cause instanceof PrecopyError) return cause;
	const text = cause instanceof Error ? cause.message : String(cause);
	return new PrecopyError(code, `${code}: expected success, got ${text}`, cause);
}
