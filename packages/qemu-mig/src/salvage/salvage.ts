import { PAGE_SIZE } from '@cvm/layout';
import { RAM_SECTION_VERSION, SectionType } from '../abi/stream.js';
import { isCodecError } from '../codec/error.js';
import { DIALECTS } from '../dialect.js';
import { isStreamError } from '../error.js';
import type { RecordPlace, SectionInfo, StreamHandler } from '../events.js';
import { ImageBuilder } from '../image/builder.js';
import { ChannelReader } from '../image/channel.js';
import { isImageError } from '../image/error.js';
import { createImageHandler } from '../image/handler.js';
import type { ImageInput } from '../image/input.js';
import { openInput } from '../image/input.js';
import { isMissing } from '../image/page-kind.js';
import type { ResumeState } from '../read/options.js';
import { PostcopyState } from '../read/options.js';
import { StreamReader } from '../read/reader.js';
import type { Salvage, SalvageOptions, SalvageSource } from './options.js';
import { chooseDialect, takeSaveHeader } from './prepare.js';
import type { Gap, LostPart } from './report.js';
import { listMissing } from './report.js';
import type { ResyncPoint, ScanKnowledge } from './scan.js';
import { findResync, SCAN_LOOK_AHEAD } from './scan.js';

/** Bytes read at once. */
const CHUNK = 2 ** 20;
/** Id of `ram` in streams of QEMU's PC machines, if nothing tells. */
const USUAL_RAM_ID = 2;

/**
 * Reads what can be read of a truncated or damaged stream. After a fault it looks for the next bytes that are plausibly a
 * record, a section or a footer and goes on there; nothing read so passes for certain: it is marked, and what is missing is
 * listed. Damage inside page contents cannot be noticed.
 *
 * @throws ImageError `unsupported` for a packed libvirt file, `limit`; what sources and store throw
 */
export async function salvage(source: SalvageSource, options: SalvageOptions = {}): Promise<Salvage> {
	const run = new SalvageRun(source, options);
	return run.run();
}

/** A reader and where in the stream it began. */
interface Segment {
	readonly reader: StreamReader;
	/** Added to its offsets. */
	readonly base: number;
	readonly start: number;
}

class SalvageRun {
	readonly #source: SalvageSource;
	readonly #options: SalvageOptions;
	readonly #builder: ImageBuilder;
	readonly #gaps: Gap[] = [];
	readonly #cut: LostPart[] = [];
	/** Bytes of libvirt's header: offsets of the stream do not count them. */
	#header = 0;
	/** The section that is being read, and where it began. */
	#open: { readonly section: SectionInfo; readonly offset: number } | undefined;
	/** The page record read last. */
	#lastPage: { block: string; page: number; offset: number } | undefined;
	/** After a gap, until a record names its block: records belong to the block named last, or so it is assumed. */
	#assuming = false;
	/** The id of `ram` is not known but assumed. */
	#ramAssumed = false;

	constructor(source: SalvageSource, options: SalvageOptions) {
		this.#source = source;
		this.#options = options;
		const { store, facts, ramLimit } = options;
		this.#builder = new ImageBuilder({ store, facts, ramLimit });
		this.#builder.ordered = (options.channels?.length ?? 0) > 0;
	}

