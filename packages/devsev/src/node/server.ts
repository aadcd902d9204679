import { chmodSync, mkdtempSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createSevMiscDevice, type SevMiscDevice } from '@cvm/kvm/ccp';
import { createSevMachine } from '@cvm/sev-hw';
import { createByteReader } from './byte-reader.js';
import { textOf } from './error.js';
import { lockFolder } from './lock.js';
import { IOCTL_MAGIC, Operation, operation, RUNNER_MAGIC, request, WELCOME } from './protocol.js';
import { serveIoctl } from './serve-ioctl.js';
import { FILES, fileStorage, openSettings, type PlatformSettings, readEndpoint, replaceFile } from './state-folder.js';

/** What a platform's process is told at its start. */
export interface ServerOrder {
	/** An existing folder, absolute. */
	readonly folder: string;
	/** The folder goes when the platform does. */
	readonly ephemeral: boolean;
	readonly wanted: Partial<PlatformSettings>;
}

/** The process around {@link serveSevDevice}. */
export interface ServerHost {
	/** The platform can be reached. */
	ready(): void;
	/** Says one line about a mishap that the platform survives. */
	complain(text: string): void;
	/** Ends the platform before its users do. */
	readonly until: Promise<unknown>;
}

/** The driver takes 1 MiB for SEV-ES save areas, and its buffers; below 1 MiB lies nothing usable. */
const DRAM_BYTES = 4 << 20;
/** Longest that nobody may come. */
const LONELY_MS = 15_000;
/** Bytes of `sun_path` in Linux's `struct sockaddr_un`, with a terminator. */
const SUN_PATH_BYTES = 108;
const SOCKET_FOLDER = 'cvm-devsev-';

const EIO = 5n;

function powerOn(folder: string, { chipSeed, generation, version }: PlatformSettings): SevMiscDevice {
	const machine = createSevMachine({
		dramBytes: DRAM_BYTES,
		provider: nodeProvider,
		random: systemRandom(),
		chipSeed,
		generation,
		version,
		nv: fileStorage(folder),
	});
	return createSevMiscDevice({ machine });
}

/** Removes what a process that was killed left. For who holds the lock. */
function removeStaleSocket(folder: string): void {
	const left = readEndpoint(folder);
	if (left === undefined || basename(left) !== FILES.socket) return;
	rmSync(left, { force: true });
	const home = dirname(left);
	if (basename(home).startsWith(SOCKET_FOLDER) && home !== folder) rmSync(home, { recursive: true, force: true });
}

function listen(server: Server, path: string): Promise<void> {
	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(path, () => {
			server.off('error', reject);
			chmodSync(path, 0o600);
			resolve();
		});
	});
}

/** Listens in the folder if that path fits into a socket address, else in a private one under /tmp. @returns the path */
async function listenFor(folder: string, server: Server): Promise<string> {
	const here = join(folder, FILES.socket);
	if (Buffer.byteLength(here) < SUN_PATH_BYTES) {
		rmSync(here, { force: true });
		await listen(server, here);
		return here;
	}
	const elsewhere = join(mkdtempSync(join('/tmp', SOCKET_FOLDER)), FILES.socket);
	await listen(server, elsewhere);
	return elsewhere;
}

/** Connections that keep a platform alive. */
function createUsers() {
	const present = new Set<Socket>();
	let leave = (): void => undefined;
	const gone = new Promise<void>((resolve) => {
		leave = resolve;
	});
	const lonely = setTimeout(leave, LONELY_MS);
	return {
		/** Resolves when the last one wants to go, or none came for long. */
		gone,
		admit: (socket: Socket): void => {
			clearTimeout(lonely);
			present.add(socket);
			socket.write(WELCOME);
		},
		/** The last one stays until `dismiss`, when all is tidy. @returns whether it may go */
		release: (socket: Socket): boolean => {
			if (present.size > 1) return present.delete(socket);
			leave();
			return false;
		},
		dismiss: async (): Promise<void> => {
			clearTimeout(lonely);
			await Promise.all([...present].map((socket) => new Promise<void>((done) => socket.end(done))));
		},
	};
}

/** Serves one connection to its end. @returns whether the socket is done with */
async function serveConnection(
	socket: Socket,
	device: SevMiscDevice,
	users: ReturnType<typeof createUsers>,
	isOpen: () => boolean,
): Promise<boolean> {
	const reader = createByteReader(socket);
	const hello = await reader.read(request.size);
	if (hello === undefined || !isOpen()) return true;
	const call = request.decode(hello);
	if (call.magic === IOCTL_MAGIC) await serveIoctl(device, socket, reader, call);
	if (call.magic !== RUNNER_MAGIC) return true;
	users.admit(socket);
	await reader.read(1); // never comes: the end does
	return users.release(socket);
}

/**
 * Runs the platform of a folder until the last of its users has gone. What it keeps is in the folder at every moment, so
 * that it may also be killed.
 *
 * @returns how it ended: `locked` means at once, because another process runs this platform
 * @throws DevsevError `state`, or what the system says of the folder
 */
export async function serveSevDevice(order: ServerOrder, host: ServerHost): Promise<'ended' | 'locked'> {
	const { folder, wanted } = order;
	const lock = await lockFolder(folder);
	if (lock === undefined) return 'locked';
	const settings = openSettings(folder, wanted);
	removeStaleSocket(folder);
	writeFileSync(join(folder, FILES.device), '', { mode: 0o600 });
	const device = powerOn(folder, settings);
	const users = createUsers();
	let open = true;
	const server = createServer({ allowHalfOpen: true }, async (socket) => {
		socket.on('error', () => undefined);
		try {
			if (await serveConnection(socket, device, users, () => open)) socket.end();
		} catch (error) {
			host.complain(`/dev/sev: ${textOf(error)}`);
			socket.end(failure());
		}
	});
	const path = await listenFor(folder, server);
	replaceFile(folder, FILES.endpoint, Buffer.from(`${path}\n${process.pid}\n`));
	host.ready();

	await Promise.race([users.gone, host.until]);
	open = false;
	server.close();
	tidy(order, path);
	await users.dismiss();
	return 'ended';
}

/** What the program gets when the platform itself failed, such as for want of room on the disk. */
function failure(): Uint8Array {
	return operation.encode({ code: Operation.RESULT, address: BigInt.asUintN(64, -EIO) });
}

function tidy({ folder, ephemeral }: ServerOrder, socket: string): void {
	if (basename(dirname(socket)).startsWith(SOCKET_FOLDER)) rmSync(dirname(socket), { recursive: true, force: true });
	if (ephemeral) {
		rmSync(folder, { recursive: true, force: true });
		return;
	}
	for (const path of [socket, join(folder, FILES.endpoint)]) {
		try {
			unlinkSync(path);
		} catch {
			// Node removes a socket that it stops listening on, and the folder may have gone.
		}
	}
}
