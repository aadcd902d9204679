/** A result that was not what it had to be. */
export const FAILED = 1;
/** The command line makes no sense. */
export const MISUSED = 2;

/** The person asked for something impossible: one line, exit code 2. */
export class Misuse extends Error {
	override readonly name = 'Misuse';
	readonly code = 'misuse';
}

/** The demonstration did not come to a good end: one line, exit code 1. */
export class DemoFailure extends Error {
	override readonly name = 'DemoFailure';
	readonly code = 'demo';
}

/** What was asked for did not come to a good end: one line, exit code 1. */
export class Failure extends Error {
	override readonly name = 'Failure';
	readonly code = 'failed';
}