	async run(): Promise<Salvage> {
		const builder = this.#builder;
		const { header, libvirt } = await takeSaveHeader(this.#source);
		this.#header = header;
		const { dialect, detection } = await chooseDialect(this.#source, header, this.#options.dialect);
		builder.dialect = dialect;
		builder.detection = detection;
		let segment: Segment | undefined = this.#segment(0, 0, undefined, true);
		while (segment !== undefined) segment = await this.#read(segment);
		const bytes = this.#source.size;
		builder.inputs.push({ name: 'input 1', kind: 'migration', bytes, ...(libvirt === undefined ? {} : { libvirt }) });
		for (const [i, channel] of (this.#options.channels ?? []).entries()) await this.#readChannel(channel, i + 1);
		const image = builder.finish();
		const missing = listMissing(image, this.#gaps, this.#cut);
		const complete = this.#gaps.length === 0 && missing.pages.length === 0 && missing.sections.length === 0;
		return { image, complete, gaps: this.#gaps, missing };
	}

	get #size(): number {
		return this.#source.size - this.#header;
	}

	async #bytes(offset: number, length: number): Promise<Uint8Array> {
		return this.#source.read(this.#header + offset, length);
	}

	/** A reader from `start` on. `lead`: bytes it is given first, which are not in the stream. */
	#segment(start: number, lead: number, resume: ResumeState | undefined, first = false): Segment {
		const base = start - lead;
		// Page by page: each record counts.
		const { zeroPages: _, ...single } = createImageHandler(this.#builder, 0, { base });
		const handler = this.#watch(single, base);
		const { limits } = this.#options;
		const reader = new StreamReader({
			dialect: this.#builder.dialect,
			handler,
			...(limits === undefined ? {} : { limits }),
			...(first ? {} : { stream: 'recovery' as const }),
			...(resume === undefined ? {} : { resume }),
		});
		return { reader, base, start };
	}

	/** Follows sections and pages, so that a fault can be placed. */
	#watch(handler: StreamHandler, base: number): StreamHandler {
		/** Whether to take a record, and where it was. */
		const take = (block: string, address: number, at: RecordPlace, put: () => void): void => {
			if (!at.continued) this.#assuming = false;
			if (!this.#assuming || !this.#keepsPage(block, address / PAGE_SIZE)) put();
			this.#lastPage = { block, page: address / PAGE_SIZE, offset: base + at.offset };
		};
		return {
			...handler,
			sectionBegin: (section, at) => {
				this.#open = { section, offset: base + at.offset };
				handler.sectionBegin?.(section, at);
			},
			sectionEnd: (section, at) => {
				this.#open = undefined;
				this.#lastPage = undefined;
				handler.sectionEnd?.(section, at);
			},
			rawPage: (block, address, content, at) =>
				take(block, address, at, () => handler.rawPage?.(block, address, content, at)),
			zeroPage: (block, address, fill, at) =>
				take(block, address, at, () => handler.zeroPage?.(block, address, fill, at)),
			encodedPage: (kind, block, address, data, at) =>
				take(block, address, at, () => handler.encodedPage?.(kind, block, address, data, at)),
			encryptedPage: (block, address, header, payload, at, prefix) =>
				take(block, address, at, () => handler.encryptedPage?.(block, address, header, payload, at, prefix)),
			migrationHelperPage: (block, address, header, content, at, subtype) =>
				take(block, address, at, () => handler.migrationHelperPage?.(block, address, header, content, at, subtype)),
		};
	}

	/** A page read before the gap is not given up for one of a block that is only assumed; but there may be a newer one. */
	#keepsPage(name: string, page: number): boolean {
		const facts = this.#builder.blocks.find(name)?.facts;
		if (facts === undefined || page >= facts.pages || isMissing(facts.kindAt(page)) || facts.recoveredAt(page))
			return false;
		this.#doubt(name, page);
		return true;
	}

	/** Reads to the end, or to a fault; returns where to go on after it. */
	async #read(segment: Segment): Promise<Segment | undefined> {
		const { reader, start } = segment;
		try {
			for (let at = start; at < this.#size; at += CHUNK) {
				reader.push(await this.#bytes(at, CHUNK));
				this.#options.progress?.(this.#header + Math.min(this.#size, at + CHUNK));
			}
			this.#builder.end = reader.end();
			return undefined;
		} catch (error) {
			const fault = this.#faultOf(error, segment);
			return this.#resume(segment, fault);
		}
	}

	#faultOf(error: unknown, segment: Segment): Fault {
		if (isStreamError(error)) {
			const offset = Math.max(segment.start, segment.base + error.offset);
			return { offset, code: error.code, reason: error.message };
		}
		const own = isCodecError(error) || (isImageError(error) && error.code === 'unsupported');
		if (own) return { offset: segment.base + segment.reader.offset, code: 'record', reason: error.message };
		throw error;
	}

	async #resume(segment: Segment, fault: Fault): Promise<Segment | undefined> {
		const state = segment.reader.resumeState;
		const builder = this.#builder;
		const open = this.#open;
		const lastPage = this.#lastPage;
		const footer = fault.code === 'footer' && this.#ramAssumed && open?.section.idstr === 'ram';
		if (footer) {
			const mark = await this.#bytes(fault.offset, 5);
			if (mark.length === 5 && mark[0] === SectionType.footer) return this.#learnRamId(fault, mark, state);
		}
		const known = this.#knowledge(state);
		// Bytes lost inside a page shift what follows: the next record may begin inside what passed for the page.
		const shifted = fault.code !== 'truncated' && lastPage !== undefined && lastPage.offset >= segment.start;
		const least = fault.offset === 0 && segment.start === 0 ? 0 : segment.start + 1;
		const from = Math.max(least, shifted ? lastPage.offset + 9 : fault.offset + 1);
		const point = this.#gaps.length >= (this.#options.gapLimit ?? 1000) ? undefined : await this.#scan(from, known);
		this.#addGap(fault, point, open?.section.idstr);
		builder.timeLine.finish(point?.at ?? this.#size);
		if (open !== undefined && open.section.idstr !== 'ram') {
			const { idstr } = open.section;
			this.#cut.push({ text: `the rest of section '${idstr}'`, idstr, offset: open.offset });
		}
		if (shifted) this.#doubt(lastPage.block, lastPage.page);
		this.#open = undefined;
		this.#lastPage = undefined;
		this.#assuming = false;
		if (point === undefined) return undefined;
		builder.recovering = true;
		builder.unlisted = state.blocks === undefined && !builder.blocks.all.some(({ listed }) => listed);
		return point.kind === 'element' ? this.#atElement(point.at, state) : this.#atRecord(point, state);
	}

	#knowledge(state: ResumeState): ScanKnowledge {
		const listed = this.#builder.blocks.all.filter((block) => block.listed);
		return {
			rules: DIALECTS[this.#builder.dialect],
			blocks: listed.length === 0 ? undefined : new Map(listed.map(({ stream }) => [stream.idstr, stream.usedLength])),
			lastBlock: state.block,
			sections: new Map(this.#ramAssumed ? [] : state.sections.map(({ id, idstr }) => [id, idstr])),
		};
	}

	async #scan(from: number, known: ScanKnowledge): Promise<ResyncPoint | undefined> {
		for (let at = from; at < this.#size; at += CHUNK) {
			const length = Math.min(CHUNK + SCAN_LOOK_AHEAD, this.#size - at);
			const data = await this.#bytes(at, length);
			const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
			const final = at + data.length >= this.#size;
			const point = findResync(view, 0, Math.min(CHUNK, data.length), final, known);
			if (point !== undefined) return { ...point, at: at + point.at };
			this.#options.progress?.(this.#header + at);
		}
		return undefined;
	}

	#addGap(fault: Fault, point: ResyncPoint | undefined, section: string | undefined): void {
		const to = point?.at ?? this.#size;
		if (fault.offset >= this.#size && point === undefined && fault.code !== 'truncated') return;
		this.#gaps.push({
			from: Math.min(fault.offset, to),
			to,
			reason: fault.reason,
			...(section === undefined ? {} : { section }),
			...(point === undefined ? {} : { resumedAt: point.kind }),
			...(point?.assumedBlock === undefined ? {} : { assumedBlock: point.assumedBlock }),
		});
	}

	/** What was read right before a gap may be part of the damage. */
	#doubt(name: string, page: number): void {
		const facts = this.#builder.blocks.find(name)?.facts;
		facts?.mark(page, facts.kindAt(page), true);
	}

