import { PAGE_SIZE } from '@cvm/layout';
import { MAX_COMPRESSED_PAGE, RamFlag, XBZRLE_ENCODING } from '../abi/stream.js';
import type { DialectRules } from '../dialect.js';
import type { StreamFault } from '../error.js';
import type { StreamBlock, StreamHandler } from '../events.js';
import { bytesToName, nameToBytes } from '../latin1.js';
import type { ListForm } from './block-list.js';
import { BlockListReader } from './block-list.js';
import type { Parse, StreamCursor } from './cursor.js';
import { EncryptedReader } from './encrypted.js';
import type { ReaderOptions, ResumeState } from './options.js';

/** Record addresses from here on have no exact `number`. */
const ADDRESS_LIMIT = 2 ** 53;

/** Bytes of a zero page whose block is the last one. */
export const ZERO_RECORD = 9;

/** The parts of {@link ReaderOptions} that concern RAM. */
export type RamOptions = Pick<ReaderOptions, 'handler' | 'compress' | 'check' | 'pageSizeListed' | 'resume'>;

/** Reads bodies of the `ram` section. One per stream: CONTINUE and the session prefix outlive a section. */
export class RamReader {
	readonly #cursor: StreamCursor;
	readonly #handler: StreamHandler;
	readonly #encrypted: EncryptedReader;
	readonly #list: BlockListReader;
	readonly #namedFlags: number;
	readonly #multifdFlush: boolean;
	readonly #compress: boolean;
	readonly #checked: boolean;
	/** The records are those of a target that listens for postcopy, and checked as such. */
	postcopy = false;
	#block: string | undefined;
	#blockBytes: Uint8Array = new Uint8Array(0);
	/** Addresses from here on are refused: those that have no exact `number`, or, if checked, those behind the block's end. */
	#limit = ADDRESS_LIMIT;
	#unlisted = false;
	#blocks: readonly StreamBlock[] | undefined;

	constructor(cursor: StreamCursor, rules: DialectRules, options: RamOptions) {
		this.#cursor = cursor;
		this.#handler = options.handler;
		this.#encrypted = new EncryptedReader(cursor, rules, options.handler);
		this.#list = new BlockListReader(cursor, options.handler, options.pageSizeListed);
		this.#compress = options.compress ?? true;
		this.#namedFlags = this.#compress ? rules.namedFlags : rules.namedFlags & ~RamFlag.compressPage;
		this.#multifdFlush = rules.flag200 === 'multifd-flush';
		this.#checked = options.check === 'target';
		this.#blocks = options.resume?.blocks;
		this.#encrypted.sessionRead = options.resume?.session ?? false;
		if (options.resume?.block !== undefined) this.#use(nameToBytes(options.resume.block));
	}

	/** What decides the form of the block list. */
	get listForm(): ListForm {
		return this.#list.form;
	}

