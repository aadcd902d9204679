import { PAGE_SIZE } from '@cvm/layout';
import { MAPPED_RAM_HEADER, MAPPED_RAM_VERSION } from '../abi/stream.js';
import type { MappedLayout, StreamBlock, StreamHandler } from '../events.js';
import type { Parse, StreamCursor } from './cursor.js';
import type { PageSizeListed } from './options.js';

/** What decides how long an entry of the block list is. */
export interface ListForm {
	/** Capability `x-ignore-shared`. */
	addresses: boolean;
	/** Capability `mapped-ram`. */
	mapped: boolean;
	/** Bitwise OR of all host page sizes, from POSTCOPY_ADVISE. */
	pageSizes: bigint | undefined;
	readonly pageSizeListed: PageSizeListed | undefined;
}

/** Reads the list after a MEM_SIZE word and tells it; with mapped-ram, also the pages between its entries. */
export class BlockListReader {
	readonly #cursor: StreamCursor;
	readonly #handler: StreamHandler;
	readonly form: ListForm;
	/** The file offset of the magic: a mapped-ram stream may begin inside a file. */
	#fileBase: bigint | undefined;

	constructor(cursor: StreamCursor, handler: StreamHandler, pageSizeListed: PageSizeListed | undefined) {
		this.#cursor = cursor;
		this.#handler = handler;
		this.form = { addresses: false, mapped: false, pageSizes: undefined, pageSizeListed };
	}

	*read(total: number): Parse<readonly StreamBlock[]> {
		const cursor = this.#cursor;
		const mapped = this.form.mapped && total > 0;
		if (mapped) this.#handler.mappedListBegin?.(total, cursor.place);
		const blocks: StreamBlock[] = [];
		for (let left = total; left > 0; ) {
			if (blocks.length === cursor.limits.blocks) {
				throw cursor.fail({
					code: 'too-large',
					message: `block list: expected at most ${cursor.limits.blocks} blocks, got more`,
				});
			}
			if (mapped) cursor.mark();
			const block = yield* this.#entry(left);
			blocks.push(block);
			left -= block.usedLength;
			if (block.mapped !== undefined) yield* this.#pages(block, block.mapped);
		}
		if (mapped) {
			cursor.mark();
			this.#handler.mappedListEnd?.(blocks, total, cursor.place);
		} else this.#handler.blockList?.(blocks, total, cursor.place);
		return blocks;
	}

	/** QEMU 7.2 migration/ram.c `ram_save_setup`. */
	*#entry(left: number): Parse<StreamBlock> {
		const cursor = this.#cursor;
		const idstr = yield* cursor.takeName();
		const length = yield* cursor.takeU64();
		// QEMU subtracts without looking and reads on; a list whose sum is not the total has no end of its own.
		if (length > BigInt(left)) {
			throw cursor.fail({
				code: 'block-list',
				message: `block list: expected at most ${left} bytes left for '${idstr}', got ${length}`,
			});
		}
		const usedLength = Number(length);
		const pageSize = (yield* this.#listsPageSize(idstr, usedLength)) ? yield* this.#pageSize(idstr) : undefined;
		const address = this.form.addresses ? yield* cursor.takeU64() : undefined;
		const mapped = this.form.mapped ? yield* this.#mappedHeader(idstr, usedLength) : undefined;
		return {
			idstr,
			usedLength,
			...(pageSize === undefined ? {} : { pageSize }),
			...(address === undefined ? {} : { address }),
			...(mapped === undefined ? {} : { mapped }),
		};
	}

