import {
	closeSync,
	existsSync,
	fsyncSync,
	ftruncateSync,
	linkSync,
	openSync,
	renameSync,
	rmSync,
	statSync,
	writeSync,
} from 'node:fs';
import { constants } from 'node:os';
import type { ByteSink } from '@cvm/qemu-mig';
import { Failure, Misuse } from '../exit.js';
import { reasonOf } from '../owner/read.js';
import { breathe, hear } from './turns.js';

/** Zeros from here on leave a hole in a file. */
const HOLE = 4096;
const ZEROS = Buffer.alloc(2 ** 20);
/** What ends a command early. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** A file that is being written; or the standard output, a pipe, a device. */
export interface OutputFile {
	readonly path: string;
	/** Appends. Done when it returns. */
	write(data: Uint8Array): void;
	/** As `write`, but leaves a hole for zeros. */
	writeSparse(data: Uint8Array): void;
	/** Writes from byte `at` on; only for files. */
	writeAt(at: number, data: Uint8Array): void;
	/** Gives the file a length; only for files. */
	resize(bytes: number): void;
	/** Whether it is a regular file, which has holes and places. */
	readonly isFile: boolean;
	/** Its length so far, as far as it was appended to. */
	readonly bytes: number;
}

/** Long files that appear all or none: each is complete in `FILE.partial` before any takes its name. */
export class Outputs {
	readonly #force: boolean;
	readonly #open: { readonly file: number; readonly path: string; readonly partial: string | undefined }[] = [];

	constructor(force = false) {
		this.#force = force;
	}

	/** `-` is the standard output. @throws Misuse if the file exists and may not be replaced, Failure */
	open(path: string): OutputFile {
		if (path === '-') return this.#take(path, 1, undefined);
		const found = statSync(path, { throwIfNoEntry: false });
		if (found?.isDirectory()) throw new Misuse(`'${path}': expected a file name, got a folder`);
		if (found && !found.isFile())
			return this.#take(
				path,
				attempt(path, () => openSync(path, 'w')),
				undefined,
			);
		if (found && !this.#force) throw new Misuse(`'${path}': File exists; --force replaces it`);
		const partial = `${path}.partial`;
		if (this.#open.some((one) => one.partial === partial))
			throw new Misuse(`'${path}': expected one output for a file, got two`);
		return this.#take(
			path,
			attempt(partial, () => openSync(partial, this.#force ? 'w' : 'wx')),
			partial,
		);
	}

	/** All is written: the files take their names. @throws Failure; then there are none */
	commit(): void {
		for (const { file, path, partial } of this.#open) {
			if (partial !== undefined) attempt(path, () => fsyncSync(file));
		}
		const placed: string[] = [];
		try {
			for (const { path, partial } of this.#open) {
				if (partial === undefined) continue;
				const isNew = !existsSync(path);
				attempt(path, () => (this.#force ? renameSync(partial, path) : linkSync(partial, path)));
				if (isNew) placed.push(path);
			}
		} catch (error) {
			for (const path of placed) rmSync(path, { force: true });
			throw error;
		} finally {
			this.abort();
		}
	}

	/** Nothing stays of what was begun. */
	abort(): void {
		for (const { file, partial } of this.#open.splice(0)) {
			if (file !== 1) closeSync(file);
			if (partial !== undefined) rmSync(partial, { force: true });
		}
	}

	#take(path: string, file: number, partial: string | undefined): OutputFile {
		this.#open.push({ file, path, partial });
		const isFile = partial !== undefined;
		let end = 0;
		const put = (data: Uint8Array, at: number | null) => attempt(path, () => writeFully(file, data, at));
		const write = (data: Uint8Array): void => {
			put(data, isFile ? end : null);
			end += data.length;
		};
		return {
			path,
			isFile,
			get bytes() {
				return end;
			},
			write,
			writeSparse: (data) => {
				if (!isFile) return write(data);
				for (let from = 0; from < data.length; from += HOLE) {
					const piece = data.subarray(from, from + HOLE);
					if (!isZero(piece)) put(piece, end + from);
				}
				end += data.length;
				attempt(path, () => ftruncateSync(file, end));
			},
			writeAt: (at, data) => put(data, at),
			resize: (bytes) => attempt(path, () => ftruncateSync(file, bytes)),
		};
	}
}

/** An output as a sink that lets others run now and then. */
export const sinkOf = (output: OutputFile, write: (data: Uint8Array) => void = output.write): ByteSink => ({
	write: (data) => {
		write(data);
		return breathe();
	},
});

/** Runs `work` with outputs that appear if it succeeds, and of which nothing stays if a signal ends it. */
export async function withOutputs<T>(force: boolean | undefined, work: (outputs: Outputs) => Promise<T>): Promise<T> {
	const outputs = new Outputs(force);
	const interrupted = (signal: NodeJS.Signals): void => {
		outputs.abort();
		process.exit(128 + constants.signals[signal]);
	};
	for (const signal of SIGNALS) process.once(signal, interrupted);
	hear(true);
	try {
		const result = await work(outputs);
		outputs.commit();
		return result;
	} finally {
		for (const signal of SIGNALS) process.off(signal, interrupted);
		hear(false);
		outputs.abort();
	}
}

const isZero = (piece: Uint8Array): boolean => ZEROS.compare(piece, 0, piece.length, 0, piece.length) === 0;

function writeFully(file: number, data: Uint8Array, at: number | null): void {
	for (let done = 0; done < data.length; ) {
		try {
			done += writeSync(file, data, done, data.length - done, at === null ? null : at + done);
		} catch (error) {
			const { code } = error as NodeJS.ErrnoException;
			if (code === 'EAGAIN') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
			else if (code === 'EPIPE' && file === 1) process.stdout.emit('error', error);
			else throw error;
		}
	}
}

/** @throws Failure for what the system refuses */
function attempt<T>(path: string, what: () => T): T {
	try {
		return what();
	} catch (error) {
		throw new Failure(`${path === '-' ? 'standard output' : `'${path}'`}: ${reasonOf(error)}`);
	}
}
