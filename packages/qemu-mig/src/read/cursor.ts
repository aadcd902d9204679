import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { RecordPlace, SectionInfo } from '../events.js';
import { bytesToName } from '../latin1.js';
import type { ReaderLimits } from './options.js';
import { ByteWindow } from './window.js';

/** A parse step: yields when it needs the next chunk. */
export type Parse<T = void> = Generator<void, T, void>;

class CurrentPlace implements RecordPlace {
	offset = 0;
	section: SectionInfo | undefined = undefined;
	inBody = false;
	continued = false;
}

/**
 * The reader's position in the stream: big-endian primitives over a {@link ByteWindow}. Every `*take` method consumes;
 * callers in loops test `window` themselves and only delegate when bytes are missing, so that the fast path has no
 * generator calls.
 */
export class StreamCursor {
	readonly window = new ByteWindow();
	readonly place = new CurrentPlace();
	readonly limits: ReaderLimits;
	/** No more chunks will come. */
	ended = false;
	/** What QEMU says when the input ends here; overridden where it says something else. */
	onTruncation: Pick<StreamFault, 'qemu' | 'strerror'> = {};

	constructor(limits: ReaderLimits) {
		this.limits = limits;
	}

	fail(fault: StreamFault): StreamError {
		return new StreamError(fault, this.place);
	}

	/** Marks the next unread byte as the place of the events that follow. */
	mark(): void {
		this.place.offset = this.window.offset;
	}

	/** Waits until `count` unread bytes are contiguous. */
	*need(count: number): Parse {
		if (!(yield* this.reach(count))) {
			throw this.fail({
				code: 'truncated',
				message: `stream: expected ${count} more bytes, got ${this.window.end - this.window.at}`,
				strerror: 'Input/output error',
				...this.onTruncation,
			});
		}
	}

	/** As `need`, but false when the stream ends first. */
	*reach(count: number): Parse<boolean> {
		const window = this.window;
		while (window.end - window.at < count) {
			if (window.pull(count)) continue;
			if (this.ended) return false;
			yield;
		}
		return true;
	}

	*takeU8(): Parse<number> {
		yield* this.need(1);
		return this.window.view.getUint8(this.window.at++);
	}

	*takeU16(): Parse<number> {
		yield* this.need(2);
		this.window.at += 2;
		return this.window.view.getUint16(this.window.at - 2);
	}

	*takeU32(): Parse<number> {
		yield* this.need(4);
		this.window.at += 4;
		return this.window.view.getUint32(this.window.at - 4);
	}

	*takeU64(): Parse<bigint> {
		yield* this.need(8);
		this.window.at += 8;
		return this.window.view.getBigUint64(this.window.at - 8);
	}

	/** A view, valid until the next step. */
	*take(count: number): Parse<Uint8Array> {
		yield* this.need(count);
		const window = this.window;
		window.at += count;
		return window.bytes.subarray(window.at - count, window.at);
	}

	/** cstr8: a length byte and as many bytes. */
	*takeName(): Parse<string> {
		const length = yield* this.takeU8();
		return bytesToName(yield* this.take(length));
	}

	/** be32 length, at most `limit`, and as many bytes, copied. */
	*takeBlob(limit: number, fault: (length: number) => StreamFault): Parse<Uint8Array> {
		const length = yield* this.takeU32();
		if (length > limit) throw this.fail(fault(length));
		return (yield* this.take(length)).slice();
	}
}
