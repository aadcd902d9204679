import { createPrecopy, type Precopy, type PrecopyOptions, type PrecopyResult } from '@cvm/qemu-mig';
import { hostClock } from './clock.js';
import { type Address, type Channel, openOutgoing, type TransportError } from './uri.js';

/** What an outgoing migration needs from its host. */
export type OutgoingOptions = Omit<PrecopyOptions, 'sink' | 'clock' | 'returnPath'> & {
	readonly address: Address;
	/** Ask for a hand-over with a commit where the transport can carry the answer. */
	readonly handover: boolean;
	/** QEMU's `return-path` capability. */
	readonly returnPath: boolean;
};

/** How an outgoing migration ended, for the host. */
export type OutgoingResult =
	| PrecopyResult
	| { readonly status: 'failed'; readonly error: TransportError; readonly stopped: boolean; readonly mayResume: true };

/** One outgoing migration: the transport, the engine and the way back, joined. */
export class Outgoing {
	#options: OutgoingOptions;
	#precopy: Precopy | undefined;
	#channel: Channel | undefined;
	#cancelled = false;

	constructor(options: OutgoingOptions) {
		this.#options = options;
	}

	/** Live statistics, once the connection stands. */
	get precopy(): Precopy | undefined {
		return this.#precopy;
	}

	/** @returns false when it is too late */
	cancel(): boolean {
		this.#cancelled = true;
		if (!this.#precopy) return true;
		const accepted = this.#precopy.cancel();
		// A write that waits for a stalled peer would keep the cancel waiting with it.
		if (accepted) this.#channel?.destroy();
		return accepted;
	}

	/** Drops the connection, however far the migration is: the process ends. */
	drop(): void {
		this.cancel();
		this.#channel?.destroy();
	}

	/** Never rejects. */
	async run(): Promise<OutgoingResult> {
		const { address, handover, returnPath, ...options } = this.#options;
		let channel: Channel;
		try {
			channel = await openOutgoing(address);
		} catch (error) {
			if (this.#cancelled) return { status: 'cancelled', stopped: false };
			options.events?.status?.('failed');
			return { status: 'failed', error: error as TransportError, stopped: false, mayResume: true };
		}
		this.#channel = channel;
		const answering = !channel.twoWay ? 'none' : handover ? 'handover' : returnPath ? 'return-path' : 'none';
		const precopy = createPrecopy({ ...options, sink: channel, clock: hostClock, returnPath: answering });
		this.#precopy = precopy;
		if (this.#cancelled) precopy.cancel();
		if (channel.twoWay) void this.#listen(channel, precopy);
		let result: OutgoingResult = await precopy.run();
		if (result.status === 'completed') {
			try {
				await channel.close();
			} catch (error) {
				// The stream was all written but did not all arrive: nobody has the guest but us, unless it was handed over.
				if (!handover || !channel.twoWay) {
					result = { status: 'failed', error: error as TransportError, stopped: true, mayResume: true };
				}
			}
		}
		// A target that answered has read everything; one that only reads must not lose what it has yet to read.
		if (result.status !== 'completed' || answering !== 'none') channel.destroy();
		// A file that failed at its last byte is no file: nobody has the guest but us.
		if (result.status === 'failed' && address.kind === 'file') result = { ...result, mayResume: true };
		return result;
	}

	/** Never rejects. */
	async #listen(channel: Channel, precopy: Precopy): Promise<void> {
		try {
			for await (const chunk of channel.incoming) precopy.returnPath.push(chunk);
		} catch {
			// A broken connection is an ended one; what it means depends on how far the hand-over was.
		}
		precopy.returnPath.end();
	}
}
