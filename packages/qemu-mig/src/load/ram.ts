import { PAGE_SIZE } from '@cvm/layout';
import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { PageEncoding, Place, StreamBlock } from '../events.js';
import type { PageOpener, PageSink, RecordLayout, SessionPrefix, SharedRegion } from '../ports.js';
import { hostPageSize } from '../postcopy/host-page.js';
import type { PostcopyPages } from '../postcopy/target.js';
import { PageDecoder } from './encoded.js';

/** Most pages given to an opener at once. */
const BATCH_PAGES = 64;

/** Puts RAM records where they belong, encrypted ones in batches. Order between records of one page is kept. */
export class RamLoader {
	plainPages = 0;
	zeroPages = 0;
	privatePages = 0;
	/** Pages that came as XBZRLE or compressed. */
	encodedPages = 0;
	/** Private pages that came sealed, not for the in-guest helper: a list of shared regions follows such. */
	sealedPages = 0;
	readonly #postcopy: PostcopyPages | undefined;
	readonly #decoder = new PageDecoder();
	readonly #sink: PageSink;
	readonly #blocks: ReadonlyMap<string, number>;
	/** The block of the last record: most records have the same. */
	#name: string | undefined;
	#block = -1;
	#used = 0;
	readonly #pages = new Uint32Array(BATCH_PAGES);
	#count = 0;
	#batchBlock = -1;
	#input: Uint8Array | undefined;
	#headerLength = 0;
	#layout: RecordLayout = { header: 0, payload: 0, stride: 0 };

	constructor(sink: PageSink, postcopy?: PostcopyPages) {
		this.#sink = sink;
		this.#postcopy = postcopy;
		this.#blocks = new Map(sink.blocks.map(({ idstr }, index) => [idstr, index]));
	}

	/** Compares the stream's blocks with ours. QEMU 7.2 migration/ram.c `ram_load_precopy`, softmmu/physmem.c. */
	blockList(blocks: readonly StreamBlock[], at: Place): void {
		for (const { idstr, usedLength, pageSize } of blocks) {
			const local = this.#sink.blocks[this.#blocks.get(idstr) ?? -1];
			if (local === undefined) {
				throw refused(at, 'block', `block list: expected a local block, got '${idstr}'`, [
					`Unknown ramblock "${idstr}", cannot accept migration`,
				]);
			}
			if (local.usedLength !== usedLength) {
				const got = `0x${usedLength.toString(16)}`;
				const expected = `0x${local.usedLength.toString(16)}`;
				throw refused(at, 'block', `block '${idstr}': expected ${expected} bytes, got ${got}`, [
					`Size mismatch: ${idstr}: ${got} != ${expected}: Invalid argument`,
				]);
			}
			const hostPage = hostPageSize(local);
			if (pageSize !== undefined && pageSize !== hostPage) {
				throw refused(at, 'block', `block '${idstr}': expected host pages of ${hostPage} bytes, got ${pageSize}`, [
					`Mismatched RAM page size ${idstr} (local) ${hostPage} != ${pageSize}`,
				]);
			}
		}
	}

