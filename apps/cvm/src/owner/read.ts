import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { sevctl } from '@cvm/sev-hw/owner';
import { Failure, Misuse } from '../exit.js';

const CHUNK = 2 ** 16;
const MIB = 2 ** 20;

/** The longest inputs that are read, in bytes. */
export const LIMITS = {
	/** Keys, certificates, sessions, measurements: a few KiB at most. */
	small: 2 ** 16,
	firmware: 64 * MIB,
	kernel: 256 * MIB,
	initrd: 1024 * MIB,
} as const;

/** What the system says of a failed call, without its code and without the call: `No such file or directory`. */
export function reasonOf(error: unknown): string {
	const text = error instanceof Error ? error.message : String(error);
	const [, reason = text] = /^(?:\w+ )?[A-Z0-9]+: (.*?)(?:, \w+.*)?$/.exec(text) ?? [];
	return reason.charAt(0).toUpperCase() + reason.slice(1);
}

/**
 * Reads a file, or what a pipe gives.
 *
 * @param what the option or argument that names it
 * @throws Misuse if it can not be opened, Failure if it can not be read or is longer than `limit` bytes
 */
export function readInput(what: string, path: string, limit: number = LIMITS.small): Uint8Array {
	let file: number;
	try {
		file = openSync(path, 'r');
	} catch (error) {
		throw new Misuse(`${what}: '${path}': ${reasonOf(error)}`);
	}
	const tooLong = (got: string) => new Failure(`${what}: '${path}': expected at most ${limit} bytes, got ${got}`);
	try {
		const stat = fstatSync(file);
		if (stat.isDirectory()) throw new Misuse(`${what}: '${path}': not a file`);
		if (stat.size > limit) throw tooLong(`${stat.size}`);
		// A regular file tells its length before a byte of it is in memory; a pipe has to be tried.
		return stat.isFile() && stat.size > 0 ? new Uint8Array(readFileSync(file)) : readUpTo(file, limit, tooLong);
	} catch (error) {
		if (error instanceof Misuse || error instanceof Failure) throw error;
		throw new Failure(`${what}: '${path}': ${reasonOf(error)}`);
	} finally {
		closeSync(file);
	}
}

function readUpTo(file: number, limit: number, tooLong: (got: string) => Failure): Uint8Array {
	const chunks: Uint8Array[] = [];
	for (let length = 0; ; ) {
		const chunk = new Uint8Array(CHUNK);
		const read = readSync(file, chunk);
		if (read === 0) return new Uint8Array(Buffer.concat(chunks));
		length += read;
		if (length > limit) throw tooLong('more');
		chunks.push(chunk.subarray(0, read));
	}
}

/** Bytes that are given as sevctl takes them: the name of a file, or base64. @throws Misuse, Failure */
export function fileOrBase64(option: string, given: string, length?: number): Uint8Array {
	const isFile = existsSync(given);
	const data = isFile ? readInput(option, given) : fromBase64(given);
	// The text itself may be a key: it is not repeated.
	if (data === undefined) throw new Misuse(`${option}: expected a file that is there or base64, got neither`);
	if (length !== undefined && data.length !== length) {
		throw new Misuse(`${option}: expected ${length} bytes, got ${data.length}${isFile ? ` in '${given}'` : ''}`);
	}
	return data;
}

/** Padded base64 and nothing else; `undefined` for other text. */
function fromBase64(text: string): Uint8Array | undefined {
	const data = Buffer.from(text, 'base64');
	return text.length > 0 && data.toString('base64') === text ? new Uint8Array(data) : undefined;
}

/** Base64 in one line. */
export const toBase64 = (data: Uint8Array): string => Buffer.from(data).toString('base64');

/** A SHA-256 as 64 hex digits or base64. @throws Misuse */
export function digestFrom(option: string, text: string): Uint8Array {
	const data = /^[0-9a-f]{64}$/i.test(text) ? new Uint8Array(Buffer.from(text, 'hex')) : fromBase64(text);
	if (data?.length === 32) return data;
	throw new Misuse(`${option}: expected 64 hex digits or base64 of 32 bytes, got '${text}'`);
}

/** MEASURE ‖ nonce, 48 bytes: a file of them, or base64 in a file or as it is. @throws Misuse, Failure */
export function measureBlob(option: string, given: string): Uint8Array {
	const isFile = existsSync(given);
	const data = isFile ? readInput(option, given) : given;
	return judged(`${option}${isFile ? `: '${given}'` : ''}`, () => sevctl.readMeasurement(data));
}

/** Runs what judges contents that a person gave. @throws Failure in its words, behind what names them */
export function judged<T>(what: string, judge: () => T): T {
	try {
		return judge();
	} catch (error) {
		if (!isRefusal(error)) throw error;
		throw new Failure(`${what}: ${error.message}`);
	}
}

/** What the library throws for contents that it can not take. */
const isRefusal = (error: unknown): error is Error =>
	error instanceof Error && ['OwnerError', 'LayoutError', 'RangeError'].includes(error.name);
