import { PAGE_SIZE } from '@cvm/layout';
import type { PageSource, RamBlock } from '../ports.js';
import type { DirtyPages } from '../precopy/dirty-pages.js';
import { hostPageSize } from './host-page.js';

/** A host page goes whole or not at all: one that is partly dirty becomes so wholly. QEMU 7.2 `postcopy_chunk_hostpages`. */
export function wholeHostPages(blocks: readonly RamBlock[], dirty: DirtyPages): void {
	for (const [index, block] of blocks.entries()) {
		const count = hostPageSize(block) / PAGE_SIZE;
		if (count === 1) continue;
		const pages = block.usedLength / PAGE_SIZE;
		for (const [first, end] of [...dirty.runs(index, true)]) {
			for (let page = first - (first % count); page < Math.min(Math.ceil(end / count) * count, pages); page++) {
				dirty.mark(index, page, true);
			}
		}
	}
}

/** Capability `release-ram`: gives pages back once they have left this process. */
export class PagesToRelease {
	readonly #source: PageSource;
	readonly #dirty: DirtyPages;
	readonly #on: boolean;
	/** One byte per page given back. */
	readonly #gone: readonly Uint8Array[];
	#sent: { readonly block: number; readonly page: number; readonly count: number }[] = [];

	constructor(source: PageSource, dirty: DirtyPages, on: boolean) {
		this.#source = source;
		this.#dirty = dirty;
		this.#on = on;
		this.#gone = on ? source.blocks.map(({ usedLength }) => new Uint8Array(usedLength / PAGE_SIZE)) : [];
	}

	/** Whether nothing waits to be released. */
	get none(): boolean {
		return this.#sent.length === 0;
	}

	/** What precopy sent and nobody changed since. QEMU 7.2 migration/ram.c `ram_postcopy_migrated_memory_release`. */
	alreadySent(): void {
		if (!this.#on) return;
		for (const index of this.#source.blocks.keys()) {
			for (const [first, end] of this.#dirty.runs(index, false)) this.sent(index, first, end - first);
		}
	}

	sent(block: number, page: number, count: number): void {
		if (this.#on) this.#sent.push({ block, page, count });
	}

	flushed(): void {
		for (const { block, page, count } of this.#sent) {
			this.#source.release?.(block, page, count);
			this.#gone[block]?.fill(1, page, page + count);
		}
		this.#sent = [];
	}

	/** Nobody knows whether what was sent last arrived: it stays. */
	paused(): void {
		this.#sent = [];
	}

	isGone(block: number, page: number): boolean {
		return this.#gone[block]?.[page] === 1;
	}
}
