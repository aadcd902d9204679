import { PAGE_SIZE } from '@cvm/layout';
import { isCodecError } from '../codec/error.js';
import type { MultifdCompression } from '../codec/multifd/reader.js';
import { MultifdReader } from '../codec/multifd/reader.js';
import type { StreamErrorCode } from '../error.js';
import { isStreamError, StreamError } from '../error.js';
import type { Place } from '../events.js';
import type { StreamReader } from '../read/reader.js';
import { uuidText } from './configuration-check.js';
import type { RamLoader } from './ram.js';

/** Capability `multifd` of a target. */
export interface MultifdInputsOptions {
	/** `multifd-channels`. */
	readonly channels: number;
	/** `multifd-compression`. Default none. */
	readonly compression?: MultifdCompression;
	/**
	 * Where the main stream waits for the channels: at the end of every section (up to QEMU 8.0, and later for older machine
	 * types) or at MULTIFD_FLUSH records. Default: flush in dialect `qemu-9`, else section.
	 */
	readonly barrier?: 'section' | 'flush';
}

/** One extra connection. */
export interface LoaderChannel {
	/** @throws StreamError; the load has failed then */
	push(chunk: Uint8Array): void;
	/** The connection ended. @throws StreamError if that is inside a packet or before a barrier that needs it */
	end(): void;
	/** Bytes arrived that wait for others: read no further for now. */
	readonly waiting: boolean;
}

/** The main stream, paused at its barriers. */
interface MainChannel {
	readonly reader: Pick<StreamReader, 'paused'>;
	goOn(): void;
}

interface Input {
	readonly reader: MultifdReader;
	id: number | undefined;
	/** `ending`: closed, but what arrived before is not all read. */
	state: 'open' | 'ending' | 'ended';
}

const EMPTY = new Uint8Array(0);

/**
 * The extra channels of an incoming migration. Everybody stops at each barrier until all are there: the main stream at the
 * end of its section, every channel at its SYNC packet. QEMU 7.2 migration/multifd.c `multifd_recv_sync_main`.
 */
export class MultifdInputs {
	readonly #options: MultifdInputsOptions;
	readonly #ram: RamLoader;
	readonly #uuid: Uint8Array;
	readonly #main: MainChannel;
	readonly #inputs: Input[] = [];
	#pumping = false;

	constructor(options: MultifdInputsOptions, ram: RamLoader, uuid: Uint8Array | undefined, main: MainChannel) {
		this.#options = options;
		this.#ram = ram;
		this.#uuid = uuid ?? new Uint8Array(16);
		this.#main = main;
	}

	/** @param guard runs a step, so that its failure is the load's */
	open(guard: (work: () => void) => void): LoaderChannel {
		const input: Input = { reader: this.#reader(() => input), id: undefined, state: 'open' };
		this.#inputs.push(input);
		const step = (work: () => void): void =>
			guard(() => {
				faultsOf(input, work);
				this.pump();
			});
		return {
			push: (chunk) => step(() => input.reader.push(chunk)),
			end: () =>
				step(() => {
					input.state = 'ending';
					finish(input);
				}),
			get waiting() {
				return input.reader.paused;
			},
		};
	}

	/** Lets everybody go on when all are at the barrier. To be called after anything was read, not from inside a reader. */
	pump(): void {
		if (this.#pumping) return;
		this.#pumping = true;
		try {
			while (this.#allThere()) {
				this.#main.reader.paused = false;
				for (const { reader } of this.#inputs) reader.paused = false;
				this.#main.goOn();
				for (const input of this.#inputs) faultsOf(input, () => goOn(input));
			}
		} finally {
			this.#pumping = false;
		}
	}

	#allThere(): boolean {
		if (!this.#main.reader.paused) return false;
		const gone = this.#inputs.find(({ state }) => state === 'ended');
		if (gone !== undefined) {
			throw channelFault('truncated', `multifd channel ${gone.id}: expected a SYNC packet, got the end`, [], 0);
		}
		return this.#inputs.length === this.#options.channels && this.#inputs.every(({ reader }) => reader.paused);
	}

	#reader(self: () => Input): MultifdReader {
		const ram = this.#ram;
		return new MultifdReader({
			compression: this.#options.compression ?? 'none',
			blockLength: (block) => ram.lengthOf(block),
			handler: {
				init: ({ uuid, channel }) => this.#opened(self(), uuid, channel),
				packet: ({ block, zero }, _raw, at) => {
					for (const address of zero) ram.zeroPage(block, address, 0, placeOf(at, PAGE_SIZE));
				},
				page: (block, address, page, at) => ram.rawPage(block, address, page, placeOf(at, page.length)),
				sync: () => {
					self().reader.paused = true;
				},
			},
		});
	}

	/** QEMU 7.2 migration/multifd.c `multifd_recv_initial_packet`, `multifd_recv_new_channel`. */
	#opened(input: Input, uuid: Uint8Array, id: number): void {
		const [there, here] = [uuidText(uuid), uuidText(this.#uuid)];
		if (there !== here) {
			const text = `multifd: received uuid '${there}' and expected uuid '${here}' for channel ${id}`;
			throw channelFault('configuration', text, [text], 0);
		}
		if (id >= this.#options.channels) {
			const text = `multifd: expected a channel below ${this.#options.channels}, got ${id}`;
			throw channelFault('configuration', text, [], 0);
		}
		if (this.#inputs.some((other) => other.id === id)) {
			const text = `multifd: received id '${id}' already setup'`;
			throw channelFault('configuration', text, [text], 0);
		}
		input.id = id;
	}
}

function goOn(input: Input): void {
	if (input.state === 'ended') return;
	input.reader.push(EMPTY);
	if (input.state === 'ending') finish(input);
}

/** What waits for the others is read when they come. */
function finish(input: Input): void {
	if (input.reader.paused) return;
	input.state = 'ended';
	input.reader.end();
}

/** Faults of a channel as the load's, with offsets in the channel. */
function faultsOf(input: Input, work: () => void): void {
	try {
		work();
	} catch (cause) {
		if (isStreamError(cause) || !isCodecError(cause)) throw cause;
		const code = cause.code === 'truncated' || cause.code === 'closed' ? cause.code : 'record';
		throw channelFault(code, `multifd channel ${input.id}: ${cause.message}`, cause.qemu, cause.offset, cause);
	}
}

function channelFault(
	code: StreamErrorCode,
	message: string,
	qemu: readonly string[],
	offset: number,
	cause?: unknown,
): StreamError {
	const place = { offset, section: undefined, inBody: false };
	return new StreamError({ code, message, qemu, ...(cause !== undefined && { cause }) }, place);
}

const placeOf = (offset: number, length: number): Place => ({
	offset,
	length,
	section: undefined,
	inBody: false,
	packaged: false,
});
