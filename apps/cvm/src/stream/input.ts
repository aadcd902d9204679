import { closeSync, fstatSync, openSync, read, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ByteFilter, Detection, Dialect, SaveHeader, StreamKind } from '@cvm/qemu-mig';
import { DIALECTS, DialectProbe, decodeSaveHeader, isSaveImage, SaveImageReader } from '@cvm/qemu-mig';
import { InvalidArgumentError } from 'commander';
import { Failure, Misuse } from '../exit.js';
import { reasonOf } from '../owner/read.js';
import { Progress } from './progress.js';
import { breathe, mustHear } from './turns.js';

const CHUNK = 2 ** 20;
const readLater = promisify(read);

/** Bytes held back while the dialect is found out, at most. */
const LOOK_AHEAD = 4 * 2 ** 20;

/** A pipe that has nothing to say yet is asked again after so many milliseconds; only one that does not block is. */
const RETRY = 5;

/** A libvirt save file around a stream. */
interface SaveFile {
	readonly header: SaveHeader;
	/** The whole prefix: header, XML, cookie, padding. */
	readonly prefix: Uint8Array;
}

/** What an input turned out to be. */
export interface Found {
	readonly detection: Detection;
	readonly dialect: Dialect;
	readonly stream: StreamKind;
	readonly save?: SaveFile;
}

/** An open file, or `-` for the standard input. */
export interface Input {
	readonly path: string;
	/** As messages name it. */
	readonly name: string;
	/** Bytes; undefined for a pipe. */
	readonly size: number | undefined;
	readonly file: number;
}

const DIALECT_NAMES = Object.keys(DIALECTS) as Dialect[];
export const DIALECT_HELP = `dialect of the stream instead of the detected one: ${DIALECT_NAMES.join(', ')}`;

/** Parses the value of `--dialect`. */
export function dialectOf(text: string): Dialect {
	const found = DIALECT_NAMES.find((name) => name === text);
	if (found === undefined) throw new InvalidArgumentError(`expected one of ${DIALECT_NAMES.join(', ')}`);
	return found;
}

/** Opens what a person named. @throws Misuse if that can not be done */
export function openInput(path: string): Input {
	const name = path === '-' ? 'standard input' : `'${path}'`;
	let file = 0;
	try {
		if (path !== '-') file = openSync(path, 'r');
		const stat = fstatSync(file);
		if (stat.isDirectory()) throw new Misuse(`${name}: not a file`);
		return { path, name, size: stat.isFile() ? stat.size : undefined, file };
	} catch (error) {
		if (error instanceof Misuse) throw error;
		throw new Misuse(`${name}: ${reasonOf(error)}`);
	}
}

/** Reads all bytes of an input, in chunks of a buffer that is used again, and closes it. @throws Failure */
export async function readAll(input: Input, take: (chunk: Uint8Array) => void): Promise<void> {
	const progress = new Progress(input.size);
	const buffer = new Uint8Array(CHUNK);
	try {
		for (let length = await readSome(input, buffer); length > 0; length = await readSome(input, buffer)) {
			take(buffer.subarray(0, length));
			progress.add(length);
			await breathe();
		}
	} finally {
		progress.stop();
		closeInput(input);
	}
}

/** Pipes and sockets that are read as the system tells of data: a thread that waits for it would hold up the end. */
const streams = new WeakMap<Input, AsyncIterator<Buffer>>();

function streamOf(input: Input): AsyncIterator<Buffer> | undefined {
	const known = streams.get(input);
	if (known !== undefined) return known;
	const stat = fstatSync(input.file);
	if (!stat.isFIFO() && !stat.isSocket()) return undefined;
	const iterator: AsyncIterator<Buffer> = new Socket({ fd: input.file, writable: false })[Symbol.asyncIterator]();
	streams.set(input, iterator);
	return iterator;
}

