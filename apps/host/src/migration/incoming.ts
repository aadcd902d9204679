import { createLoader, isStreamError, type Loader, type LoaderOptions, type LoadOutcome } from '@cvm/qemu-mig';
import { type Address, type Channel, type Incoming, openIncoming } from './uri.js';

/** How an incoming migration ended. */
export type IncomingResult = LoadOutcome | { readonly status: 'failed'; readonly error: Error };

/** One incoming migration: the transport and the loader, joined. */
export class IncomingMigration {
	readonly #listener: Incoming;
	readonly #options: Omit<LoaderOptions, 'reply'>;
	#channel: Channel | undefined;

	private constructor(listener: Incoming, options: Omit<LoaderOptions, 'reply'>) {
		this.#listener = listener;
		this.#options = options;
	}

	/** Starts to listen. @throws TransportError */
	static async listen(address: Address, options: Omit<LoaderOptions, 'reply'>): Promise<IncomingMigration> {
		return new IncomingMigration(await openIncoming(address), options);
	}

	get socketAddress(): Incoming['socketAddress'] {
		return this.#listener.socketAddress;
	}

	/** Stops listening and drops the stream that is arriving. */
	close(): void {
		this.#listener.close();
		this.#channel?.destroy();
	}

	/** Takes one stream to its end. Never rejects. `connected` is called, and awaited, when the stream begins. */
	async run(connected: () => void | Promise<void>): Promise<IncomingResult> {
		const channel = await this.#listener.accepted;
		this.#channel = channel;
		await connected();
		const loader = createLoader({ ...this.#options, ...(channel.twoWay && { reply: channel }) });
		const reading = this.#read(channel, loader);
		const result: IncomingResult = await Promise.race([loader.outcome, reading]);
		if (result.status === 'failed') channel.destroy();
		else await channel.close().catch(() => undefined); // the guest runs here, whether or not the source still listens
		return result;
	}

	async #read(channel: Channel, loader: Loader): Promise<IncomingResult> {
		try {
			for await (const chunk of channel.incoming) loader.push(chunk);
		} catch (error) {
			if (isStreamError(error)) return loader.outcome;
			// The connection broke: for the loader that is the end of the stream, with its place in it.
		}
		try {
			loader.end();
		} catch {
			// told by the outcome
		}
		return loader.outcome;
	}
}
