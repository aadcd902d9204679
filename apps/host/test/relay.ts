/** A stretch of network between two hosts that a test can listen to and cut. */
import { createConnection, createServer, type Server, type Socket } from 'node:net';

/**
 * What happens to bytes on their way: they pass, or the line is cut before them, or they and all after them stay on their way,
 * as if the peer did not read.
 */
type Fate = 'pass' | 'cut' | 'hold';

export interface RelayRules {
	/** Cut when exactly so many bytes of the stream have passed. */
	readonly cutAt?: number;
	/** Reset the connection instead of closing it. */
	readonly reset?: boolean;
	/** Asked about each piece of the stream. */
	readonly stream?: (piece: Uint8Array) => Fate;
	/** Asked about each piece that the target answers. */
	readonly answer?: (piece: Uint8Array) => Fate;
	/** Keep everything that passes. */
	readonly record?: boolean;
}

/** SWITCHOVER_ACK and SHUT as they stand on the return path: be16 type, be16 length. */
export const isAcknowledgement = (piece: Uint8Array): boolean => Buffer.from(piece).includes(Buffer.of(0, 7, 0, 0));
export const isShut = (piece: Uint8Array): boolean => Buffer.from(piece).includes(Buffer.of(0, 1, 0, 4));

/** A TCP relay for one connection. */
export class Relay {
	/** Where a source should send to. */
	readonly uri: string;
	/** Bytes of the stream that passed. */
	forwarded = 0;
	/** With `record`: what passed, either way. */
	readonly passed: Uint8Array[] = [];
	readonly #server: Server;
	readonly #rules: RelayRules;
	readonly #to: URL;
	#sockets: readonly Socket[] = [];

	private constructor(server: Server, to: string, rules: RelayRules) {
		const address = server.address();
		this.#server = server;
		this.#rules = rules;
		this.#to = new URL(to);
		this.uri = `tcp:127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
		server.once('connection', (socket) => this.#connected(socket));
	}

	/** A relay to where a target listens, `tcp:HOST:PORT`. */
	static async open(to: string, rules: RelayRules = {}): Promise<Relay> {
		const server = createServer({ allowHalfOpen: true });
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		return new Relay(server, to.replace('tcp:', 'tcp://'), rules);
	}

	/** Cuts the line. */
	cut(): void {
		this.#server.close();
		for (const socket of this.#sockets) {
			if (this.#rules.reset) socket.resetAndDestroy();
			else socket.destroy();
		}
	}

	#connected(source: Socket): void {
		this.#server.close();
		const target = createConnection({ host: this.#to.hostname, port: Number(this.#to.port), allowHalfOpen: true });
		this.#sockets = [source, target];
		for (const [from, to] of [
			[source, target],
			[target, source],
		] as const) {
			from.on('error', () => to.destroy());
			from.on('end', () => to.end());
			from.on('close', () => to.end());
			from.on('data', (piece) => this.#pass(from, to, piece, from === source));
			to.on('drain', () => from.resume());
		}
		if (this.#rules.cutAt === 0) target.once('connect', () => this.cut());
	}

	#pass(from: Socket, to: Socket, piece: Uint8Array, isStream: boolean): void {
		const { cutAt = Number.POSITIVE_INFINITY, stream, answer, record } = this.#rules;
		const fate = (isStream ? stream : answer)?.(piece) ?? 'pass';
		if (fate === 'hold') from.pause();
		if (fate === 'cut') this.cut();
		if (fate !== 'pass') return;
		const last = isStream && this.forwarded + piece.length >= cutAt;
		const passing = last ? piece.subarray(0, cutAt - this.forwarded) : piece;
		if (isStream) this.forwarded += passing.length;
		if (record) this.passed.push(passing.slice());
		if (last) from.pause();
		if (last) to.write(passing, () => this.cut());
		else if (!to.write(passing)) from.pause();
	}
}
