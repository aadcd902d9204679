import { PAGE_SIZE } from '@cvm/layout';
import type { DialectRules } from '../dialect.js';
import type { PageSealer, PageSource, SessionPrefix } from '../ports.js';
import { SealedBatch } from '../write/sealed-batch.js';
import { BatchPace } from './batch-pace.js';
import { DirtyPages } from './dirty-pages.js';
import { attempt, PrecopyError } from './failure.js';
import type { HelperSender } from './helper-sender.js';
import type { Output } from './output.js';
import { PAGES_PER_TIME_CHECK } from './parameters.js';
import type { PlainSender, Stage } from './plain-sender.js';
import type { PrecopyStatistics } from './statistics.js';
import type { AutoConverge } from './throttle.js';

/** Most private pages sealed at once. */
const BATCH_PAGES = 64;
/** Batches under construction or on their way. */
const BATCH_BUFFERS = 3;

interface BatchSlot {
	readonly batch: SealedBatch;
	/** Pending while the sink has the buffer. */
	sent: Promise<void> | undefined;
}

/**
 * Sends dirty pages in slices of at most 64, or as many as the in-guest helper takes at once, each within one turn of the event
 * loop: the status of a page is asked and the page is read or sealed without anything in between, and a batch never outlives
 * its slice.
 */
export class RamSender {
	/** The pages still to send. */
	readonly dirty: DirtyPages;
	readonly #source: PageSource;
	readonly #output: Output;
	readonly #statistics: PrecopyStatistics;
	readonly #rules: DialectRules;
	readonly #plain: PlainSender;
	readonly #helper: HelperSender | undefined;
	readonly #throttle: AutoConverge | undefined;
	readonly #slots: BatchSlot[] = [];
	#slot = 0;
	#prefix: SessionPrefix | undefined;
	readonly #pace = new BatchPace(BATCH_PAGES);
	#periodStart: number;
	#periodDirty = 0;
	#periodPages = 0;
	/** Pages visited, sent or found unchanged. */
	#visited = 0;
	/** `idstr` of the block whose page was visited last. */
	#lastBlock: string | undefined;

	constructor(o: {
		source: PageSource;
		output: Output;
		rules: DialectRules;
		plain: PlainSender;
		helper: HelperSender | undefined;
		throttle: AutoConverge | undefined;
	}) {
		this.#source = o.source;
		this.#output = o.output;
		this.#statistics = o.output.statistics;
		this.#rules = o.rules;
		this.#plain = o.plain;
		this.#helper = o.helper;
		this.#throttle = o.throttle;
		this.dirty = new DirtyPages(o.source);
		this.#periodStart = o.output.clock.now();
		this.#statistics.total = o.source.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
	}

	/** Bytes of guest memory still to send. */
	get pending(): number {
		return this.dirty.count * PAGE_SIZE;
	}

	set stage(stage: Stage) {
		this.#plain.stage = stage;
	}

