import { Command, RAM_SECTION_VERSION, SectionType } from '../abi/stream.js';
import type { Dialect, DialectRules } from '../dialect.js';
import { DIALECTS } from '../dialect.js';
import type { Configuration, SectionInfo } from '../events.js';
import { describeSections } from '../write/description.js';
import { StreamWriter } from '../write/writer.js';
import type { ImageBlock, ImageDevice, StreamImage } from './content.js';
import { convertConfiguration, convertStatus } from './convert.js';
import { ImageError } from './error.js';
import { createPackedSink } from './packed-sink.js';
import { isSealed, PageKind } from './page-kind.js';
import { checkPages, storeOf } from './pages.js';
import { writeMappedList } from './write-mapped.js';
import { ChannelGroup } from './write-multifd.js';
import type { ImageSinks, WriteImageOptions, WrittenImage } from './write-options.js';
import type { OutgoingPage } from './write-ram.js';
import { isIgnored, outgoingPages, RamSectionWriter, RecordWriter } from './write-ram.js';

/** Pages between two reports of progress. */
const PROGRESS_PAGES = 4096;

/**
 * Writes an image as a stream, in whatever encoding: what a target has after reading it is the image. Commands of a return
 * path or of postcopy are not written, so that the stream can be read from a file.
 *
 * @throws ImageError before anything is written: `store`, `missing-pages`, `encrypted` or `dialect` (the dialect or encoding
 * cannot say what the image holds), `argument`; later whatever the sinks throw
 */
export async function writeImage(
	image: StreamImage,
	sinks: ImageSinks,
	options: WriteImageOptions = {},
): Promise<WrittenImage> {
	const job = new ImageWriting(image, sinks, options);
	return job.run();
}

class ImageWriting {
	readonly #image: StreamImage;
	readonly #options: WriteImageOptions;
	readonly #dialect: Dialect;
	readonly #rules: DialectRules;
	readonly #blocks: readonly ImageBlock[];
	readonly #configuration: Configuration;
	readonly #status: StreamImage['pageStatus'];
	readonly #writer: StreamWriter;
	readonly #finishSink: () => Promise<void>;
	readonly #sections: RamSectionWriter;
	readonly #records: RecordWriter;
	readonly #channels: ChannelGroup | undefined;

	constructor(image: StreamImage, sinks: ImageSinks, options: WriteImageOptions) {
		this.#image = image;
		this.#options = options;
		this.#dialect = options.dialect ?? image.dialect;
		this.#rules = DIALECTS[this.#dialect];
		storeOf(image);
		this.#blocks = orderedBlocks(image, options.blockOrder);
		for (const block of this.#blocks) this.#checkBlock(block);
		this.#configuration = configurationFor(image, options);
		this.#status = image.pageStatus && convertStatus(image.pageStatus, this.#rules.pageStatus);
		if (options.libvirt === undefined) {
			this.#writer = new StreamWriter(sinks.main);
			this.#finishSink = async () => {};
		} else {
			const packed = createPackedSink(sinks.main, options.libvirt);
			this.#writer = new StreamWriter(packed);
			this.#finishSink = () => packed.end();
		}
		const uuid = this.#configuration.subsections.find(({ name }) => name === 'configuration/uuid')?.data;
		if (options.encoding === 'multifd') this.#channels = new ChannelGroup(sinks, options, uuid);
		const section = image.ramSection ?? {
			type: SectionType.start,
			id: freeId(image.devices),
			idstr: 'ram',
			instanceId: 0,
			version: RAM_SECTION_VERSION,
		};
		// Up to QEMU 8.0 every section ends with a barrier; later, MULTIFD_FLUSH says where one is.
		const flushes = this.#rules.flag200 === 'multifd-flush';
		const barrier = this.#channels === undefined || flushes ? undefined : () => this.#channels?.sync();
		this.#sections = new RamSectionWriter(
			this.#writer,
			section,
			options.partBytes ?? Number.POSITIVE_INFINITY,
			barrier,
		);
		this.#records = new RecordWriter(this.#writer, image, options, this.#rules.flag200 === 'encrypted-data');
	}

