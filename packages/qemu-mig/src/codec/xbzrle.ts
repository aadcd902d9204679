import { PAGE_SIZE } from '@cvm/layout';
import { CodecError } from './error.js';

/** What {@link encodeXbzrle} answers when the encoding does not fit. */
export const XBZRLE_OVERFLOW = -1;

/** A run length has two groups of seven bits, no third. QEMU 7.2 util/cutils.c `uleb128_encode_small`. */
const LONGEST_RUN = 0x3fff;

/** QEMU 7.2 migration/ram.c `load_xbzrle`. */
const DECODE_ERROR = ['Failed to load XBZRLE page - decode error!'];

const sizeOfRun = (length: number): number => (length < 0x80 ? 1 : 2);

function putRun(out: Uint8Array, at: number, length: number): number {
	if (length < 0x80) {
		out[at] = length;
		return at + 1;
	}
	out[at] = (length & 0x7f) | 0x80;
	out[at + 1] = length >> 7;
	return at + 2;
}

/**
 * Encodes a page against its former content, byte for byte as QEMU does: pairs of a run of equal bytes and a run of new
 * ones. `out.length` is the limit that makes it overflow; QEMU's is the page size.
 *
 * @returns the length written, 0 if nothing changed, or {@link XBZRLE_OVERFLOW}, when `out` holds rubbish
 * @throws CodecError `argument` if the pages differ in size or exceed 16383 bytes
 *
 * DEVIATION(QEMU 8.0-9.x migration/xbzrle.c, AVX512 encoder): may cut runs differently there; decodes to the same page.
 */
export function encodeXbzrle(old: Uint8Array, page: Uint8Array, out: Uint8Array): number {
	const size = page.length;
	if (old.length !== size || size > LONGEST_RUN) {
		throw new CodecError('argument', 0, `xbzrle: expected two pages of one size, got ${old.length} and ${size} bytes`);
	}
	let written = 0;
	for (let at = 0; at < size; ) {
		if (written + 2 > out.length) return XBZRLE_OVERFLOW;
		const equal = at;
		while (at < size && old[at] === page[at]) at++;
		// Equal bytes at the end are not written; a page of nothing else is empty.
		if (at === size) return written;
		written = putRun(out, written, at - equal);
		if (written + 2 > out.length) return XBZRLE_OVERFLOW;
		const changed = at;
		while (at < size && old[at] !== page[at]) at++;
		const length = at - changed;
		if (written + sizeOfRun(length) + length > out.length) return XBZRLE_OVERFLOW;
		written = putRun(out, written, length);
		out.set(page.subarray(changed, at), written);
		written += length;
	}
	return written;
}

const broken = (code: 'truncated' | 'malformed' | 'too-long', at: number, message: string): CodecError =>
	new CodecError(code, at, `xbzrle: ${message}`, DECODE_ERROR);

/** One run length. QEMU asks for two bytes even where one is enough, since none can be the last. */
function runAt(data: Uint8Array, at: number, what: string): number {
	if (data.length - at < 2) throw broken('truncated', at, `${what}: expected 2 bytes or more, got ${data.length - at}`);
	const [low, high] = [data[at] as number, data[at + 1] as number];
	if (low < 0x80) return low;
	if (high >= 0x80) throw broken('malformed', at + 1, `${what}: expected a length of two bytes, got a third`);
	return (low & 0x7f) | (high << 7);
}

/** Bytes a run length takes as read, which need not be the fewest. */
const widthAt = (data: Uint8Array, at: number): number => ((data[at] as number) < 0x80 ? 1 : 2);

/** Calls `literal` for each run of new bytes. @returns how far into the page the encoding reaches */
function walk(data: Uint8Array, size: number, literal?: (to: number, from: number, length: number) => void): number {
	let page = 0;
	for (let at = 0; at < data.length; ) {
		const skip = runAt(data, at, 'equal run');
		if (skip === 0 && at > 0) throw broken('malformed', at, 'equal run: expected 1 byte or more, got 0');
		if (page + skip > size)
			throw broken('too-long', at, `equal run: expected ${size - page} bytes at most, got ${skip}`);
		page += skip;
		at += widthAt(data, at);
		const length = runAt(data, at, 'changed run');
		if (length === 0) throw broken('malformed', at, 'changed run: expected 1 byte or more, got 0');
		if (page + length > size) {
			throw broken('too-long', at, `changed run: expected ${size - page} bytes at most, got ${length}`);
		}
		at += widthAt(data, at);
		if (at + length > data.length) {
			throw broken('truncated', at, `changed run: expected ${length} bytes, got ${data.length - at}`);
		}
		literal?.(page, at, length);
		page += length;
		at += length;
	}
	return page;
}

