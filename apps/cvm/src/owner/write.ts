import { closeSync, openSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { Failure, Misuse } from '../exit.js';
import { reasonOf } from './read.js';

/** Whose files are written. */
export const FORMATS = ['sevctl', 'sev-tool'] as const;
export const FORMAT_HELP = `whose files: ${FORMATS.join(' or ')}`;

/** Adds the options that say where files go. */
export const withOutput = (command: Command): Command =>
	command.option('-d, --directory <folder>', 'where the files go', '.').option('--force', 'replace files that exist');

/** A file to be written. */
export interface Output {
	readonly path: string;
	readonly data: Uint8Array | string;
	/** Holds keys: for the person alone (mode 0600). */
	readonly secret?: boolean;
}

/** An output with the place that is kept for it. */
interface Place {
	readonly output: Output;
	readonly target: string;
	/** Where the bytes go until all outputs are complete; not for pipes and devices, which take them as they come. */
	readonly partial?: string;
}

/** Files of a library's format, in a folder; those that `isSecret` names are for the person alone. */
export function outputsIn(
	folder: string,
	files: Readonly<Record<string, Uint8Array>>,
	isSecret: (name: string) => boolean = () => false,
): Output[] {
	return Object.entries(files).map(([name, data]) => ({ path: join(folder, name), data, secret: isSecret(name) }));
}

/**
 * Writes files, all or none: each is complete in `FILE.partial` before any takes its name.
 *
 * @throws Misuse if one exists and `force` is not set, Failure if one can not be written
 */
export function writeOutputs(outputs: readonly Output[], force = false): void {
	const paths = outputs.map(({ path }) => resolve(path));
	const twice = paths.find((path, i) => paths.indexOf(path) < i);
	if (twice !== undefined) throw new Misuse(`'${twice}': expected one output for a file, got two`);
	/** What was not there before, and does not stay if anything fails. */
	const made: string[] = [];
	try {
		const places = outputs.map((output) => attempt(output.path, () => claim(output, force, made)));
		for (const place of places) attempt(place.partial ?? place.target, () => fill(place, made));
		for (const { output, partial, target } of places) {
			if (partial !== undefined) attempt(output.path, () => renameSync(partial, target));
		}
	} catch (error) {
		for (const path of made) rmSync(path, { force: true });
		throw error;
	}
}

const modeOf = ({ secret }: Output): number => (secret ? 0o600 : 0o644);

/** Keeps a name for an output, so that nobody else takes it meanwhile. */
function claim(output: Output, force: boolean, made: string[]): Place {
	const { path } = output;
	const found = statSync(path, { throwIfNoEntry: false });
	if (found?.isDirectory()) throw new Misuse(`'${path}': expected a file name, got a folder`);
	if (found && !found.isFile()) return { output, target: path };
	if (found && !force) throw new Misuse(`'${path}': File exists; --force replaces it`);
	if (!found) {
		closeSync(openSync(path, 'wx', modeOf(output)));
		made.push(path);
	}
	const target = realpathSync(path);
	return { output, target, partial: `${target}.partial` };
}

function fill({ output, partial, target }: Place, made: string[]): void {
	if (partial === undefined) {
		writeFileSync(target, output.data);
		return;
	}
	const file = openSync(partial, 'wx', modeOf(output));
	made.push(partial);
	try {
		writeFileSync(file, output.data, { flush: true });
	} finally {
		closeSync(file);
	}
}

/** @throws Failure for what the system refuses */
function attempt<T>(path: string, what: () => T): T {
	try {
		return what();
	} catch (error) {
		if (error instanceof Misuse || error instanceof Failure) throw error;
		throw new Failure(`'${path}': ${reasonOf(error)}`);
	}
}
