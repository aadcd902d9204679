import { closeSync, mkdtempSync, openSync, readSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Dialect } from '@cvm/qemu-mig';
import type { ImageInput, RamStore, StreamImage } from '@cvm/qemu-mig/image';
import { createFileStore, openImage } from '@cvm/qemu-mig/image';
import { Failure } from '../exit.js';
import { reasonOf } from '../owner/read.js';
import { judged } from './faults.js';
import { closeInput, type Input, openInput, readMeanwhile, readSome } from './input.js';
import { Progress } from './progress.js';
import { breathe } from './turns.js';

const CHUNK = 2 ** 20;

/**
 * The bytes of an input, in a buffer that is used again.
 *
 * @param alone whether nothing else is read meanwhile: then a pipe is read without leaving time for others, which is faster
 */
async function* chunksOfInput(
	input: Input,
	progress: Progress,
	alone = true,
): AsyncGenerator<Uint8Array, void, undefined> {
	const buffer = new Uint8Array(CHUNK);
	const isLocal = alone || input.size !== undefined;
	try {
		for (;;) {
			const length = isLocal ? await readSome(input, buffer) : await readMeanwhile(input, buffer);
			if (length === 0) return;
			yield buffer.subarray(0, length);
			progress.add(length);
			await breathe();
		}
	} finally {
		progress.stop();
		closeInput(input);
	}
}

/** Files as the inputs of one image. `seen` is told every byte of them, with the number of the input. */
export function imageInputs(paths: readonly string[], seen?: (index: number, chunk: Uint8Array) => void): ImageInput[] {
	const inputs = paths.map(openInput);
	const sizes = inputs.map(({ size }) => size ?? Number.NaN);
	const total = sizes.reduce((sum, size) => sum + size, 0);
	const progress = new Progress(Number.isNaN(total) ? undefined : total, inputs.length);
	return inputs.map((input, index) => {
		const chunks = chunksOfInput(input, progress, inputs.length === 1);
		return { source: seen === undefined ? chunks : watched(chunks, index, seen), name: input.name };
	});
}

async function* watched(
	chunks: AsyncGenerator<Uint8Array, void, undefined>,
	index: number,
	seen: (index: number, chunk: Uint8Array) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
	for await (const chunk of chunks) {
		seen(index, chunk);
		yield chunk;
	}
}

/** A file that nobody else sees, and that is gone when it is closed. @throws Failure */
function temporaryFile(): number {
	try {
		const folder = mkdtempSync(join(tmpdir(), 'cvm-stream-'));
		const path = join(folder, 'data');
		const file = openSync(path, 'wx+', 0o600);
		rmSync(path);
		rmdirSync(folder);
		return file;
	} catch (error) {
		throw new Failure(`temporary file: ${reasonOf(error)}`);
	}
}

function writeAll(file: number, data: Uint8Array, at: number): void {
	try {
		for (let done = 0; done < data.length; ) done += writeSync(file, data, done, data.length - done, at + done);
	} catch (error) {
		throw new Failure(`temporary file: ${reasonOf(error)}`);
	}
}

/** An input that can be read anywhere: a pipe goes to a file first. */
export async function spooled(input: Input): Promise<Input & { readonly size: number }> {
	const { size } = input;
	if (size !== undefined) return { ...input, size };
	const file = temporaryFile();
	let at = 0;
	for await (const chunk of chunksOfInput(input, new Progress(undefined))) {
		writeAll(file, chunk, at);
		at += chunk.length;
	}
	return { ...input, file, size: at };
}

/** Guest memory in a file, in the folder for temporary ones (TMPDIR). */
export interface TemporaryStore {
	readonly store: RamStore;
	close(): void;
}

export function temporaryStore(): TemporaryStore {
	const file = temporaryFile();
	const store = createFileStore({
		read: (at, into) => readSync(file, into, 0, into.length, at),
		write: (at, data) => writeAll(file, data, at),
	});
	return { store, close: () => closeSync(file) };
}

/** Opens the image of files, with page contents, for as long as `work` takes. @throws Misuse, Failure */
export async function withImage<T>(
	paths: readonly string[],
	dialect: Dialect | undefined,
	work: (image: StreamImage) => Promise<T> | T,
): Promise<T> {
	const inputs = imageInputs(paths);
	const { store, close } = temporaryStore();
	try {
		const name = inputs[0]?.name ?? '';
		const image = await judged(name, () => openImage(inputs, { store, ...(dialect && { dialect }) }));
		return await judged(name, () => work(image));
	} finally {
		close();
	}
}
