import { PAGE_SIZE } from '@cvm/layout';
import type { Clock, PageSealer, PageSource, SessionPrefix } from '../ports.js';
import { SealedBatch } from '../write/sealed-batch.js';
import type { StreamWriter } from '../write/writer.js';
import { DirtyPages } from './dirty-pages.js';
import { attempt, PrecopyError } from './failure.js';
import { PAGES_PER_TIME_CHECK } from './parameters.js';
import type { PrecopyStatistics } from './statistics.js';
import { ZeroTest } from './zero-test.js';

/** Most private pages sealed at once. */
const BATCH_PAGES = 64;
/** Batches under construction or on their way. */
const BATCH_BUFFERS = 3;
/** Longest a batch should take, in ms; beyond it batches become smaller, to this many pages. */
const BATCH_TIME = 2;
const SMALLEST_BATCH = 8;

interface BatchSlot {
	readonly batch: SealedBatch;
	/** Pending while the sink has the buffer. */
	sent: Promise<void> | undefined;
}

/**
 * Sends dirty pages in slices of at most 64, each within one turn of the event loop: the status of a page is asked and
 * the page is read or sealed without anything in between, and a batch never outlives its slice.
 */
export class RamSender {
	readonly #source: PageSource;
	readonly #writer: StreamWriter;
	readonly #statistics: PrecopyStatistics;
	readonly #clock: Clock;
	readonly #sealsPages: boolean;
	readonly #dirty: DirtyPages;
	readonly #zeroTest = new ZeroTest();
	readonly #slots: BatchSlot[] = [];
	#slot = 0;
	#prefix: SessionPrefix | undefined;
	#batchLimit = BATCH_PAGES;
	#periodStart: number;
	#periodDirty = 0;
	/** `idstr` of the block whose page was visited last. */
	#lastBlock: string | undefined;

	constructor(o: {
		source: PageSource;
		writer: StreamWriter;
		statistics: PrecopyStatistics;
		clock: Clock;
		sealsPages: boolean;
	}) {
		this.#source = o.source;
		this.#writer = o.writer;
		this.#statistics = o.statistics;
		this.#clock = o.clock;
		this.#sealsPages = o.sealsPages;
		this.#dirty = new DirtyPages(o.source);
		this.#periodStart = o.clock.now();
		o.statistics.total = o.source.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
	}

	/** Bytes of guest memory still to send. */
	get pending(): number {
		return this.#dirty.count * PAGE_SIZE;
	}