/** Reads what there is, and lets others run meanwhile. `buffer` takes 64 KiB. @returns 0 at the end @throws Failure */
export async function readMeanwhile(input: Input, buffer: Uint8Array): Promise<number> {
	const { file, name } = input;
	try {
		const stream = streamOf(input);
		if (stream === undefined) return (await readLater(file, buffer, 0, buffer.length, null)).bytesRead;
		const step = await stream.next();
		if (step.done === true) return 0;
		buffer.set(step.value);
		return step.value.length;
	} catch (error) {
		throw new Failure(`${name}: ${reasonOf(error)}`);
	}
}

/** Done with it. */
export function closeInput(input: Input): void {
	// What a stream has it closes itself.
	if (streams.has(input)) void streams.get(input)?.return?.();
	else if (input.path !== '-') closeSync(input.file);
}

/**
 * Reads what there is, as much as fits: of a pipe several writes at once. A wait lets nobody else run, which is faster, unless
 * somebody must be heard. @returns 0 at the end @throws Failure
 */
export async function readSome(input: Input, buffer: Uint8Array): Promise<number> {
	const { file, name, size } = input;
	if (size === undefined && mustHear()) return await readMeanwhile(input, buffer);
	for (let filled = 0; ; ) {
		try {
			const length = readSync(file, buffer, filled, buffer.length - filled, null);
			filled += length;
			if (length === 0 || size !== undefined || filled > buffer.length / 2) return filled;
		} catch (error) {
			const { code } = error as NodeJS.ErrnoException;
			if (code === 'EOF') return filled;
			if (code !== 'EAGAIN') throw new Failure(`${name}: ${reasonOf(error)}`);
			if (filled > 0) return filled;
			await pause(RETRY);
		}
	}
}

/**
 * Reads an input as a migration stream: takes off libvirt's header and compression, finds out the dialect, and pushes the
 * stream into what `begin` returns for it. One pass, so that pipes will do; memory does not depend on the length. `packed`
 * is told the bytes of a libvirt save file as they are.
 *
 * @throws Failure where the system or the container fails; what `begin`'s filter throws, as it is
 */
export async function readStreamInput(
	input: Input,
	dialect: Dialect | undefined,
	begin: (found: Found) => ByteFilter,
	packed: (chunk: Uint8Array) => void = () => {},
): Promise<void> {
	const opener = new StreamOpener(dialect, begin);
	let save: SaveFile | undefined;
	const unpacker = new SaveImageReader({
		header: (prefix) => {
			save = { header: decodeSaveHeader(prefix), prefix: prefix.slice() };
			opener.save = save;
		},
		body: (data) => opener.push(data),
	});
	let filter: ByteFilter | undefined;
	await readAll(input, (chunk) => {
		filter ??= isSaveImage(chunk) ? unpacker : opener;
		filter.push(chunk);
		if (filter === unpacker) packed(chunk);
	});
	if (filter === unpacker) unpacker.end();
	opener.end();
}

/** Holds bytes back until the dialect is known. */
class StreamOpener implements ByteFilter {
	save: SaveFile | undefined;
	readonly #probe = new DialectProbe();
	readonly #dialect: Dialect | undefined;
	readonly #begin: (found: Found) => ByteFilter;
	#held: Uint8Array[] = [];
	#bytes = 0;
	#filter: ByteFilter | undefined;

	constructor(dialect: Dialect | undefined, begin: (found: Found) => ByteFilter) {
		this.#dialect = dialect;
		this.#begin = begin;
	}

	push(chunk: Uint8Array): void {
		if (this.#filter !== undefined) {
			this.#filter.push(chunk);
			return;
		}
		this.#held.push(chunk.slice());
		this.#bytes += chunk.length;
		if (this.#probe.push(chunk) || this.#bytes >= LOOK_AHEAD) this.#open(this.#probe.result());
	}

	end(): void {
		if (this.#filter === undefined) this.#open(this.#probe.end());
		this.#filter?.end();
	}

	#open(detection: Detection): void {
		const dialect = this.#dialect ?? detection.best ?? 'qemu-7.2';
		const { save } = this;
		const found = { detection, dialect, stream: detection.stream ?? 'migration', ...(save && { save }) };
		this.#filter = this.#begin(found);
		const held = this.#held;
		this.#held = [];
		for (const chunk of held) this.#filter.push(chunk);
	}
}