	/** One pass of the dirty log. QEMU 7.2 migration/ram.c `migration_bitmap_sync`. */
	synchronise(): void {
		this.#periodDirty += this.dirty.synchronise();
		const statistics = this.#statistics;
		statistics.passes++;
		statistics.remaining = this.pending;
		this.#plain.passBegins();
		const now = this.#output.clock.now();
		if (now - this.#periodStart < 1000) return;
		this.#throttle?.periodEnded(this.#periodDirty * PAGE_SIZE);
		statistics.dirtyPagesRate = Math.round((this.#periodDirty * 1000) / (now - this.#periodStart));
		statistics.xbzrle?.periodEnded(this.#visited - this.#periodPages);
		statistics.compression?.periodEnded(this.#visited - this.#periodPages);
		this.#periodStart = now;
		this.#periodDirty = 0;
		this.#periodPages = this.#visited;
	}

	/** Waits until the next batch's buffer is free; undefined if it is now. */
	ready(): Promise<void> | undefined {
		return this.#slots[this.#slot]?.sent;
	}

	/**
	 * Sends a slice of dirty pages, fewer when a batch is sealed, or when the stream reaches `stopPosition`. At least one page
	 * unless the position is already past. False when no page is dirty any more; the helper may still have some.
	 *
	 * @throws PrecopyError if a private page cannot be sealed, or what the source threw
	 */
	slice(stopPosition: number): boolean {
		let batch: SealedBatch | undefined;
		const helper = this.#helper;
		// A slice has room for a batch of each kind.
		const helped = PAGES_PER_TIME_CHECK / Math.max(PAGES_PER_TIME_CHECK, helper?.batchPages ?? 0);
		for (let i = 0; i < PAGES_PER_TIME_CHECK; ) {
			const queued = batch === undefined ? (helper?.queued ?? 0) : batch.count * batch.layout.stride;
			if (this.#output.position + queued > stopPosition) break;
			const previous = this.dirty.block;
			if (!this.#take()) break;
			const { block, page } = this.dirty;
			const isPrivate = this.#source.isPrivate(block, page);
			if (batch !== undefined && (!isPrivate || block !== previous)) {
				this.#seal(previous, batch);
				batch = undefined;
				// The next buffer may still be on its way: keep this page for the next slice.
				if (isPrivate) {
					this.dirty.putBack();
					break;
				}
				i = PAGES_PER_TIME_CHECK;
			}
			i += isPrivate && helper !== undefined ? helped : 1;
			if (!isPrivate) this.#sendPlain(block, page);
			else if (helper !== undefined) {
				if (this.#help(helper, block, page) && helper.batchPages > 1) break;
			} else {
				batch ??= this.#openBatch();
				batch.add(page);
				if (batch.count >= this.#pace.limit) break;
			}
		}
		if (batch !== undefined) this.#seal(this.dirty.block, batch);
		helper?.ask();
		this.#statistics.remaining = this.pending;
		return this.dirty.count > 0;
	}

	/** Whether the helper may have pages that are not in the stream yet. */
	get outstanding(): boolean {
		return this.#helper?.outstanding ?? false;
	}

	/** Everything the helper was asked for goes into the section. @throws PrecopyError if it fails */
	flush(): void {
		this.#helper?.flush();
	}

	/** The list of shared regions, once, after the last page. AMDESE/qemu `sev_live_migration_v4`. */
	sharedRegions(): void {
		const { sealer, blocks } = this.#source;
		const block = this.#lastBlock ?? blocks[0]?.idstr;
		if (!this.#seals || sealer === undefined || block === undefined) return;
		this.#output.writer.sharedRegions(
			block,
			0,
			attempt('seal', () => sealer.sharedRegions()),
		);
	}

	/** Sends what is dirty of the host page of `size` bytes around a page, and nothing in between. @returns its first page */
	hostPage(block: number, page: number, size: number): number {
		const count = size / PAGE_SIZE;
		const first = page - (page % count);
		for (let i = first; i < first + count; i++) {
			if (!this.dirty.isDirty(block, i)) continue;
			this.dirty.mark(block, i, false);
			if (this.#source.omits?.(block, i)) continue;
			if (!this.#source.isPrivate(block, i)) this.#sendPlain(block, i);
			else if (this.#helper !== undefined) this.#help(this.#helper, block, i);
			else this.#sealer();
		}
		this.flush();
		this.#statistics.remaining = this.pending;
		return first;
	}

	#take(): boolean {
		let found = this.dirty.take();
		while (found && this.#source.omits?.(this.dirty.block, this.dirty.page)) found = this.dirty.take();
		this.#plain.repeating = this.dirty.walked;
		if (found) this.#visited++;
		return found;
	}

	#sendPlain(block: number, page: number): void {
		const idstr = this.#idstr(block);
		this.#plain.send(block, page, idstr, this.#output.writer.block === idstr);
	}

	#help(helper: HelperSender, block: number, page: number): boolean {
		this.#idstr(block);
		return helper.add(block, page);
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
		const { clock, writer } = this.#output;
		const start = clock.now();
		attempt('seal', () => sealer.seal(block, batch.pages, batch.count, batch.bytes, batch.layout));
		this.#pace.took(clock.now() - start);
		const sent = writer.sealedBatch(this.#idstr(block), batch, this.#prefix);
		this.#prefix = undefined;
		this.#statistics.privatePages += batch.count;
		batch.count = 0;
		slot.sent = sent?.then(() => {
			slot.sent = undefined;
		});
		this.#slot = (this.#slot + 1) % BATCH_BUFFERS;
	}

	get #seals(): boolean {
		return this.#rules.pageStatus === 'regions';
	}

	#sealer(): PageSealer {
		const { sealer } = this.#source;
		if (sealer !== undefined && this.#seals) return sealer;
		const why = sealer === undefined ? 'a source without sealer' : 'a dialect without encrypted pages';
		throw new PrecopyError('source', `private page: expected a way to seal it, got ${why}`);
	}

	#idstr(block: number): string {
		const idstr = this.#source.blocks[block]?.idstr ?? '';
		this.#lastBlock = idstr;
		return idstr;
	}
}
