import { accessSync, constants, mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FirmwareVersion, GenerationName } from '@cvm/sev-hw';
import { connectPlatform, type PlatformConnection } from './connect-platform.js';
import { DevsevError, textOf } from './error.js';
import { compileShim } from './shim.js';
import { FILES, type PlatformSettings, readSettings } from './state-folder.js';

/** What {@link startSevDevice} can be told. */
export interface SevDeviceOptions {
	/**
	 * Folder in which the platform's storage persists; made if it is not there. Who names the same folder at the same time
	 * shares one live platform. Without it the platform lasts as long as the device.
	 */
	readonly state?: string;
	/** `milan` by default, or what the state folder records. */
	readonly generation?: GenerationName;
	/** 0.24 build 15 by default, or what the state folder records. */
	readonly version?: FirmwareVersion;
	/** Names the chip; by default random at the first use of a state folder. The same seed has the same id and endorsement key. */
	readonly chipSeed?: string;
	/** C compiler, with arguments separated by blanks; by default $CC, cc, gcc or clang. */
	readonly compiler?: string;
	/** Command that runs `dist/devsev-server.js` of this package: for programs that are bundled into one file. */
	readonly server?: readonly string[];
}

/** A running software /dev/sev. */
export interface SevDevice {
	/**
	 * What a program needs in its environment, besides everything else. LD_PRELOAD is made from this process's: it names
	 * the shim and what was there.
	 */
	readonly env: { readonly LD_PRELOAD: string; readonly CVM_DEVSEV_FILE: string; readonly CVM_DEVSEV_SOCKET: string };
	/** Where the platform listens for ioctls of the shim. */
	readonly socketPath: string;
	/** The platform's storage: the state folder, or a temporary one. */
	readonly folder: string;
	readonly generation: GenerationName;
	readonly version: FirmwareVersion;
	/** Gives the device up. When the last user of the platform has done so, it is off; its storage persists in a state folder. */
	close(): Promise<void>;
}

function stateFolder(path: string): string {
	try {
		mkdirSync(path, { recursive: true, mode: 0o700 });
		accessSync(path, constants.W_OK | constants.X_OK);
		return realpathSync(path);
	} catch (error) {
		throw new DevsevError('state', `${path}: cannot be used as a state folder: ${textOf(error)}`);
	}
}

/** What separates the entries of LD_PRELOAD can not be quoted in it. */
const UNLOADABLE = /[\s:]/;

function wishes({ generation, version, chipSeed }: SevDeviceOptions): Partial<PlatformSettings> {
	return { ...(generation && { generation }), ...(version && { version }), ...(chipSeed && { chipSeed }) };
}

/**
 * Starts a platform in a process of its own, or joins the one that runs for `state`, and prepares the library that lets
 * programs use it.
 *
 * @throws DevsevError (rejects) `system`: not Linux. `compiler`: none there, or it fails. `state`: the folder cannot be written,
 * or holds a platform other than the one asked for. `server`: the platform's process does not start
 */
export async function startSevDevice(options: SevDeviceOptions = {}): Promise<SevDevice> {
	if (process.platform !== 'linux') {
		throw new DevsevError('system', `the software /dev/sev needs Linux, this is ${process.platform}`);
	}
	const ephemeral = options.state === undefined;
	const wanted = wishes(options);
	const folder = options.state === undefined ? mkdtempSync(join(tmpdir(), 'cvm-sev-')) : stateFolder(options.state);
	const shimFolder = UNLOADABLE.test(folder) ? mkdtempSync('/tmp/cvm-sev-shim-') : folder;
	const tidy = () => {
		if (shimFolder !== folder) rmSync(shimFolder, { recursive: true, force: true });
	};
	let platform: PlatformConnection | undefined;
	try {
		readSettings(folder, wanted);
		const shim = await compileShim(shimFolder, options.compiler);
		platform = await connectPlatform({ folder, ephemeral, wanted }, options.server);
		// Somebody else may have made the platform in between.
		const settings = readSettings(folder, wanted);
		if (settings === undefined) throw new DevsevError('state', `${folder}: ${FILES.settings} has gone`);
		return deviceOf({ folder, shim, platform, settings, tidy });
	} catch (error) {
		await platform?.close();
		tidy();
		if (ephemeral) rmSync(folder, { recursive: true, force: true });
		throw error;
	}
}

function deviceOf(made: {
	readonly folder: string;
	readonly shim: string;
	readonly platform: PlatformConnection;
	readonly settings: PlatformSettings;
	readonly tidy: () => void;
}): SevDevice {
	const { folder, shim, platform, settings, tidy } = made;
	const others = process.env['LD_PRELOAD'];
	return {
		env: {
			LD_PRELOAD: others ? `${shim}:${others}` : shim,
			CVM_DEVSEV_FILE: join(folder, FILES.device),
			CVM_DEVSEV_SOCKET: platform.socketPath,
		},
		socketPath: platform.socketPath,
		folder,
		generation: settings.generation,
		version: settings.version,
		close: async () => {
			await platform.close();
			tidy();
		},
	};
}
