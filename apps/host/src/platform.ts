import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NvStorage } from '@cvm/sev-hw';
import { strerror } from './migration/uri.js';
import { UsageError } from './options.js';

/** What makes two host processes the same machine: the chip, and the flash behind its PSP. */
export interface PlatformIdentity {
	readonly chipSeed: string;
	readonly nv: NvStorage;
}

const read = (path: string): Uint8Array | undefined => {
	try {
		return new Uint8Array(readFileSync(path));
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
		throw error;
	}
};

/** Replaces a file in one step, so that a process killed in between leaves the old one. */
function replace(path: string, data: Uint8Array | string): void {
	const next = `${path}.${process.pid}`;
	writeFileSync(next, data, { mode: 0o600 });
	renameSync(next, path);
}

/** Its parent must exist: in some places, such as `/proc`, Node never returns from making parents. @throws UsageError */
function makeFolder(folder: string): void {
	try {
		mkdirSync(folder);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'EEXIST' && statSync(folder).isDirectory()) return;
		throw new UsageError(`-platform: could not make '${folder}': ${strerror(error)}`);
	}
}

/** A chip whose identity and flash live in a folder, made there at the first use. */
export function platformIn(folder: string): PlatformIdentity {
	makeFolder(folder);
	const chip = join(folder, 'chip');
	const flash = join(folder, 'flash.bin');
	const known = read(chip);
	const chipSeed = known ? new TextDecoder().decode(known) : randomBytes(16).toString('hex');
	if (!known) replace(chip, chipSeed);
	return { chipSeed, nv: { load: () => read(flash), save: (data) => replace(flash, data) } };
}

/** A chip that lives as long as the process. */
export function platformInMemory(chipSeed: string = randomBytes(16).toString('hex')): PlatformIdentity {
	let flash: Uint8Array | undefined;
	return { chipSeed, nv: { load: () => flash, save: (data) => (flash = data) } };
}
