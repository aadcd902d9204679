import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';

/** A connection to the other side could not be made or used. The message is QEMU's where QEMU has one. */
export class TransportError extends Error {
	override readonly name = 'TransportError';
	readonly code = 'transport';
}

/** Where a stream goes to or comes from. */
export type Address =
	| { readonly kind: 'tcp'; readonly host: string; readonly port: number }
	| { readonly kind: 'unix'; readonly path: string }
	| { readonly kind: 'exec'; readonly command: string }
	| { readonly kind: 'file'; readonly path: string };

/** Reads a migration URI. `undefined` if its protocol is none that this model serves. @throws TransportError on a bad address */
export function parseUri(uri: string): Address | undefined {
	const [, protocol, rest] = /^([a-z]+):(.*)$/s.exec(uri) ?? [];
	if (rest === undefined) return undefined;
	if (protocol === 'unix') return { kind: 'unix', path: rest };
	if (protocol === 'exec') return { kind: 'exec', command: rest };
	if (protocol === 'file') return { kind: 'file', path: rest };
	if (protocol !== 'tcp') return undefined;
	const match = /^(\[[^\]]+\]|[^:]*):(\d{1,5})$/.exec(rest);
	if (!match || Number(match[2]) > 65535) throw new TransportError(`error parsing address '${rest}'`);
	return { kind: 'tcp', host: (match[1] ?? '').replace(/^\[|\]$/g, ''), port: Number(match[2]) };
}

/** One stream, and the way back if the transport has one. */
export interface Channel {
	/** Hands bytes to the system. The buffer may be reused once the promise resolves. */
	write(chunk: Uint8Array): Promise<void>;
	/** Bytes from the other side, until it closes. Rejects when the connection breaks. */
	readonly incoming: AsyncIterable<Uint8Array>;
	/** Whether bytes can come back: files and pipes have no way back. */
	readonly twoWay: boolean;
	/** Ends the stream in good order: all bytes are with the system (a file is complete and has its name). */
	close(): Promise<void>;
	/** Drops the stream at once. A file that was being written is removed. */
	destroy(): void;
}

const STRERROR: Readonly<Record<string, string>> = {
	ECONNREFUSED: 'Connection refused',
	ECONNRESET: 'Connection reset by peer',
	EPIPE: 'Broken pipe',
	ENOENT: 'No such file or directory',
	EACCES: 'Permission denied',
	ENOSPC: 'No space left on device',
	EADDRINUSE: 'Address already in use',
	EADDRNOTAVAIL: 'Cannot assign requested address',
	EISDIR: 'Is a directory',
	ENOTDIR: 'Not a directory',
	EEXIST: 'File exists',
	EFBIG: 'File too large',
	EROFS: 'Read-only file system',
	ETIMEDOUT: 'Connection timed out',
	// Node's own: the reader went away without an error.
	ERR_STREAM_DESTROYED: 'Broken pipe',
};

/** The C library's words for a system error. */
export function strerror(error: unknown): string {
	const { code, message } = error as NodeJS.ErrnoException;
	return (code !== undefined && STRERROR[code]) || message;
}

function overStreams(readable: Readable | undefined, writable: Writable | undefined, twoWay: boolean): Channel {
	let failure: Error | undefined;
	// Without a listener a late error would take the process down; it surfaces at the next write or read instead.
	for (const stream of new Set([readable, writable])) stream?.on('error', (error) => (failure ??= error));
	async function* read(): AsyncGenerator<Uint8Array> {
		if (!readable) return;
		try {
			// The end of one direction is not the end of the other: an answer may still have to go out.
			for await (const chunk of readable.iterator({ destroyOnReturn: false })) yield chunk as Uint8Array;
		} catch (error) {
			throw new TransportError(strerror(error), { cause: error });
		}
	}
	return {
		twoWay,
		incoming: read(),
		write: (chunk) =>
			new Promise((resolve, reject) => {
				const fail = (error: Error) =>
					reject(new TransportError(`Unable to write to socket: ${strerror(error)}`, { cause: error }));
				if (!writable) return reject(new TransportError('this stream can only be read'));
				if (failure) return fail(failure);
				writable.write(chunk, (error) => (error ? fail(error) : resolve()));
			}),
		close: () =>
			new Promise((resolve, reject) => {
				if (!writable || writable.destroyed) return resolve();
				writable.end(() => (failure ? reject(new TransportError(strerror(failure), { cause: failure })) : resolve()));
				writable.once('error', (error) => reject(new TransportError(strerror(error), { cause: error })));
			}),
		destroy: () => {
			readable?.destroy();
			writable?.destroy();
		},
	};
}

const overSocket = (socket: Socket): Channel => {
	socket.setNoDelay(true);
	return overStreams(socket, socket, true);
};

function connect(options: { host: string; port: number } | { path: string }, shown: string): Promise<Channel> {
	return new Promise((resolve, reject) => {
		const socket = createConnection({ ...options, allowHalfOpen: true });
		const refuse = (error: Error) =>
			reject(new TransportError(`Failed to connect to '${shown}': ${strerror(error)}`, { cause: error }));
		socket.once('error', refuse);
		socket.once('connect', () => {
			socket.off('error', refuse);
			resolve(overSocket(socket));
		});
	});
}

function endGroup({ pid, exitCode, signalCode }: ChildProcess): void {
	if (pid === undefined || exitCode !== null || signalCode !== null) return;
	try {
		process.kill(-pid, 'SIGTERM');
	} catch {
		// It has just ended by itself.
	}
}

