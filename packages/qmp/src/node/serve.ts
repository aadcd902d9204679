import { lstatSync, unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { QmpServer } from '../server.js';
import { parseQmpAddress, type QmpAddress } from './address.js';

/** A listening QMP server. */
export interface QmpListener {
	/** Where it listens; the port is the real one also when 0 was asked for. */
	readonly address: QmpAddress;
	/** Stops listening and drops all clients. */
	close(): Promise<void>;
}

/** As many commands as QEMU queues before it stops reading (qemu 7.2 monitor/monitor-internal.h, QMP_REQ_QUEUE_LEN_MAX). */
const QUEUE_LIMIT = 8;

/** Time for event stamps, from the system's clock. */
export const systemClock = (): number => (performance.timeOrigin + performance.now()) * 1000;

function removeStaleSocket(path: string): void {
	try {
		// QEMU also replaces a socket left behind; anything else in that place is not ours to remove.
		if (lstatSync(path).isSocket()) unlinkSync(path);
	} catch (error) {
		if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
	}
}

function serveOne(server: QmpServer, socket: Socket, onEnd: () => void): void {
	let draining = false;
	const session = server.open((data) => {
		if (!socket.write(data)) draining = true;
	});
	const flow = () => {
		if (draining || session.backlog >= QUEUE_LIMIT) socket.pause();
		else socket.resume();
	};
	session.onIdle = flow;
	socket.on('drain', () => {
		draining = false;
		flow();
	});
	socket.on('data', (data: Uint8Array) => {
		session.receive(data);
		flow();
	});
	// A client that vanished is no fault of ours: `close` follows.
	socket.on('error', () => undefined);
	socket.on('close', () => {
		session.close();
		onEnd();
	});
	socket.resume();
}

/**
 * Listens on `unix:PATH,server,nowait` or `tcp:127.0.0.1:PORT`. One client is served at a time; others connect and wait
 * without a greeting, as with QEMU.
 *
 * @throws QmpAddressError for another form or a host that is not loopback
 */
export async function serveQmp(server: QmpServer, where: string): Promise<QmpListener> {
	const address = parseQmpAddress(where);
	const waiting: Socket[] = [];
	const sockets = new Set<Socket>();
	let current: Socket | undefined;

	const next = () => {
		current = waiting.shift();
		if (current) serveOne(server, current, next);
	};
	const listener: Server = createServer({ pauseOnConnect: true, allowHalfOpen: false }, (socket) => {
		sockets.add(socket);
		const forget = () => {
			sockets.delete(socket);
			const at = waiting.indexOf(socket);
			if (at >= 0) waiting.splice(at, 1);
		};
		socket.on('error', () => undefined);
		socket.on('close', forget);
		waiting.push(socket);
		if (!current) next();
	});

	if (address.type === 'unix') removeStaleSocket(address.path);
	await new Promise<void>((resolve, reject) => {
		listener.once('error', reject);
		if (address.type === 'unix') listener.listen(address.path, resolve);
		else listener.listen(address.port, address.host, resolve);
	});
	const bound = listener.address();
	return {
		address:
			address.type === 'tcp' && bound !== null && typeof bound === 'object'
				? { ...address, port: bound.port }
				: address,
		close: () =>
			new Promise((resolve) => {
				waiting.length = 0;
				listener.close(() => resolve());
				for (const socket of sockets) socket.destroy();
			}),
	};
}