/**
 * Applies an encoding to `page`, which must hold the content it was made against. A page is changed only if all of the
 * encoding is valid (QEMU changes it up to the fault).
 *
 * @throws CodecError `truncated`, `malformed`, or `too-long` if it reaches beyond the page
 */
export function decodeXbzrle(data: Uint8Array, page: Uint8Array): void {
	walk(data, page.length);
	walk(data, page.length, (to, from, length) => page.set(data.subarray(from, from + length), to));
}

interface CachedPage {
	address: number;
	age: number;
	readonly data: Uint8Array;
}

/** What became of a page offered to {@link XbzrleCache.send}. */
export type XbzrleOutcome =
	/** Encoded into `out`, `length` bytes. */
	| { readonly kind: 'encoded'; readonly length: number }
	/** The receiver has this content already: nothing is sent. */
	| { readonly kind: 'unchanged' }
	/** To be sent raw: `data`, which no longer changes if the guest writes. `overflow`: it was cached. */
	| { readonly kind: 'raw'; readonly overflow: boolean; readonly data: Uint8Array };

/**
 * A sender's memory of pages as the receiver has them: one page per slot, the slot chosen by address. `age` is the number
 * of the dirty-bitmap synchronisation (`dirty-sync-count`). QEMU 7.2 migration/page_cache.c, migration/ram.c
 * `save_xbzrle_page`.
 */
export class XbzrleCache {
	/** Slots. */
	readonly pages: number;
	readonly #slots = new Map<number, CachedPage>();

	/** @param bytes `xbzrle-cache-size`: a power of two of at least one page. Memory is taken page by page. */
	constructor(bytes: number) {
		this.pages = bytes / PAGE_SIZE;
		if (!Number.isInteger(Math.log2(this.pages)) || this.pages < 1) {
			throw new CodecError('argument', 0, `xbzrle cache: expected a power of two of at least 4096 bytes, got ${bytes}`);
		}
	}

	/** The page as last sent, if it is cached; that renews its age. */
	lookup(address: number, age: number): Uint8Array | undefined {
		const slot = this.#slots.get(this.#slotOf(address));
		if (slot?.address !== address) return undefined;
		slot.age = age;
		return slot.data;
	}

	/**
	 * Keeps a copy of a page about to be sent. Zero pages are inserted too, as zeros.
	 *
	 * @returns the copy, or undefined when the slot holds another address that was used in this pass or the last
	 */
	insert(address: number, page: Uint8Array, age: number): Uint8Array | undefined {
		if (page.length !== PAGE_SIZE) {
			throw new CodecError('argument', 0, `xbzrle cache: expected a page of ${PAGE_SIZE} bytes, got ${page.length}`);
		}
		const at = this.#slotOf(address);
		const slot = this.#slots.get(at) ?? { address, age, data: new Uint8Array(PAGE_SIZE) };
		if (slot.address !== address && slot.age + 2 > age) return undefined;
		slot.address = address;
		slot.age = age;
		slot.data.set(page);
		this.#slots.set(at, slot);
		return slot.data;
	}

	/**
	 * QEMU's policy for a page that is not zero, after the first walk over all memory. In the last stage nothing will be
	 * encoded against what is sent, so the cache is left as it is.
	 *
	 * @param out room for the encoding, {@link PAGE_SIZE} bytes
	 */
	send(address: number, page: Uint8Array, age: number, lastStage: boolean, out: Uint8Array): XbzrleOutcome {
		const cached = this.lookup(address, age);
		if (cached === undefined) {
			const kept = lastStage ? undefined : this.insert(address, page, age);
			return { kind: 'raw', overflow: false, data: kept ?? page };
		}
		const current = page.slice();
		const length = encodeXbzrle(cached, current, out);
		if (length === 0) return { kind: 'unchanged' };
		if (!lastStage) cached.set(current);
		return length === XBZRLE_OVERFLOW ? { kind: 'raw', overflow: true, data: current } : { kind: 'encoded', length };
	}

	#slotOf(address: number): number {
		return Math.floor(address / PAGE_SIZE) % this.pages;
	}
}
