import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type FirmwareVersion, GENERATIONS, type GenerationName, type NvStorage } from '@cvm/sev-hw';
import { DevsevError, textOf } from './error.js';

/** What makes a platform the one that it is. Recorded at first use. */
export interface PlatformSettings {
	readonly chipSeed: string;
	readonly generation: GenerationName;
	readonly version: FirmwareVersion;
}

/** Names in a state folder. Who holds the lock writes them; each is replaced as a whole or not at all. */
export const FILES = {
	/** {@link PlatformSettings} as JSON. */
	settings: 'platform.json',
	/** The SPI flash: the platform's keys, sealed. */
	nv: 'spi.bin',
	/** Programs have this file open when they opened the device. */
	device: 'sev',
	/** Where the platform's process listens: an absolute path. On the next line its process id, for people. */
	endpoint: 'endpoint',
	/** The socket itself, where its path is short enough. */
	socket: 'socket',
} as const;

const FORMAT = 1;
const DEFAULTS = { generation: 'milan', version: { major: 0, minor: 24, build: 15 } } as const;

const isMissing = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'ENOENT';

/** A file's content, `undefined` if there is none. */
function readIfThere(path: string): Buffer | undefined {
	try {
		return readFileSync(path);
	} catch (error) {
		if (isMissing(error)) return undefined;
		throw error;
	}
}

/** Where the platform's process listens, or listened. */
export function readEndpoint(folder: string): string | undefined {
	return readIfThere(join(folder, FILES.endpoint))?.toString('utf8').split('\n')[0] || undefined;
}

function withFile(path: string, flags: string, work: (fd: number) => void): void {
	const fd = openSync(path, flags, 0o600);
	try {
		work(fd);
		fsyncSync(fd);
	} finally {
		closeSync(fd);
	}
}

/** Replaces a file so that a reader, or a crash at any moment, finds the old content or the new one. For one writer at a time. */
export function replaceFile(folder: string, name: string, data: Uint8Array): void {
	const path = join(folder, name);
	const fresh = `${path}.new`;
	withFile(fresh, 'w', (fd) => {
		for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
	});
	renameSync(fresh, path);
	withFile(folder, 'r', () => undefined);
}

/** The SPI flash of a platform, in a file. */
export const fileStorage = (folder: string): NvStorage => ({
	load: () => {
		const data = readIfThere(join(folder, FILES.nv));
		return data && new Uint8Array(data);
	},
	save: (data) => replaceFile(folder, FILES.nv, data),
});

function parseSettings(path: string, text: string): PlatformSettings {
	const complaint = (problem: string) => new DevsevError('state', `${path}: ${problem}; is this a state folder?`);
	let found: Partial<PlatformSettings & { format: number }> | null;
	try {
		found = JSON.parse(text);
	} catch (error) {
		throw complaint(textOf(error));
	}
	const { format, chipSeed, generation, version } = found ?? {};
	if (format !== FORMAT) throw complaint(`expected format ${FORMAT}, got ${format}`);
	if (typeof chipSeed !== 'string') throw complaint('expected a chipSeed');
	if (generation === undefined || !Object.hasOwn(GENERATIONS, generation)) {
		throw complaint(`expected a generation of ${Object.keys(GENERATIONS).join(', ')}, got ${generation}`);
	}
	const { major, minor, build } = version ?? {};
	if (![major, minor, build].every((n) => typeof n === 'number')) throw complaint('expected a version');
	return { chipSeed, generation, version: version as FirmwareVersion };
}

const showVersion = ({ major, minor, build }: FirmwareVersion): string => `${major}.${minor} build ${build}`;

/** @throws DevsevError `state` if the folder's platform is not as wanted */
function checkWishes(folder: string, settings: PlatformSettings, wanted: Partial<PlatformSettings>): void {
	const differs = (what: string, expected: string, got: string) =>
		new DevsevError('state', `${folder}: ${what}: expected ${expected}, as this platform was made, got ${got}`);
	const { generation, version, chipSeed } = wanted;
	if (generation !== undefined && generation !== settings.generation) {
		throw differs('generation', settings.generation, generation);
	}
	if (version !== undefined && showVersion(version) !== showVersion(settings.version)) {
		throw differs('version', showVersion(settings.version), showVersion(version));
	}
	if (chipSeed !== undefined && chipSeed !== settings.chipSeed)
		throw differs('chip seed', 'the recorded one', 'another');
}

/**
 * The settings of a folder's platform; `undefined` before its first use.
 *
 * @throws DevsevError `state` if the folder holds something else, or a platform other than the wanted one
 */
export function readSettings(folder: string, wanted: Partial<PlatformSettings>): PlatformSettings | undefined {
	const path = join(folder, FILES.settings);
	const recorded = readIfThere(path);
	if (recorded === undefined) return undefined;
	const settings = parseSettings(path, recorded.toString('utf8'));
	checkWishes(folder, settings, wanted);
	return settings;
}

/** As {@link readSettings}, and records what is wanted if this is the first use. For who holds the lock. */
export function openSettings(folder: string, wanted: Partial<PlatformSettings>): PlatformSettings {
	const recorded = readSettings(folder, wanted);
	if (recorded !== undefined) return recorded;
	const chipSeed = wanted.chipSeed ?? randomBytes(32).toString('hex');
	const { generation = DEFAULTS.generation, version = DEFAULTS.version } = wanted;
	const settings = { chipSeed, generation, version };
	replaceFile(folder, FILES.settings, Buffer.from(`${JSON.stringify({ format: FORMAT, ...settings }, null, '\t')}\n`));
	return settings;
}