	/**
	 * A page size is there when it is not the host's usual one, which the wire does not say. What else can come here does
	 * not look like one of the advised sizes: a name that is not empty, the word of EOS.
	 */
	*#listsPageSize(idstr: string, usedLength: number): Parse<boolean> {
		const { pageSizeListed, pageSizes } = this.form;
		const told = pageSizeListed?.(idstr, usedLength);
		if (told !== undefined) return told;
		if (pageSizes === undefined || !(yield* this.#cursor.reach(8))) return false;
		const { window } = this.#cursor;
		const size = window.view.getBigUint64(window.at);
		return size > BigInt(PAGE_SIZE) && (size & (size - 1n)) === 0n && (size & pageSizes) !== 0n;
	}

	*#pageSize(idstr: string): Parse<number> {
		const size = yield* this.#cursor.takeU64();
		if (size <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(size);
		throw this.#cursor.fail({
			code: 'block-list',
			message: `block list: expected a page size below 2^53 for '${idstr}', got ${size}`,
		});
	}

	/** QEMU 9.0 migration/ram.c `mapped_ram_read_header`. */
	*#mappedHeader(idstr: string, usedLength: number): Parse<MappedLayout> {
		const cursor = this.#cursor;
		const { window } = cursor;
		yield* cursor.need(MAPPED_RAM_HEADER);
		const { view, at } = window;
		const layout: MappedLayout = {
			version: view.getUint32(at),
			pageSize: view.getBigUint64(at + 4),
			bitmapOffset: view.getBigUint64(at + 12),
			pagesOffset: view.getBigUint64(at + 20),
		};
		window.at += MAPPED_RAM_HEADER;
		if (layout.version > MAPPED_RAM_VERSION) {
			const expected = `(expected <= ${MAPPED_RAM_VERSION}, got ${layout.version | 0})`;
			throw this.#wrong(`${idstr}: expected version ${MAPPED_RAM_VERSION}, got ${layout.version}`, [
				`Migration mapped-ram capability version not supported ${expected}`,
			]);
		}
		if (layout.pageSize !== BigInt(PAGE_SIZE)) {
			throw this.#wrong(`${idstr}: expected pages of ${PAGE_SIZE} bytes, got ${layout.pageSize}`, [
				`Migration mapped-ram header has invalid page_size ${layout.pageSize} (expected ${PAGE_SIZE})`,
			]);
		}
		if (usedLength % PAGE_SIZE !== 0) {
			throw this.#wrong(`${idstr}: expected a whole number of pages, got ${usedLength} bytes`, []);
		}
		this.#checkPlaces(idstr, layout, bitmapBytes(usedLength));
		return layout;
	}

	/** A reader that cannot seek needs the order QEMU writes: header, bitmap, gap, pages. */
	#checkPlaces(idstr: string, layout: MappedLayout, bitmap: number): void {
		const { limits, window } = this.#cursor;
		if (bitmap > limits.mappedBitmap) {
			throw this.#cursor.fail({
				code: 'too-large',
				message: `mapped-ram: ${idstr}: expected a bitmap of at most ${limits.mappedBitmap} bytes, got ${bitmap}`,
			});
		}
		const base = layout.bitmapOffset - BigInt(window.offset);
		if (base < 0n || (this.#fileBase !== undefined && base !== this.#fileBase)) {
			const expected = BigInt(window.offset) + (this.#fileBase ?? 0n);
			throw this.#wrong(`${idstr}: expected the bitmap at offset ${expected}, got ${layout.bitmapOffset}`, []);
		}
		this.#fileBase = base;
		const first = layout.bitmapOffset + BigInt(bitmap);
		if (layout.pagesOffset >= first && layout.pagesOffset <= BigInt(Number.MAX_SAFE_INTEGER)) return;
		throw this.#wrong(`${idstr}: expected the pages at offset ${first} or behind, got ${layout.pagesOffset}`, []);
	}

	#wrong(message: string, qemu: readonly string[]) {
		return this.#cursor.fail({ code: 'block-list', message: `mapped-ram: ${message}`, qemu });
	}

	*#pages(block: StreamBlock, layout: MappedLayout): Parse {
		const cursor = this.#cursor;
		const { window, place } = cursor;
		const bitmap = (yield* cursor.take(bitmapBytes(block.usedLength))).slice();
		this.#handler.mappedBlock?.(block, bitmap, place);
		let gap = Number(layout.pagesOffset - layout.bitmapOffset) - bitmap.length;
		while (gap > 0) {
			cursor.mark();
			const piece = yield* cursor.takePiece(gap);
			gap -= piece.length;
			this.#handler.mappedGap?.(piece, place);
		}
		for (let address = 0; address < block.usedLength; address += PAGE_SIZE) {
			place.offset = window.offset;
			if (window.end - window.at < PAGE_SIZE) yield* cursor.need(PAGE_SIZE);
			const bytes = window.bytes.subarray(window.at, window.at + PAGE_SIZE);
			window.at += PAGE_SIZE;
			const number = address / PAGE_SIZE;
			const present = (((bitmap[Math.floor(number / 8)] ?? 0) >> (number % 8)) & 1) === 1;
			this.#handler.mappedPage?.(block.idstr, address, bytes, present, place);
		}
	}
}

/** Longs of 64 bits, one bit per page. QEMU 9.0 migration/ram.c `mapped_ram_setup_ramblock`. */
const bitmapBytes = (usedLength: number): number => Math.ceil(usedLength / PAGE_SIZE / 64) * 8;