	#atElement(at: number, state: ResumeState): Segment {
		const sections = this.#ramAssumed ? [] : state.sections;
		const resume = { ...state, sections, session: true, postcopy: PostcopyState.none };
		// Without sections the reader takes the first PART for `ram`, whatever its id.
		return sections.length === 0 ? this.#segment(at, 0, undefined) : this.#segment(at, 0, resume);
	}

	/** The reader begins with the header of a section, which is made up. */
	#atRecord(point: ResyncPoint, state: ResumeState): Segment {
		let ram = state.sections.find(({ idstr }) => idstr === 'ram');
		const sections = [...state.sections];
		if (ram === undefined) {
			this.#ramAssumed = true;
			ram = ramSection(USUAL_RAM_ID);
			sections.push(ram);
		}
		const resume = { ...state, sections, session: true, postcopy: PostcopyState.none };
		const segment = this.#segment(point.at, 5, resume);
		const lead = new Uint8Array(5);
		lead[0] = SectionType.part;
		new DataView(lead.buffer).setUint32(1, ram.id);
		this.#assuming = point.assumedBlock !== undefined;
		segment.reader.push(lead);
		return segment;
	}

	/** The footer tells the id that was assumed. */
	#learnRamId(fault: Fault, footer: Uint8Array, state: ResumeState): Segment {
		const id = new DataView(footer.buffer, footer.byteOffset, 5).getUint32(1);
		this.#ramAssumed = false;
		this.#builder.timeLine.finish(fault.offset + 5);
		this.#open = undefined;
		this.#lastPage = undefined;
		const sections = [...state.sections.filter(({ idstr }) => idstr !== 'ram'), ramSection(id)];
		return this.#segment(fault.offset + 5, 0, { ...state, sections });
	}

	async #readChannel(input: ImageInput, index: number): Promise<void> {
		const opened = await openInput(input, index);
		const reader = new ChannelReader(this.#builder, opened);
		try {
			for await (const chunk of opened.chunks) reader.push(chunk);
			reader.end();
			reader.settle();
		} catch (error) {
			if (!isCodecError(error)) throw error;
			this.#gaps.push({ from: error.offset, to: opened.bytes(), reason: error.message, input: index });
		}
		this.#builder.channels.push(reader.info);
		this.#builder.inputs.push({ name: opened.name, kind: 'multifd', bytes: opened.bytes() });
	}
}

interface Fault {
	readonly offset: number;
	readonly code: string;
	readonly reason: string;
}

const ramSection = (id: number): SectionInfo => ({
	type: SectionType.start,
	id,
	idstr: 'ram',
	instanceId: 0,
	version: RAM_SECTION_VERSION,
});
