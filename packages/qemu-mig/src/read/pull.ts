import type { Dialect } from '../dialect.js';
import { collectEvents } from './collect.js';
import type { Detection } from './detect.js';
import { DialectProbe } from './detect.js';
import type { ReaderOptions } from './options.js';
import { StreamReader } from './reader.js';
import type { ByteSource } from './source.js';
import { chunksOf } from './source.js';
import type { StreamEvent } from './stream-event.js';

/** Bytes whose events may be waiting: a zero page takes 9 bytes of the stream, but some hundred as an event. */
const SLICE_BYTES = 64 * 1024;

/** Default look-ahead when the dialect is to be found out. */
const LOOK_AHEAD = 4 * 1024 * 1024;

/** Options of {@link readStream}: those of {@link StreamReader}, without its handler. */
export interface PullOptions extends Omit<ReaderOptions, 'handler' | 'dialect'> {
	/** `auto`: found out from the first bytes, see {@link detectDialect}; `stream` is then found out too unless given. */
	readonly dialect: Dialect | 'auto';
	/** Bytes held back to find out the dialect, at most. Default 4 MiB. */
	readonly lookAhead?: number;
	/**
	 * Bytes in events are views of the source's chunks where they lie whole in one, and copies otherwise: they stay valid as
	 * long as the source leaves its chunks alone. True copies them always, for sources that reuse their buffers.
	 */
	readonly copy?: boolean;
}

/**
 * Reads a migration stream as events, to be pulled: the source is read no further than the events that were taken, and
 * memory is bounded by the reader's limits, one chunk of the source, and the events of 64 KiB of it. Leaving the loop
 * closes the source.
 *
 * @throws StreamError after the events before the fault
 */
export async function* readStream(
	source: ByteSource,
	options: PullOptions,
): AsyncGenerator<StreamEvent, void, undefined> {
	const chunks = chunksOf(source);
	try {
		const held: Uint8Array[] = [];
		let dialect = options.dialect;
		let stream = options.stream;
		if (dialect === 'auto') {
			const detection = await detected(chunks, held, options);
			yield { type: 'dialect', detection };
			dialect = detection.best ?? 'qemu-7.2';
			stream ??= detection.stream;
		}
		yield* events(held, chunks, { ...options, dialect, ...(stream === undefined ? {} : { stream }) }, options.copy);
	} finally {
		await chunks.return();
	}
}

/** Reads until the dialect is certain or the look-ahead used up; what was read goes to `held`. */
async function detected(
	chunks: AsyncGenerator<Uint8Array, void, undefined>,
	held: Uint8Array[],
	{ lookAhead = LOOK_AHEAD, stream, copy }: PullOptions,
): Promise<Detection> {
	const probe = new DialectProbe(stream);
	for (let left = lookAhead; left > 0; ) {
		const step = await chunks.next();
		if (step.done === true) return probe.end();
		// Not `slice`, which for a Buffer is a view.
		const chunk = copy === true ? new Uint8Array(step.value) : step.value;
		held.push(chunk);
		if (probe.push(chunk.subarray(0, left))) break;
		left -= chunk.length;
	}
	return probe.result();
}

async function* events(
	held: Uint8Array[],
	chunks: AsyncGenerator<Uint8Array, void, undefined>,
	options: Omit<ReaderOptions, 'handler'>,
	copy = false,
): AsyncGenerator<StreamEvent, void, undefined> {
	let waiting: StreamEvent[] = [];
	let chunk: Uint8Array = new Uint8Array(0);
	// What is not in the chunk is in the reader's own buffer, which the next bytes overwrite.
	const keep = (data: Uint8Array): Uint8Array => (copy || data.buffer !== chunk.buffer ? data.slice() : data);
	const reader = new StreamReader({ ...options, handler: collectEvents((event) => waiting.push(event), keep) });
	const taken = function* (step: () => void): Generator<StreamEvent> {
		let failure: { readonly cause: unknown } | undefined;
		try {
			step();
		} catch (cause) {
			failure = { cause };
		}
		const batch = waiting;
		waiting = [];
		yield* batch;
		if (failure !== undefined) throw failure.cause;
	};
	for await (chunk of both(held, chunks)) {
		for (let at = 0; at < chunk.length; at += SLICE_BYTES) {
			const slice = chunk.subarray(at, at + SLICE_BYTES);
			yield* taken(() => reader.push(slice));
		}
	}
	yield* taken(() => waiting.push({ type: 'end', ...reader.end() }));
}

/** What was held back, released as it goes, and then the rest. */
async function* both(
	held: Uint8Array[],
	chunks: AsyncGenerator<Uint8Array, void, undefined>,
): AsyncGenerator<Uint8Array, void, undefined> {
	held.reverse();
	for (let chunk = held.pop(); chunk !== undefined; chunk = held.pop()) yield chunk;
	yield* chunks;
}
