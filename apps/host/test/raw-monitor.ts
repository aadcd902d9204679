/** A QMP client that keeps every byte of the conversation. */
import { createConnection, type Socket } from 'node:net';

export interface Answer {
	readonly id?: number;
	readonly return?: unknown;
	readonly error?: { readonly class: string; readonly desc: string };
}

export class RawMonitor {
	readonly #socket: Socket;
	readonly #bytes: Uint8Array[] = [];
	readonly #waiting = new Map<number, (answer: Answer) => void>();
	#line = '';
	#id = 0;

	private constructor(socket: Socket) {
		this.#socket = socket;
		socket.on('error', () => undefined);
		socket.on('data', (piece) => {
			this.#bytes.push(piece);
			const lines = (this.#line + piece).split('\n');
			this.#line = lines.pop() ?? '';
			for (const line of lines) this.#answered(JSON.parse(line) as Answer);
		});
	}

	/** Connects to a host's socket and ends the negotiation. */
	static async connect(path: string): Promise<RawMonitor> {
		const socket = createConnection({ path });
		await new Promise<void>((resolve, reject) => {
			socket.once('connect', resolve);
			socket.once('error', reject);
		});
		const monitor = new RawMonitor(socket);
		await monitor.execute('qmp_capabilities');
		return monitor;
	}

	/** @returns the answer, without its id */
	execute(command: string, args: object = {}): Promise<Answer> {
		const id = ++this.#id;
		const request = Buffer.from(JSON.stringify({ execute: command, arguments: args, id }));
		this.#bytes.push(request);
		this.#socket.write(request);
		return new Promise((resolve) => this.#waiting.set(id, resolve));
	}

	/** Everything that was said, both ways. */
	get transcript(): Uint8Array {
		return Buffer.concat(this.#bytes);
	}

	close(): void {
		this.#socket.destroy();
	}

	#answered({ id = 0, ...answer }: Answer): void {
		this.#waiting.get(id)?.(answer);
		this.#waiting.delete(id);
	}
}
