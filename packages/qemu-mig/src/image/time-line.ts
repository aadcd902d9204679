import type { SectionInfo } from '../events.js';
import type { RamSection } from './content.js';
import type { PageKind } from './page-kind.js';
import { namedCounts, PAGE_KIND_NAMES } from './page-kind.js';

/** Entries kept; the sections after that are summed up in the last. */
const MAX_ENTRIES = 16384;

interface Entry {
	section: SectionInfo;
	offset: number;
	length: number;
	input: number;
	pass: number;
	sections: number;
	readonly pages: Float64Array;
}

/** Follows the `ram` sections of a stream. */
export class TimeLine {
	/** As introduced by START. */
	section: SectionInfo | undefined;
	/** Most records that any page had so far. */
	passes = 0;
	readonly #entries: Entry[] = [];
	#open: Entry | undefined;

	begin(section: SectionInfo, offset: number, input: number): void {
		this.section ??= section;
		const pages = new Float64Array(PAGE_KIND_NAMES.length);
		this.#open = { section, offset, length: 0, input, pass: this.passes, sections: 1, pages };
	}

	/** A page record of the main stream. */
	page(kind: PageKind, count = 1): void {
		if (this.#open !== undefined) this.#open.pages[kind] = (this.#open.pages[kind] ?? 0) + count;
	}

	/** The section ends before `offset`. */
	finish(offset: number): void {
		const entry = this.#open;
		if (entry === undefined) return;
		this.#open = undefined;
		entry.length = offset - entry.offset;
		entry.pass = this.passes;
		const last = this.#entries.at(-1);
		if (this.#entries.length < MAX_ENTRIES || last === undefined) {
			this.#entries.push(entry);
			return;
		}
		last.section = entry.section;
		last.length = offset - last.offset;
		last.pass = entry.pass;
		last.sections += 1;
		for (const [kind, count] of entry.pages.entries()) last.pages[kind] = (last.pages[kind] ?? 0) + count;
	}

	entries(): RamSection[] {
		return this.#entries.map((entry) => ({ ...entry, pages: namedCounts(entry.pages) }));
	}
}
