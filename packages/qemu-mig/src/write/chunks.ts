import { nameInto } from '../latin1.js';
import type { ByteSink } from '../ports.js';

/** Bytes of one outgoing chunk. */
const CHUNK_BYTES = 256 * 1024;
/** Chunks that may be on their way before {@link ChunkQueue.ready} asks for a pause. */
const MAX_IN_FLIGHT = 3;

/**
 * Collects small writes into chunks and hands them to a sink in order. Memory is bounded as long as the caller awaits
 * `ready()` at least once per chunk's worth of writes. Failures of the sink surface in `ready` and `flush` and never
 * as an unhandled rejection.
 */
export class ChunkQueue {
	readonly #sink: ByteSink;
	#chunk: Uint8Array = new Uint8Array(CHUNK_BYTES);
	#view = new DataView(this.#chunk.buffer);
	#length = 0;
	#handedOver = 0;
	readonly #free: Uint8Array[] = [];
	#inFlight = 0;
	#failure: { readonly cause: unknown } | undefined;
	#waiting: (() => void)[] = [];

	constructor(sink: ByteSink) {
		this.#sink = sink;
	}

	/** Bytes written so far: the stream offset of the next byte. */
	get position(): number {
		return this.#handedOver + this.#length;
	}

	u8(value: number): void {
		const at = this.#reserve(1);
		this.#chunk[at] = value;
	}

	/** Big-endian, as the three below. */
	u16(value: number): void {
		const at = this.#reserve(2);
		this.#view.setUint16(at, value);
	}

	u32(value: number): void {
		const at = this.#reserve(4);
		this.#view.setUint32(at, value);
	}

	u64(value: bigint): void {
		const at = this.#reserve(8);
		this.#view.setBigUint64(at, value);
	}

	/** A length byte and as many characters. @throws RangeError if it is too long or has characters above U+00FF */
	cstr8(text: string): void {
		if (text.length > 255) throw new RangeError(`name: expected at most 255 bytes, got ${text.length}`);
		const at = this.#reserve(1 + text.length);
		this.#chunk[at] = text.length;
		nameInto(this.#chunk, at + 1, text);
	}

	/** Copies bytes of any length. */
	append(data: Uint8Array): void {
		for (let from = 0; from < data.length; ) {
			if (this.#length === CHUNK_BYTES) this.#handOver();
			const count = Math.min(data.length - from, CHUNK_BYTES - this.#length);
			// A whole small piece needs no subarray.
			this.#chunk.set(count === data.length ? data : data.subarray(from, from + count), this.#length);
			this.#length += count;
			from += count;
		}
	}

	/** Hands over what is collected and then `data` itself, uncopied: reusable when the result is or resolves to undefined. */
	pass(data: Uint8Array): Promise<void> | undefined {
		this.#handOver();
		this.#handedOver += data.length;
		return this.#send(data);
	}

	/** Resolves when few enough chunks are on their way; undefined if that is so now. @throws what the sink threw */
	ready(): Promise<void> | undefined {
		this.#check();
		if (this.#inFlight < MAX_IN_FLIGHT) return undefined;
		return this.#until(() => this.#inFlight < MAX_IN_FLIGHT);
	}

	/** Hands everything over and resolves when the sink has taken it. @throws what the sink threw */
	async flush(): Promise<void> {
		this.#handOver();
		this.#check();
		if (this.#inFlight > 0) await this.#until(() => this.#inFlight === 0);
	}

	async #until(condition: () => boolean): Promise<void> {
		while (this.#failure === undefined && !condition()) {
			await new Promise<void>((resolve) => this.#waiting.push(resolve));
		}
		this.#check();
	}

	/** Makes room for `count` contiguous bytes, perhaps in a new chunk, and returns their index. */
	#reserve(count: number): number {
		if (this.#length + count > CHUNK_BYTES) this.#handOver();
		const at = this.#length;
		this.#length += count;
		return at;
	}

	#check(): void {
		if (this.#failure !== undefined) throw this.#failure.cause;
	}

	#handOver(): void {
		if (this.#length === 0) return;
		const chunk = this.#chunk;
		const length = this.#length;
		this.#handedOver += length;
		this.#length = 0;
		const sent = this.#send(chunk.subarray(0, length));
		if (sent === undefined) return;
		this.#chunk = this.#free.pop() ?? new Uint8Array(CHUNK_BYTES);
		this.#view = new DataView(this.#chunk.buffer);
		sent.then(() => this.#free.push(chunk));
	}

	/** The promise never rejects. */
	#send(data: Uint8Array): Promise<void> | undefined {
		if (this.#failure !== undefined) return undefined;
		try {
			const sent = this.#sink.write(data);
			if (sent === undefined) return undefined;
			this.#inFlight++;
			return sent.then(
				() => this.#landed(),
				(error) => this.#landed({ cause: error }),
			);
		} catch (error) {
			this.#failure = { cause: error };
			return undefined;
		}
	}

	#landed(failure?: { cause: unknown }): void {
		this.#inFlight--;
		this.#failure ??= failure;
		const waiting = this.#waiting;
		this.#waiting = [];
		for (const resolve of waiting) resolve();
	}
}
