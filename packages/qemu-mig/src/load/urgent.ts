import type { StreamHandler } from '../events.js';
import type { PostcopyPages } from '../postcopy/target.js';
import type { ResumeState } from '../read/options.js';
import { StreamReader } from '../read/reader.js';
import { NOT_URGENT } from './limits.js';
import type { LoaderOptions } from './options.js';
import { RamLoader } from './ram.js';
import { pageRecords } from './records.js';

/**
 * One connection of urgent pages, capability `postcopy-preempt`. QEMU 7.2 migration/postcopy-ram.c `postcopy_preempt_thread`,
 * migration/ram.c `ram_load_postcopy`.
 */
export class UrgentInput {
	readonly ram: RamLoader;
	/** EOS was read: nothing is missing. */
	complete = false;
	readonly #options: LoaderOptions;
	readonly #resume: () => ResumeState;
	#reader: StreamReader | undefined;

	/** @param resume what the main stream has said so far */
	constructor(options: LoaderOptions, pages: PostcopyPages, resume: () => ResumeState) {
		this.ram = new RamLoader(options.sink, pages);
		this.#options = options;
		this.#resume = resume;
	}

	/** @throws StreamError */
	push(chunk: Uint8Array): void {
		this.#open().push(chunk);
	}

	/** @throws StreamError unless EOS was read */
	end(): void {
		this.#open().end();
	}

	/** Nothing comes before it is asked for, and so not before the main stream has named its blocks. */
	#open(): StreamReader {
		const { dialect, compress, limits } = this.#options;
		this.#reader ??= new StreamReader({
			dialect,
			stream: 'preempt',
			// CONTINUE counts for each connection by itself.
			resume: { ...this.#resume(), block: undefined },
			check: 'target',
			compress: compress ?? false,
			handler: this.#handler(),
			...(limits === undefined ? {} : { limits }),
		});
		return this.#reader;
	}

	#handler(): StreamHandler {
		const { ram } = this;
		return {
			...NOT_URGENT,
			...pageRecords(ram),
			endOfRecords: () => {
				this.complete = true;
			},
		};
	}
}