/** A shell command that reads (or makes) the stream. It fails the stream if it exits with another code than 0. */
function overCommand(command: string, direction: 'in' | 'out'): Channel {
	const child = spawn('/bin/sh', ['-c', command], {
		stdio: direction === 'out' ? ['pipe', 'inherit', 'inherit'] : ['ignore', 'pipe', 'inherit'],
		detached: true, // a group of its own: the shell's commands end with it
	});
	const ended = new Promise<void>((resolve, reject) => {
		child.once('error', reject);
		child.once('exit', (code, signal) =>
			code === 0 ? resolve() : reject(new TransportError(`command exited with ${signal ?? `status ${code}`}`)),
		);
	});
	ended.catch(() => undefined); // told by close()
	const channel = overStreams(child.stdout ?? undefined, child.stdin ?? undefined, false);
	return {
		...channel,
		close: async () => {
			await channel.close();
			await ended;
		},
		destroy: () => {
			// First: a command that lives to see its pipe break complains of it.
			endGroup(child);
			channel.destroy();
		},
	};
}

/** Whether something is there that is no file, such as a device: it can be written to, but not replaced. */
function isSpecial(path: string): boolean {
	try {
		return !statSync(path).isFile();
	} catch {
		return false; // to open it will tell
	}
}

/** A file that gets its name only when it is complete, so that a failure neither leaves half a stream nor costs an old one. */
function overFile(path: string): Channel {
	const special = isSpecial(path);
	const partial = special ? path : `${path}.partial`;
	let fd: number;
	try {
		fd = openSync(partial, special ? 'w' : 'wx');
	} catch (error) {
		throw new TransportError(`Failed to open '${partial}': ${strerror(error)}`, { cause: error });
	}
	const channel = overStreams(undefined, createWriteStream(partial, { fd }), false);
	const remove = () => {
		if (!special) rmSync(partial, { force: true });
	};
	const told = (error: unknown) => {
		remove();
		throw new TransportError(`Unable to write to '${path}': ${strerror((error as Error).cause ?? error)}`, {
			cause: error,
		});
	};
	return {
		...channel,
		write: (chunk) => channel.write(chunk).catch(told),
		close: async () => {
			await channel.close().catch(told);
			if (!special) renameSync(partial, path);
		},
		destroy: () => {
			channel.destroy();
			remove();
		},
	};
}

/** Opens the way out. @throws TransportError if the other side is not there */
export async function openOutgoing(address: Address): Promise<Channel> {
	switch (address.kind) {
		case 'tcp':
			return connect(address, `${address.host}:${address.port}`);
		case 'unix':
			return connect({ path: address.path }, address.path);
		case 'exec':
			return overCommand(address.command, 'out');
		case 'file':
			return overFile(address.path);
	}
}

/** A place that waits for one stream. */
export interface Incoming {
	/** As query-migrate shows it; absent for pipes and files. */
	readonly socketAddress?:
		| { readonly type: 'inet'; readonly host: string; readonly port: string }
		| { readonly type: 'unix'; readonly path: string };
	/** The first stream that arrives; later connections are turned away. */
	readonly accepted: Promise<Channel>;
	close(): void;
}

/** Addresses that mean "from anywhere", and what becomes of them here. */
const LOOPBACK: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '': '127.0.0.1', '::': '::1' };

/** Where this model listens when asked to listen everywhere: on loopback. Any other address as it is. */
export function narrowed(address: Address): Address {
	const host = address.kind === 'tcp' ? LOOPBACK[address.host] : undefined;
	return host === undefined ? address : ({ ...address, kind: 'tcp', host } as Address);
}

/** Starts to listen. @throws TransportError if the address is taken or is not on the loopback interface */
export async function openIncoming(address: Address): Promise<Incoming> {
	if (address.kind === 'exec')
		return { accepted: Promise.resolve(overCommand(address.command, 'in')), close: () => undefined };
	if (address.kind === 'file') {
		const { createReadStream } = await import('node:fs');
		let fd: number;
		try {
			fd = openSync(address.path, 'r');
		} catch (error) {
			throw new TransportError(`Failed to open '${address.path}': ${strerror(error)}`, { cause: error });
		}
		const stream = createReadStream(address.path, { fd, highWaterMark: 1 << 20 });
		return { accepted: Promise.resolve(overStreams(stream, undefined, false)), close: () => stream.destroy() };
	}
	if (address.kind === 'tcp' && !['127.0.0.1', '::1', 'localhost'].includes(address.host)) {
		throw new TransportError(`this model listens on the loopback interface only, not on '${address.host}'`);
	}
	const server = createServer({ allowHalfOpen: true });
	const shown = address.kind === 'tcp' ? `${address.host}:${address.port}` : address.path;
	await new Promise<void>((resolve, reject) => {
		server.once('error', (error) =>
			reject(new TransportError(`Failed to bind '${shown}': ${strerror(error)}`, { cause: error })),
		);
		if (address.kind === 'tcp') server.listen(address.port, address.host, resolve);
		else server.listen(address.path, resolve);
	});
	const accepted = firstOf(server);
	const bound = server.address();
	return {
		accepted,
		close: () => server.close(),
		socketAddress:
			address.kind === 'unix'
				? { type: 'unix', path: address.path }
				: { type: 'inet', host: address.host, port: String(typeof bound === 'object' ? bound?.port : address.port) },
	};
}

function firstOf(server: Server): Promise<Channel> {
	return new Promise((resolve) => {
		server.once('connection', (socket) => {
			server.close();
			resolve(overSocket(socket));
		});
	});
}
