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
	packaged = false;
	continued = false;
	readonly #window: ByteWindow;

	constructor(window: ByteWindow) {
		this.#window = window;
	}

	/** Callbacks come when the element is consumed. */
	get length(): number {
		return this.#window.offset - this.offset;
	}
}

/**
 * The reader's position in the stream: big-endian primitives over a {@link ByteWindow}. Every `*take` method consumes;
 * callers in loops test `window` themselves and only delegate when bytes are missing, so that the fast path has no
 * generator calls.
 */
export class StreamCursor {
	readonly window = new ByteWindow();
	readonly place = new CurrentPlace(this.window);
	readonly limits: ReaderLimits;
	/** No more chunks will come. */
	ended = false;
	/** What QEMU says when the input ends here; overridden where it says something else. */
	onTruncation: Pick<StreamFault, 'qemu' | 'strerror'> = {};
	/** Whether to read no further, whatever arrives. */
	paused = false;
	/** The PACKAGED contents being read, as stream offsets. */
	package: { readonly begin: number; readonly end: number } | undefined;

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

	/** Keeps what arrives, unread, while the reader is paused. */
	*hold(): Parse {
		while (this.paused) {
			while (this.window.pull(Number.MAX_SAFE_INTEGER));
			yield;
		}
	}

	/** Waits until `count` unread bytes are contiguous. */
	*need(count: number): Parse {
		if (!(yield* this.reach(count))) throw this.#truncated(count);
	}

	#truncated(count: number): StreamError {
		const message = `stream: expected ${count} more bytes, got ${this.window.end - this.window.at}`;
		if (this.package === undefined) {
			return this.fail({ code: 'truncated', message, strerror: 'Input/output error', ...this.onTruncation });
		}
		// QEMU takes a package in whole before it looks inside. QEMU 7.2 migration/savevm.c `loadvm_handle_cmd_packaged`.
		const { begin, end } = this.package;
		const got = this.window.offset + this.window.end - this.window.at - begin;
		const qemu = [`CMD_PACKAGED: Buffer receive fail ret=${got} length=${end - begin}`];
		return new StreamError(
			{ code: 'truncated', message, qemu, strerror: 'Resource temporarily unavailable' },
			{ offset: this.place.offset, section: this.place.section, inBody: false },
		);
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

	/** Bytes in pieces as they lie in the window, for what has no bound of its own. Views, valid until the next step. */
	*takePiece(most: number): Parse<Uint8Array> {
		if (this.window.end === this.window.at) yield* this.need(1);
		return yield* this.take(Math.min(most, this.window.end - this.window.at));
	}

	/** be32 length, at most `limit`, and as many bytes, copied. */
	*takeBlob(limit: number, fault: (length: number) => StreamFault): Parse<Uint8Array> {
		const length = yield* this.takeU32();
		if (length > limit) throw this.fail(fault(length));
		return (yield* this.take(length)).slice();
	}
}
