import { PAGE_SIZE } from '@cvm/layout';
import type { BodyType } from '../abi/stream.js';
import { SectionType } from '../abi/stream.js';
import { encodeXbzrle } from '../codec/xbzrle.js';
import { deflatePage } from '../codec/zlib.js';
import type { SectionInfo } from '../events.js';
import { ZeroTest } from '../precopy/zero-test.js';
import type { StreamWriter } from '../write/writer.js';
import type { ImageBlock, StreamImage } from './content.js';
import { ImageError } from './error.js';
import { isMissing, isSealed, isZeroKind, PageKind } from './page-kind.js';
import { sealedHeader, storeOf } from './pages.js';
import type { WriteImageOptions } from './write-options.js';

/** Bytes of the store read at once. */
const READ = 64 * PAGE_SIZE;

/** A page to be written. `content` is undefined for one that is zero. */
export interface OutgoingPage {
	readonly block: ImageBlock;
	readonly address: number;
	readonly kind: PageKind;
	/** Valid until the next page. */
	readonly content: Uint8Array | undefined;
}

/** Every page of the blocks in order, as it is to be written: those that a target need not know are left out. */
export function* outgoingPages(
	image: StreamImage,
	blocks: readonly ImageBlock[],
	missing: 'zero' | 'omit',
): Generator<OutgoingPage, void, void> {
	const store = storeOf(image);
	const test = new ZeroTest();
	const buffer = new Uint8Array(READ);
	for (const block of blocks) {
		const omit = missing === 'omit' || isIgnored(image, block);
		for (const { kind, start, end } of block.facts.runs()) {
			const absent = isMissing(kind);
			if (absent && omit) continue;
			for (let at = start * PAGE_SIZE; at < end * PAGE_SIZE; at += READ) {
				const length = Math.min(READ, end * PAGE_SIZE - at);
				const known = absent || isZeroKind(kind);
				if (!known) store.read(block.index, at, buffer.subarray(0, length));
				for (let from = 0; from < length; from += PAGE_SIZE) {
					const page = buffer.subarray(from, from + PAGE_SIZE);
					const zero = known || (!isSealed(kind) && test.isZero(page));
					yield { block, address: at + from, kind, content: zero ? undefined : page };
				}
			}
		}
	}
}

/** Whether a block is listed, but shared with the target rather than sent. */
export function isIgnored(image: StreamImage, block: ImageBlock): boolean {
	if (!image.capabilities.includes('x-ignore-shared')) return false;
	for (const { kind } of block.facts.runs()) if (!isMissing(kind)) return false;
	return true;
}

/** The sections of `ram` while they are written. */
export class RamSectionWriter {
	readonly writer: StreamWriter;
	readonly #introduced: SectionInfo;
	readonly #partBytes: number;
	readonly #beforeEnd: (() => Promise<void> | void) | undefined;
	#open: SectionInfo | undefined;
	#begin = 0;

	/** `beforeEnd`: called before the EOS of each section. */
	constructor(
		writer: StreamWriter,
		introduced: SectionInfo,
		partBytes: number,
		beforeEnd?: () => Promise<void> | void,
	) {
		this.writer = writer;
		this.#introduced = introduced;
		this.#partBytes = partBytes;
		this.#beforeEnd = beforeEnd;
	}

	begin(type: BodyType): void {
		this.#open = { ...this.#introduced, type };
		this.#begin = this.writer.position;
		this.writer.sectionBegin(this.#open);
	}

	async end(): Promise<void> {
		if (this.#open === undefined) return;
		await this.#beforeEnd?.();
		this.writer.endOfRecords();
		this.writer.sectionEnd(this.#open);
		this.#open = undefined;
		await this.writer.ready();
	}

	/** Begins another PART if this one is long enough. To be called between records. */
	async step(): Promise<void> {
		if (this.writer.position - this.#begin >= this.#partBytes && this.#open?.type === SectionType.part) {
			await this.end();
			this.begin(SectionType.part);
		}
		const wait = this.writer.ready();
		if (wait !== undefined) await wait;
	}
}

/** Writes pages as records of the main stream. */
export class RecordWriter {
	readonly #writer: StreamWriter;
	readonly #image: StreamImage;
	/** `false` or undefined: as a writer's methods take it. */
	readonly #continued: false | undefined;
	readonly #level: WriteImageOptions['level'];
	readonly #withSubtype: boolean;
	readonly #altered = new Uint8Array(PAGE_SIZE);
	readonly #delta = new Uint8Array(PAGE_SIZE);
	#sessionSent = false;

	constructor(writer: StreamWriter, image: StreamImage, options: WriteImageOptions, withSubtype: boolean) {
		this.#writer = writer;
		this.#image = image;
		this.#continued = options.continued === false ? false : undefined;
		this.#level = options.level;
		this.#withSubtype = withSubtype;
	}

	/** ZERO, PAGE, or the record of a sealed page. */
	plain({ block, address, kind, content }: OutgoingPage): void {
		if (content === undefined) this.#writer.zeroPage(block.idstr, address, 0, this.#continued);
		else if (isSealed(kind)) this.#sealed(block, address, kind, content);
		else this.#writer.rawPage(block.idstr, address, content, this.#continued);
	}

	/** COMPRESS_PAGE where that saves anything. */
	zlib(page: OutgoingPage): void {
		const { block, address, kind, content } = page;
		const data = content === undefined || isSealed(kind) ? undefined : deflatePage(content, this.#level);
		if (data === undefined || data.length >= PAGE_SIZE) this.plain(page);
		else this.#writer.encodedPage('zlib', block.idstr, address, data, this.#continued);
	}

	/** What the target must have before the difference: the page with some bytes other than they are. */
	base(page: OutgoingPage): void {
		if (page.content === undefined || isSealed(page.kind)) this.plain(page);
		else this.plain({ ...page, content: this.#alter(page.content) });
	}

	/** The difference to `base`; nothing for a page that was sent whole. */
	delta({ block, address, kind, content }: OutgoingPage): void {
		if (content === undefined || isSealed(kind)) return;
		const length = encodeXbzrle(this.#alter(content), content, this.#delta);
		const data = this.#delta.subarray(0, length);
		this.#writer.encodedPage('xbzrle', block.idstr, address, data, this.#continued);
	}

	/** Few enough changes never to overflow, in runs of one byte and of many, up to the last byte. */
	#alter(content: Uint8Array): Uint8Array {
		const altered = this.#altered;
		altered.set(content);
		for (let at = 0; at < PAGE_SIZE; at += 512) altered[at] = ~(altered[at] ?? 0);
		for (let at = 1000; at < 1200; at++) altered[at] = ~(altered[at] ?? 0);
		altered[PAGE_SIZE - 1] = ~(altered[PAGE_SIZE - 1] ?? 0);
		return altered;
	}

	#sealed(block: ImageBlock, address: number, kind: PageKind, content: Uint8Array): void {
		const header = sealedHeader(this.#image, block, address / PAGE_SIZE);
		if (kind === PageKind.helper) {
			const subtype = this.#withSubtype ? 4 : undefined;
			this.#writer.migrationHelperPage(block.idstr, address, header, content, subtype, this.#continued);
			return;
		}
		const { session } = this.#image;
		if (session === undefined)
			throw new ImageError('encrypted', 'encrypted pages: expected their session prefix, got none');
		const prefix = this.#sessionSent ? undefined : session;
		this.#sessionSent = true;
		this.#writer.encryptedPage(block.idstr, address, header, content, prefix, this.#continued);
	}
}