	async run(): Promise<WrittenImage> {
		const writer = this.#writer;
		writer.header();
		writer.configuration(this.#configuration);
		await this.#start();
		this.#others(SectionType.start);
		await this.#pages();
		this.#others(SectionType.part);
		await this.#end();
		this.#others(SectionType.end);
		for (const device of this.#devices()) {
			this.#section(device);
			await writer.ready();
		}
		writer.eof();
		const description = this.#description();
		if (description !== undefined) writer.vmDescription(description);
		await this.#channels?.flush();
		await writer.flush();
		await this.#finishSink();
		this.#options.progress?.(writer.position);
		return { bytes: writer.position, channels: this.#channels?.positions ?? [] };
	}

	#checkBlock(block: ImageBlock): void {
		const { missing = 'refuse', encoding } = this.#options;
		const ignored = isIgnored(this.#image, block);
		const keepsSealed = encoding !== 'mapped-ram';
		checkPages(block, {
			missing: missing === 'refuse' && !ignored ? 'refuse' : 'zero',
			sealed: keepsSealed ? 'zero' : 'refuse',
		});
		for (const { kind } of block.facts.runs()) if (isSealed(kind)) this.#checkSealed(block, kind);
	}

	#checkSealed(block: ImageBlock, kind: PageKind): void {
		const { flag200, helperPages } = this.#rules;
		const encrypted = flag200 === 'encrypted-data';
		const fits = kind === PageKind.encrypted ? encrypted : flag200 === 'helper-page' || helperPages === true;
		if (fits) return;
		const what = kind === PageKind.encrypted ? 'encrypted pages' : "a migration helper's pages";
		throw new ImageError('encrypted', `block '${block.idstr}': expected a dialect with ${what}, got ${this.#dialect}`);
	}

	async #start(): Promise<void> {
		this.#sections.begin(SectionType.start);
		if (this.#options.encoding === 'mapped-ram') await writeMappedList(this.#writer, this.#image, this.#blocks);
		else {
			this.#writer.blockList(
				this.#blocks.map(({ idstr, usedLength, address }) => ({
					idstr,
					usedLength,
					...(address === undefined ? {} : { address }),
				})),
			);
		}
		await this.#flushBarrier();
		await this.#sections.end();
	}

	async #pages(): Promise<void> {
		const { encoding = 'raw' } = this.#options;
		const records = this.#records;
		this.#sections.begin(SectionType.part);
		if (encoding === 'raw') await this.#walk((page) => records.plain(page));
		else if (encoding === 'zlib') await this.#walk((page) => records.zlib(page));
		else if (encoding === 'xbzrle') await this.#walk((page) => records.base(page));
		else if (encoding === 'multifd') await this.#walk((page) => this.#toChannel(page));
		await this.#flushBarrier();
		await this.#sections.end();
	}

	async #end(): Promise<void> {
		const { commands } = this.#image;
		const announces = commands.some(({ command }) => command === Command.switchoverStart);
		if (announces && this.#rules.switchoverStart) this.#writer.command(Command.switchoverStart, new Uint8Array(0));
		this.#sections.begin(SectionType.end);
		if (this.#options.encoding === 'xbzrle') await this.#walk((page) => this.#records.delta(page));
		this.#writeStatus();
		await this.#flushBarrier();
		await this.#sections.end();
	}

	async #toChannel(page: OutgoingPage): Promise<void> {
		if (isSealed(page.kind) || !(await this.#channels?.page(page))) this.#records.plain(page);
	}

	async #walk(write: (page: OutgoingPage) => Promise<void> | void): Promise<void> {
		const { missing, progress } = this.#options;
		let count = 0;
		for (const page of outgoingPages(this.#image, this.#blocks, missing === 'omit' ? 'omit' : 'zero')) {
			const pending = write(page);
			if (pending !== undefined) await pending;
			if (count++ % 16 === 0) await this.#sections.step();
			if (count % PROGRESS_PAGES === 0) progress?.(this.#writer.position);
		}
	}

	/** MULTIFD_FLUSH, which the target answers by waiting for every channel's SYNC. */
	async #flushBarrier(): Promise<void> {
		if (this.#channels === undefined || this.#rules.flag200 !== 'multifd-flush') return;
		await this.#channels.sync();
		this.#writer.multifdFlush();
	}

	/** Goes with the last block named, as QEMU sends it. */
	#writeStatus(): void {
		const status = this.#status;
		const block = this.#blocks.at(-1)?.idstr;
		if (status === undefined || block === undefined) return;
		if (status.kind === 'regions') this.#writer.sharedRegions(block, 0, status.regions, status.terminator);
		else if (status.kind === 'bitmap') this.#writer.encryptedBitmap(block, 0, status.slots);
		else this.#writer.hostRegions(block, 0, status.list);
	}

	#devices(): ImageDevice[] {
		return this.#image.devices.filter(({ section }) => section.type === SectionType.full);
	}

	#others(type: SectionInfo['type']): void {
		for (const device of this.#image.devices) if (device.section.type === type) this.#section(device);
	}

	#section({ section, body }: ImageDevice): void {
		this.#writer.sectionBegin(section);
		this.#writer.opaqueBody(body);
		this.#writer.sectionEnd(section);
	}

	#description(): Uint8Array | undefined {
		const { description = 'keep' } = this.#options;
		if (description === 'drop') return undefined;
		if (description === 'keep') return this.#image.description?.json;
		return describeSections(
			this.#devices().map(({ section: { idstr, instanceId }, body }) => ({ idstr, instanceId, size: body.length })),
		);
	}
}

function configurationFor(image: StreamImage, options: WriteImageOptions): Configuration {
	const { machineType, encoding } = options;
	const base = image.configuration ?? (machineType === undefined ? undefined : { machineType, subsections: [] });
	if (base === undefined) throw new ImageError('argument', 'configuration: expected a machine type, got none');
	const changed = machineType === undefined ? base : { machineType, subsections: base.subsections };
	return convertConfiguration(changed, encoding === 'mapped-ram');
}

function orderedBlocks(image: StreamImage, order: readonly string[] = []): readonly ImageBlock[] {
	const named = order.map((name) => {
		const block = image.blocks.find(({ idstr }) => idstr === name);
		if (block === undefined) throw new ImageError('argument', `block order: expected names of blocks, got '${name}'`);
		return block;
	});
	if (new Set(named).size < named.length) throw new ImageError('argument', 'block order: expected each name once');
	return [...named, ...image.blocks.filter((block) => !named.includes(block))];
}

/** A section id that no device has. */
function freeId(devices: readonly ImageDevice[]): number {
	const taken = new Set(devices.map(({ section }) => section.id));
	for (let id = 2; ; id++) if (!taken.has(id)) return id;
}
