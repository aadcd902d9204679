import { PAGE_SIZE } from '@cvm/layout';
import type { ByteSink, RamBlock } from '../ports.js';
import { failureOf } from '../precopy/failure.js';
import type { Output } from '../precopy/output.js';
import type { RamSender } from '../precopy/ram-sender.js';
import type { Waiter } from '../precopy/waiter.js';
import { StreamWriter } from '../write/writer.js';
import type { PagesToRelease } from './dirty.js';
import { hostPageSize } from './host-page.js';
import type { RequestQueue } from './requests.js';

/** What {@link UrgentSender} works with. */
export interface UrgentSenderOptions {
	readonly sink: ByteSink;
	readonly output: Output;
	readonly blocks: readonly RamBlock[];
	readonly ram: RamSender;
	readonly requests: RequestQueue;
	readonly released: PagesToRelease;
}

/**
 * Capability `postcopy-preempt`: sends pages that the guest waits for on a connection of their own, so that none waits behind
 * what the main one still has in its buffers. Bandwidth limits do not hold for them, and the walk over memory goes on where
 * it was. Records without a section around them, with a CONTINUE state of their own, up to EOS.
 *
 * QEMU 7.2 migration/ram.c `ram_save_host_page_urgent`, `postcopy_preempt_shutdown_file`.
 */
export class UrgentSender {
	readonly #o: UrgentSenderOptions;
	readonly #writer: StreamWriter;
	/** Of this connection: a failure must not disturb the next one. */
	readonly #waiter: Waiter;
	#serving: Promise<void> | undefined;
	#failure: Error | undefined;
	#closed = false;

	constructor(options: UrgentSenderOptions) {
		this.#o = options;
		this.#writer = new StreamWriter(options.sink);
		this.#waiter = options.output.waiter;
	}

	/** Sends what is asked for, one host page after the other; to be called when something is. */
	serve(): void {
		this.#serving ??= this.#serve().then(
			() => {
				this.#serving = undefined;
			},
			(cause) => {
				this.#failure = failureOf('sink', cause);
				if (!this.#closed) this.#waiter.interrupt(this.#failure);
			},
		);
	}

	/** Resolves when nothing is on its way. @throws PrecopyError if the connection failed */
	async idle(): Promise<void> {
		while (this.#serving !== undefined) {
			await this.#serving;
			if (this.#failure !== undefined) throw this.#failure;
		}
	}

	/** Ends the connection's records. The other side waits for that. */
	async finish(): Promise<void> {
		try {
			this.#writer.endOfRecords();
			await this.#writer.flush();
		} catch (cause) {
			throw failureOf('sink', cause);
		}
	}

	/** The connection is gone. */
	close(): void {
		this.#closed = true;
	}

	async #serve(): Promise<void> {
		const { output, ram, requests, released, blocks } = this.#o;
		const { statistics } = output;
		while (!this.#closed) {
			const asked = requests.take();
			if (asked === undefined) return;
			const block = blocks[asked.block];
			if (block === undefined || !ram.dirty.isDirty(asked.block, asked.page)) continue;
			const size = hostPageSize(block);
			const before = this.#writer.position;
			const first = output.through(this.#writer, () => ram.hostPage(asked.block, asked.page, size));
			statistics.postcopyBytes += this.#writer.position - before;
			statistics.urgentPages += size / PAGE_SIZE;
			await this.#writer.flush();
			if (!this.#closed) released.sent(asked.block, first, size / PAGE_SIZE);
		}
	}
}
