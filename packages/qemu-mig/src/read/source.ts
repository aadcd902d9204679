/** A web stream, as far as it is used here. */
export interface ReadableBytes {
	getReader(): {
		read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
		cancel(): Promise<unknown>;
	};
}

/** Chunks of any size: an array or generator of them, a Node stream, a web stream. */
export type ByteSource = AsyncIterable<Uint8Array> | Iterable<Uint8Array> | ReadableBytes;

/** The chunks of a source, which is told when nobody reads on. */
export async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array, void, undefined> {
	if (!('getReader' in source)) {
		yield* source;
		return;
	}
	// Not every browser's streams are iterable.
	const reader = source.getReader();
	let done = false;
	try {
		while (!done) {
			const step = await reader.read();
			done = step.done;
			if (!done && step.value !== undefined) yield step.value;
		}
	} finally {
		if (!done) await reader.cancel();
	}
}
