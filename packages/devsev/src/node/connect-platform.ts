import { type ChildProcess, spawn } from 'node:child_process';
import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { DevsevError } from './error.js';
import { RUNNER_MAGIC, request } from './protocol.js';
import type { ServerOrder } from './server.js';
import { besideThisModule } from './shim.js';
import { readEndpoint } from './state-folder.js';

/** A connection that keeps a platform alive. */
export interface PlatformConnection {
	readonly socketPath: string;
	/** Resolves when the platform knows; if this was its last user, when it has tidied up. */
	close(): Promise<void>;
}

/** Longest that a platform may take to answer, on a machine that does something else besides. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 20;
const COMPLAINT_LIMIT = 4096;

/** Connects to the platform of a folder if its process lives. */
async function tryConnect(folder: string): Promise<PlatformConnection | undefined> {
	const socketPath = readEndpoint(folder);
	if (socketPath === undefined) return undefined;
	const socket = createConnection(socketPath);
	const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
	socket.on('error', () => undefined); // nobody listens, or it just ended: `close` follows
	socket.write(request.encode({ magic: RUNNER_MAGIC }));
	const welcome = await new Promise((resolve) => {
		socket.once('data', resolve);
		socket.once('close', () => resolve(undefined));
	});
	if (welcome === undefined) return undefined;
	socket.resume();
	socket.unref();
	const close = async (): Promise<void> => {
		socket.ref();
		socket.end();
		await closed;
	};
	return { socketPath, close };
}

/** The first line that a process says, or how it failed. @throws DevsevError `server` */
async function outcomeOf(child: ChildProcess): Promise<void> {
	let complaint = '';
	child.stderr?.on('data', (data) => {
		complaint = (complaint + data).slice(0, COMPLAINT_LIMIT);
	});
	await new Promise<void>((resolve, reject) => {
		// Either `ready` or `locked`: then somebody else's is there, or about to be gone.
		child.stdout?.once('data', () => resolve());
		child.once('error', (error) => reject(new DevsevError('server', `the platform did not start: ${error.message}`)));
		child.once('close', (code, signal) => {
			if (code === 0) return resolve();
			const [line = `the platform's process ended with ${code ?? signal}`] = complaint.split('\n').filter(Boolean);
			reject(new DevsevError('server', line));
		});
	});
}

/** Starts a process for the platform, which ends at once if another one runs it. */
async function launch(order: ServerOrder, command: readonly string[] | undefined): Promise<void> {
	const [program = '', ...argv] = command ?? [process.execPath, besideThisModule(['./devsev-server.js'])];
	// In a session of its own: the terminal's Ctrl-C is for the program that uses the device.
	const child = spawn(program, argv, { detached: true, stdio: ['pipe', 'pipe', 'pipe'], cwd: '/' });
	child.stdin?.on('error', () => undefined);
	child.stdin?.end(JSON.stringify(order));
	try {
		await outcomeOf(child);
	} finally {
		child.stdout?.destroy();
		child.stderr?.destroy();
		child.unref();
	}
}

/**
 * Connects to the platform of a folder, starting it if need be.
 *
 * @throws DevsevError `server`
 */
export async function connectPlatform(order: ServerOrder, command?: readonly string[]): Promise<PlatformConnection> {
	for (const until = Date.now() + PATIENCE_MS; Date.now() < until; await delay(PAUSE_MS)) {
		const there = await tryConnect(order.folder);
		if (there) return there;
		await launch(order, command);
		const started = await tryConnect(order.folder);
		if (started) return started;
	}
	throw new DevsevError('server', `${order.folder}: the platform's process does not answer`);
}
