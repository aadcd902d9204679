import { layout, u16, u32 } from '@cvm/layout';
import { BATCH_PAGES } from '../../geometry.js';

/**
 * What a host reads of a sealed batch. It is the helpers' business whether any of this is true: a host that lies, or is lied
 * to, moves bytes that do not open.
 */
const Offset = { type: 0x06, counter: 0x1c, stream: 0x20, count: 0x22, zeroMap: 0x40, gpas: 0x48 } as const;

/** A batch's header, by length and numbers that agree. */
export interface BatchHeader {
	readonly stream: number;
	/** Per-stream counter. */
	readonly counter: number;
	/** Pages: 1 to {@link BATCH_PAGES}. */
	readonly count: number;
	/** Indices of the pages with a body, ascending. */
	readonly withBody: readonly number[];
	/** Address of page i. */
	gpa(i: number): number;
}

/** Reads a header that is in the host's own memory; `undefined` if it is none. */
export function readBatchHeader(header: Uint8Array): BatchHeader | undefined {
	if (header.length < Offset.gpas) return undefined;
	const view = new DataView(header.buffer, header.byteOffset, header.length);
	const count = view.getUint16(Offset.count, true);
	const isBatch = view.getUint8(Offset.type) === 0 && count >= 1 && count <= BATCH_PAGES;
	if (!isBatch || header.length !== Offset.gpas + 8 * count) return undefined;
	const withBody: number[] = [];
	for (let i = 0; i < count; i++) {
		const half = view.getUint32(Offset.zeroMap + 4 * (i >>> 5), true);
		if (((half >>> (i & 31)) & 1) === 0) withBody.push(i);
	}
	return {
		stream: view.getUint16(Offset.stream, true),
		counter: view.getUint32(Offset.counter, true),
		...{ count, withBody },
		gpa: (i) => {
			const at = Offset.gpas + 8 * i;
			return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
		},
	};
}

/** Length of a HELLO, and where it has how many streams its source wants. */
const Hello = { bytes: 240, streams: 0x10 } as const;

/** The streams that a HELLO asks for; `undefined` if it is none. What is not true of it, the helper finds out. */
export const streamsOfHello = (hello: Uint8Array): number | undefined =>
	hello.length === Hello.bytes
		? new DataView(hello.buffer, hello.byteOffset, hello.length).getUint16(Hello.streams, true)
		: undefined;

/**
 * Header of the second and later bodies of a batch in the stream, where every record has one body: which batch, and which body.
 * PROJECT. The first record has the whole header of the batch.
 */
export const continuation = layout('cvm_helper_continuation', 8, { counter: u32(0), stream: u16(4), index: u16(6) });

/** Reads a continuation's field of 2 bytes, or of 4: for each page of the stream, so without a view. */
const fieldOf = (header: Uint8Array, at: number, bytes: 2 | 4): number => {
	const low = (header[at] ?? 0) | ((header[at + 1] ?? 0) << 8);
	return bytes === 2 ? low : (low | ((header[at + 2] ?? 0) << 16) | ((header[at + 3] ?? 0) << 24)) >>> 0;
};
const [counterAt, streamAt, indexAt] = [
	continuation.offsetOf('counter'),
	continuation.offsetOf('stream'),
	continuation.offsetOf('index'),
];
export const continuationCounter = (header: Uint8Array): number => fieldOf(header, counterAt, 4);
export const continuationStream = (header: Uint8Array): number => fieldOf(header, streamAt, 2);
export const continuationIndex = (header: Uint8Array): number => fieldOf(header, indexAt, 2);