	rawPage(name: string, address: number, page: Uint8Array, at: Place): void {
		this.#locate(name, address, at);
		if (this.#count > 0) this.flush(at);
		this.#put(address, page, at);
		this.plainPages++;
	}

	/** Used length of a block, if it is one of ours. */
	lengthOf(name: string): number | undefined {
		return this.#sink.blocks[this.#blocks.get(name) ?? -1]?.usedLength;
	}

	encodedPage(kind: PageEncoding, name: string, address: number, data: Uint8Array, at: Place): void {
		this.#locate(name, address, at);
		if (this.#count > 0) this.flush(at);
		const contents = (): Uint8Array => {
			const bytes = this.#sink.contents?.(this.#block, address / PAGE_SIZE);
			if (bytes !== undefined) return bytes;
			const message = 'XBZRLE page: expected memory that can be read, got a sink without `contents`';
			throw new StreamError({ code: 'unsupported', message }, at);
		};
		this.#put(address, this.#decoder.decode(kind, address, data, contents, at), at);
		this.encodedPages++;
	}

	helperPage(name: string, address: number, header: Uint8Array, page: Uint8Array, at: Place): void {
		this.#locate(name, address, at);
		this.flush(at);
		const { helper } = this.#sink;
		const postcopy = this.#postcopy;
		try {
			if (postcopy?.listening) postcopy.sealed(this.#block, address, header, page, at);
			else if (helper === undefined) {
				throw refused(at, 'encrypted', 'migration-helper page: expected none on a host without helper, got one');
			} else {
				helper.open(this.#block, address / PAGE_SIZE, header, page);
				postcopy?.received.set(this.#block, address, PAGE_SIZE);
			}
		} catch (cause) {
			throw pageRefused(at, cause);
		}
		this.privatePages++;
	}

	/** The page that was located last. */
	#put(address: number, page: Uint8Array, at: Place): void {
		const postcopy = this.#postcopy;
		try {
			if (postcopy?.listening) postcopy.page(this.#block, address, page, at);
			else {
				this.#sink.plainPage(this.#block, address / PAGE_SIZE, page);
				postcopy?.received.set(this.#block, address, PAGE_SIZE);
			}
		} catch (cause) {
			throw pageRefused(at, cause);
		}
	}

	#putZero(address: number, fill: number, at: Place): void {
		const postcopy = this.#postcopy;
		try {
			if (postcopy?.listening) {
				const bytes = fill === 0 ? undefined : new Uint8Array(PAGE_SIZE).fill(fill);
				postcopy.page(this.#block, address, bytes, at);
			} else {
				this.#sink.zeroPage(this.#block, address / PAGE_SIZE, fill);
				postcopy?.received.set(this.#block, address, PAGE_SIZE);
			}
		} catch (cause) {
			throw pageRefused(at, cause);
		}
	}

	zeroPage(name: string, address: number, fill: number, at: Place): void {
		this.#locate(name, address, at);
		if (this.#count > 0) this.flush(at);
		this.#putZero(address, fill, at);
		this.zeroPages++;
	}

	encryptedPage(
		name: string,
		address: number,
		header: Uint8Array,
		payload: Uint8Array,
		at: Place,
		prefix: SessionPrefix | undefined,
	): void {
		this.#locate(name, address, at);
		const opener = this.#opener(at);
		if (prefix !== undefined) this.#start(opener, prefix, header.length, at);
		if (header.length !== this.#headerLength || payload.length !== PAGE_SIZE) {
			const expected = `${this.#headerLength} and ${PAGE_SIZE} bytes`;
			const got = `${header.length} and ${payload.length}`;
			throw refused(at, 'encrypted', `encrypted page: expected header and payload of ${expected}, got ${got}`);
		}
		if (this.#count > 0 && this.#batchBlock !== this.#block) this.flush(at);
		const input = this.#input;
		if (input === undefined) throw refused(at, 'encrypted', 'encrypted page: expected a session before it, got none');
		this.#batchBlock = this.#block;
		const record = this.#count * this.#layout.stride;
		input.set(header, this.#layout.header + record);
		input.set(payload, this.#layout.payload + record);
		this.#pages[this.#count++] = address / PAGE_SIZE;
		if (this.#count === BATCH_PAGES) this.flush(at);
	}

	sharedRegions(name: string, address: number, regions: readonly SharedRegion[], at: Place): void {
		this.#locate(name, address, at);
		this.flush(at);
		const opener = this.#opener(at);
		try {
			opener.sharedRegions(regions);
		} catch (cause) {
			throw pageRefused(at, cause);
		}
	}

	/** The in-guest helper opens what it has gathered. To be called at the end of each section, and before its messages. */
	flushHelper(at: Place): void {
		try {
			this.#sink.helper?.flush?.();
		} catch (cause) {
			throw pageRefused(at, cause);
		}
	}

	/** Opens what is gathered. To be called at the end of each section. */
	flush(at: Place): void {
		const count = this.#count;
		if (count === 0 || this.#input === undefined) return;
		this.#count = 0;
		try {
			this.#opener(at).open(this.#batchBlock, this.#pages, count, this.#input, this.#layout);
		} catch (cause) {
			throw pageRefused(at, cause);
		}
		this.privatePages += count;
		this.sealedPages += count;
	}

	#start(opener: PageOpener, prefix: SessionPrefix, headerLength: number, at: Place): void {
		// Headers and payloads begin on 16-byte boundaries, which firmware asks of buffers it is given directly.
		const payload = (headerLength + 15) & ~15;
		this.#headerLength = headerLength;
		this.#layout = { header: 0, payload, stride: payload + PAGE_SIZE };
		try {
			this.#input = opener.allocate(BATCH_PAGES * this.#layout.stride);
			opener.start(prefix);
		} catch (cause) {
			throw pageRefused(at, cause);
		}
	}

	#opener(at: Place): PageOpener {
		const { opener } = this.#sink;
		if (opener !== undefined) return opener;
		throw refused(at, 'encrypted', 'encrypted-data record: expected none on a host that opens no pages, got one');
	}

	/** Finds block and bounds of a record. QEMU 7.2 migration/ram.c `ram_block_from_stream`, `offset_in_ramblock`. */
	#locate(name: string, address: number, at: Place): void {
		if (name !== this.#name) {
			const index = this.#blocks.get(name);
			const block = this.#sink.blocks[index ?? -1];
			if (index === undefined || block === undefined) {
				throw refused(at, 'block', `RAM record: expected a local block, got '${name}'`, [
					`Can't find block ${name}`,
					`Illegal RAM offset ${address.toString(16)}`,
				]);
			}
			this.#name = name;
			this.#block = index;
			this.#used = block.usedLength;
		}
		if (address < this.#used) return;
		const text = address.toString(16);
		throw refused(
			at,
			'offset',
			`RAM record: expected an offset below 0x${this.#used.toString(16)} in '${name}', got 0x${text}`,
			[`Illegal RAM offset ${text}`],
		);
	}
}

const refused = (at: Place, code: StreamFault['code'], message: string, qemu: readonly string[] = []): StreamError =>
	new StreamError({ code, message, qemu }, at);

/** What is a fault of the stream already stays. */
const pageRefused = (at: Place, cause: unknown): StreamError =>
	cause instanceof StreamError
		? cause
		: new StreamError(
				{ code: 'page', message: `page: expected the host to take it, got ${describe(cause)}`, cause },
				at,
			);

/** Text of an unknown exception. */
export const describe = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