	get state(): Pick<ResumeState, 'blocks' | 'block' | 'session'> {
		return { blocks: this.#blocks, block: this.#block, session: this.#encrypted.sessionRead };
	}

	/** Records up to and including EOS. The loop allocates nothing but the view of each page. */
	*body(): Parse {
		const { window, place } = this.#cursor;
		const namedFlags = this.#namedFlags;
		const handler = this.#handler;
		const encrypted = this.#encrypted;
		const runs = handler.zeroPages !== undefined;
		for (;;) {
			place.offset = window.offset;
			if (window.end - window.at < 8) yield* this.#word();
			const high = window.view.getUint32(window.at);
			const low = window.view.getUint32(window.at + 4);
			window.at += 8;
			const flags = low & 0xfff;
			const kind = flags & ~RamFlag.continue;
			const address = high * 0x100000000 + (low - flags);
			place.continued = (flags & RamFlag.continue) !== 0;
			if ((kind & namedFlags) !== 0) {
				if (!place.continued) yield* this.#name();
				const block = this.#block;
				if (block === undefined) throw this.#unnamed(high, low);
				if (address >= this.#limit) throw this.#beyond(high, low);
				if (kind === RamFlag.page) {
					if (window.end - window.at < PAGE_SIZE) yield* this.#cursor.need(PAGE_SIZE);
					const page = window.bytes.subarray(window.at, window.at + PAGE_SIZE);
					window.at += PAGE_SIZE;
					handler.rawPage?.(block, address, page, place);
					continue;
				}
				if (kind === RamFlag.zero) {
					if (window.end - window.at < 1) yield* this.#cursor.need(1);
					const fill = window.view.getUint8(window.at++);
					if (fill === 0 && runs && place.continued) {
						const more = this.#zerosAfter(high, low, address);
						if (more > 0) {
							window.at += more * ZERO_RECORD;
							handler.zeroPages?.(block, address, 1 + more, place);
							continue;
						}
					}
					handler.zeroPage?.(block, address, fill, place);
					continue;
				}
				if (kind === RamFlag.compressPage || (kind === RamFlag.xbzrle && !this.postcopy)) {
					yield* this.#encoded(kind, block, address);
					continue;
				}
				if (kind !== RamFlag.encryptedData) throw this.#unknownFlags(flags);
				if (!encrypted.sealedPage(block, address)) yield* encrypted.record(block, address);
				continue;
			}
			if (address >= ADDRESS_LIMIT) throw this.#beyond(high, low);
			if (kind === RamFlag.endOfSection) {
				handler.endOfRecords?.(address, place);
				return;
			}
			if (kind === RamFlag.memSize && !this.postcopy) this.#blocks = yield* this.#list.read(address);
			else if (kind === RamFlag.multifdFlush && this.#multifdFlush) {
				handler.multifdFlush?.(address, place);
				yield* this.#cursor.hold();
			} else throw this.#unknownFlags(flags);
		}
	}

	/** How many records like the one that was just read follow in the window, each of the page after. */
	#zerosAfter(high: number, low: number, address: number): number {
		const { view, at, end } = this.#cursor.window;
		const most = Math.min(Math.floor((end - at) / ZERO_RECORD), Math.ceil((this.#limit - address) / PAGE_SIZE) - 1);
		let count = 0;
		for (let i = at, next = low + PAGE_SIZE; count < most && next <= 0xffffffff; i += ZERO_RECORD, next += PAGE_SIZE) {
			if (view.getUint32(i + 4) !== next || view.getUint32(i) !== high || view.getUint8(i + 8) !== 0) break;
			count++;
		}
		return count;
	}

	/** Waits for a record's word. QEMU takes missing bytes for zeroes and stumbles over the flags, but not in postcopy. */
	*#word(): Parse {
		const before = this.#cursor.onTruncation;
		if (!this.postcopy) this.#cursor.onTruncation = NO_WORD;
		yield* this.#cursor.need(8);
		this.#cursor.onTruncation = before;
	}

	/** The block name of a record; the same name again costs no new string. */
	*#name(): Parse {
		const length = yield* this.#cursor.takeU8();
		const bytes = yield* this.#cursor.take(length);
		const known = this.#blockBytes;
		let same = this.#block !== undefined && known.length === length;
		for (let i = 0; same && i < length; i++) same = known[i] === bytes[i];
		if (!same) this.#use(bytes.slice());
	}

	#use(name: Uint8Array): void {
		this.#blockBytes = name;
		const block = bytesToName(name);
		this.#block = block;
		if (!this.#checked || this.#blocks === undefined) return;
		const listed = this.#blocks.find(({ idstr }) => idstr === block);
		this.#unlisted = listed === undefined;
		this.#limit = listed?.usedLength ?? 0;
	}

	/** XBZRLE or COMPRESS_PAGE after the block name. QEMU 7.2 migration/ram.c `load_xbzrle`, `ram_load_precopy`. */
	*#encoded(kind: number, block: string, address: number): Parse {
		const cursor = this.#cursor;
		if (kind === RamFlag.xbzrle) {
			const encoding = yield* cursor.takeU8();
			const length = yield* cursor.takeU16();
			if (encoding !== XBZRLE_ENCODING) {
				const message = `XBZRLE record: expected encoding ${XBZRLE_ENCODING}, got ${encoding}`;
				throw cursor.fail(badXbzrle(message, 'wrong compression', address));
			}
			if (length > PAGE_SIZE) {
				const message = `XBZRLE record: expected at most ${PAGE_SIZE} bytes, got ${length}`;
				throw cursor.fail(badXbzrle(message, 'len overflow', address));
			}
			const data = yield* cursor.take(length);
			this.#handler.encodedPage?.('xbzrle', block, address, data, cursor.place);
			return;
		}
		const length = yield* cursor.takeU32();
		if (length > MAX_COMPRESSED_PAGE) {
			throw cursor.fail({
				code: 'record',
				message: `compressed page: expected at most ${MAX_COMPRESSED_PAGE} bytes, got ${length}`,
				qemu: [`Invalid compressed data length: ${length | 0}`],
			});
		}
		const data = yield* cursor.take(length);
		this.#handler.encodedPage?.('zlib', block, address, data, cursor.place);
	}

	#unknownFlags(flags: number) {
		// QEMU refuses capability-bound records before it looks at the combination. QEMU 7.2 migration/ram.c.
		const compressed = !this.#compress && (flags & RamFlag.compressPage) !== 0;
		const hook = !compressed && (flags & RamFlag.hook) !== 0;
		const unknown = `Unknown combination of migration flags: 0x${flags.toString(16)}`;
		return this.#cursor.fail({
			code: compressed || hook ? 'unsupported' : 'record',
			message: `RAM record: expected a record of this dialect, got flags 0x${flags.toString(16)}`,
			qemu: compressed
				? ['Received an unexpected compressed page']
				: hook
					? []
					: [this.postcopy ? `${unknown} (postcopy mode)` : unknown],
		});
	}

	#unnamed(high: number, low: number) {
		return this.#cursor.fail({
			code: 'continue',
			message: 'RAM record: expected a block name in the first record, got CONTINUE',
			qemu: ['Ack, bad migration stream!', `Illegal RAM offset ${addressText(high, low)}`],
		});
	}

	#beyond(high: number, low: number) {
		const text = addressText(high, low);
		if (this.#unlisted) {
			return this.#cursor.fail({
				code: 'block',
				message: `RAM record: expected a block of the block list, got '${this.#block}'`,
				qemu: [`Can't find block ${this.#block}`, `Illegal RAM offset ${text}`],
			});
		}
		return this.#cursor.fail({
			code: 'offset',
			message: `RAM record: expected an offset inside the block, got 0x${text}`,
			qemu: [`Illegal RAM offset ${text}`],
		});
	}
}

const addressText = (high: number, low: number): string =>
	((BigInt(high) << 32n) | BigInt((low & ~0xfff) >>> 0)).toString(16);

const NO_WORD = { qemu: ['Unknown combination of migration flags: 0x0'], strerror: 'Invalid argument' } as const;

const badXbzrle = (message: string, what: string, address: number): StreamFault => ({
	code: 'record',
	message,
	qemu: [`Failed to load XBZRLE page - ${what}!`, `Failed to decompress XBZRLE page at ${address.toString(16)}`],
});