	/** One pass of the dirty log. QEMU 7.2 migration/ram.c `migration_bitmap_sync`. */
	synchronise(): void {
		this.#periodDirty += this.#dirty.synchronise();
		const statistics = this.#statistics;
		statistics.passes++;
		statistics.remaining = this.pending;
		const now = this.#clock.now();
		if (now - this.#periodStart < 1000) return;
		statistics.dirtyPagesRate = Math.round((this.#periodDirty * 1000) / (now - this.#periodStart));
		this.#periodStart = now;
		this.#periodDirty = 0;
	}

	/** Waits until a slice can be built without piling up memory; undefined if it can now. @throws what the sink threw */
	ready(): Promise<void> | undefined {
		return this.#slots[this.#slot]?.sent ?? this.#writer.ready();
	}

	/**
	 * Sends up to 64 dirty pages, fewer when a batch is sealed, or when the stream reaches `stopPosition`. At least one
	 * page unless the position is already past. False when no page is dirty any more.
	 *
	 * @throws PrecopyError if a private page cannot be sealed, or what the source threw
	 */
	slice(stopPosition: number): boolean {
		let batch: SealedBatch | undefined;
		for (let i = 0; i < PAGES_PER_TIME_CHECK; i++) {
			const queued = batch === undefined ? 0 : batch.count * batch.layout.stride;
			if (this.#writer.position + queued > stopPosition) break;
			const previous = this.#dirty.block;
			if (!this.#dirty.take()) break;
			const { block, page } = this.#dirty;
			const isPrivate = this.#source.isPrivate(block, page);
			if (batch !== undefined && (!isPrivate || block !== previous)) {
				this.#seal(previous, batch);
				batch = undefined;
				// The next buffer may still be on its way: keep this page for the next slice.
				if (isPrivate) {
					this.#dirty.putBack();
					break;
				}
				i = PAGES_PER_TIME_CHECK;
			}
			if (!isPrivate) this.#sendPlain(block, page);
			else {
				batch ??= this.#openBatch();
				batch.add(page);
				if (batch.count >= this.#batchLimit) break;
			}
		}
		if (batch !== undefined) this.#seal(this.#dirty.block, batch);
		this.#statistics.remaining = this.pending;
		return this.#dirty.count > 0;
	}

	/** The list of shared regions, once, after the last page. AMDESE/qemu `sev_live_migration_v4`. */
	sharedRegions(): void {
		const { sealer, blocks } = this.#source;
		const block = this.#lastBlock ?? blocks[0]?.idstr;
		if (!this.#sealsPages || sealer === undefined || block === undefined) return;
		this.#writer.sharedRegions(
			block,
			0,
			attempt('seal', () => sealer.sharedRegions()),
		);
	}

	#sendPlain(block: number, page: number): void {
		const idstr = this.#idstr(block);
		const bytes = this.#source.plainPage(block, page);
		if (this.#zeroTest.isZero(bytes)) {
			this.#writer.zeroPage(idstr, page * PAGE_SIZE, 0);
			this.#statistics.zeroPages++;
		} else {
			this.#writer.rawPage(idstr, page * PAGE_SIZE, bytes);
			this.#statistics.plainPages++;
		}
	}

	#openBatch(): SealedBatch {
		const sealer = this.#sealer();
		const slot = this.#slots[this.#slot];
		if (slot !== undefined) return slot.batch;
		if (this.#slots.length === 0) this.#prefix = attempt('seal', () => sealer.start());
		const bytes = this.#source.allocate(BATCH_PAGES * SealedBatch.stride(sealer.headerLength));
		const batch = new SealedBatch(bytes, sealer.headerLength, BATCH_PAGES);
		this.#slots.push({ batch, sent: undefined });
		return batch;
	}

	#seal(block: number, batch: SealedBatch): void {
		const sealer = this.#sealer();
		const slot = this.#slots[this.#slot];
		if (slot === undefined) return;
		const start = this.#clock.now();
		attempt('seal', () => sealer.seal(block, batch.pages, batch.count, batch.bytes, batch.layout));
		this.#pace(this.#clock.now() - start);
		const sent = this.#writer.sealedBatch(this.#idstr(block), batch, this.#prefix);
		this.#prefix = undefined;
		this.#statistics.privatePages += batch.count;
		batch.count = 0;
		slot.sent = sent?.then(() => {
			slot.sent = undefined;
		});
		this.#slot = (this.#slot + 1) % BATCH_BUFFERS;
	}

	#pace(elapsed: number): void {
		if (elapsed > BATCH_TIME) this.#batchLimit = Math.max(SMALLEST_BATCH, this.#batchLimit >> 1);
		else if (elapsed < BATCH_TIME / 3) this.#batchLimit = Math.min(BATCH_PAGES, this.#batchLimit << 1);
	}

	#sealer(): PageSealer {
		const { sealer } = this.#source;
		if (sealer !== undefined && this.#sealsPages) return sealer;
		const why = sealer === undefined ? 'a source without sealer' : 'a dialect without encrypted pages';
		throw new PrecopyError('source', `private page: expected a way to seal it, got ${why}`);
	}

	#idstr(block: number): string {
		const idstr = this.#source.blocks[block]?.idstr ?? '';
		this.#lastBlock = idstr;
		return idstr;
	}
}
