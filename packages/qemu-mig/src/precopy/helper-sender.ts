import { PAGE_SIZE } from '@cvm/layout';
import { EncryptedSubtype, MAX_HELPER_HEADER } from '../abi/stream.js';
import type { Dialect } from '../dialect.js';
import { DIALECTS, hasHelper } from '../dialect.js';
import type { EmitHelperPage, PageHelper, PageSource } from '../ports.js';
import { BatchPace } from './batch-pace.js';
import { attempt } from './failure.js';
import type { Output } from './output.js';

/** Bytes of a record besides page and header, roughly. */
const RECORD_BYTES = 16;

/** The in-guest helper of a source, where the dialect has records for one. */
export const helperOf = (source: PageSource, dialect: Dialect): PageHelper | undefined =>
	hasHelper(DIALECTS[dialect]) ? source.helper : undefined;

/** Asks the in-guest helper for pages, several at once, and writes what it emits. QEMU counts such pages as normal. */
export class HelperSender {
	/** Whether something may have been asked for that is not in the stream yet. */
	outstanding = false;
	readonly #helper: PageHelper;
	readonly #source: PageSource;
	readonly #output: Output;
	readonly #subtype: typeof EncryptedSubtype.migrationHelperPage | undefined;
	readonly #pace: BatchPace;
	readonly #pages: Uint32Array;
	#block = 0;
	#count = 0;

	constructor(helper: PageHelper, source: PageSource, output: Output, dialect: Dialect) {
		const { batchPages = 1 } = helper;
		this.#helper = helper;
		this.#source = source;
		this.#output = output;
		this.#subtype = DIALECTS[dialect].flag200 === 'helper-page' ? undefined : EncryptedSubtype.migrationHelperPage;
		this.#pace = new BatchPace(batchPages);
		this.#pages = new Uint32Array(batchPages);
	}

	/** Most pages at once, however fast the helper is. */
	get batchPages(): number {
		return this.#pages.length;
	}

	/** Bytes that the pages gathered will take. */
	get queued(): number {
		return this.#count * (PAGE_SIZE + RECORD_BYTES);
	}

	/** Gathers a page. True: as many were asked for as the time of a batch allows. @throws PrecopyError */
	add(block: number, page: number): boolean {
		if (block !== this.#block) this.ask();
		this.#block = block;
		this.#pages[this.#count++] = page;
		if (this.#count < this.#pace.limit) return false;
		this.ask();
		return true;
	}

	/** Asks for what is gathered. @throws PrecopyError if the helper fails, or emits what is no record */
	ask(): void {
		const count = this.#count;
		if (count === 0) return;
		this.#count = 0;
		this.outstanding = this.#helper.flush !== undefined;
		const { clock, statistics } = this.#output;
		const start = clock.now();
		attempt('seal', () => this.#helper.seal(this.#block, this.#pages, count, this.#emit));
		this.#pace.took(clock.now() - start);
		statistics.privatePages += count;
	}

	/** Everything asked for goes into the stream. @throws PrecopyError as `ask` */
	flush(): void {
		this.ask();
		if (!this.outstanding) return;
		this.outstanding = false;
		attempt('seal', () => this.#helper.flush?.(this.#emit));
	}

	readonly #emit: EmitHelperPage = (block, page, header, bytes) => {
		const info = this.#source.blocks[block];
		if (info === undefined || !(page * PAGE_SIZE < info.usedLength)) {
			throw new RangeError(`helper page: expected one of a block, got page ${page} of block ${block}`);
		}
		if (header.length > MAX_HELPER_HEADER) {
			throw new RangeError(`helper page: expected at most ${MAX_HELPER_HEADER} bytes of header, got ${header.length}`);
		}
		this.#output.writer.migrationHelperPage(info.idstr, page * PAGE_SIZE, header, bytes, this.#subtype);
	};
}
