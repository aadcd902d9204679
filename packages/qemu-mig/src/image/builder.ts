import { PAGE_SIZE } from '@cvm/layout';
import type { Dialect } from '../dialect.js';
import type { FaultPlace } from '../error.js';
import { StreamError } from '../error.js';
import type { ByteRange, Configuration, StreamBlock, StreamEnd, StreamHandler } from '../events.js';
import type { SessionPrefix } from '../ports.js';
import { capabilitiesOf } from '../read/configuration.js';
import type { Detection } from '../read/detect.js';
import type { OpenBlock } from './blocks.js';
import { BlockTable, DEFAULT_RAM_LIMIT } from './blocks.js';
import type {
	ImageCommand,
	ImageDescription,
	ImageDevice,
	InputInfo,
	MultifdChannelInfo,
	PageStatus,
	StreamImage,
} from './content.js';
import { ImageError } from './error.js';
import type { FactDetail } from './facts.js';
import { isMissing, namedCounts, PAGE_KIND_NAMES, PageKind } from './page-kind.js';
import type { RamStore } from './store.js';
import { TimeLine } from './time-line.js';

/** Commands and notes kept at most; a stream may hold millions. */
const MAX_LIST = 65536;
const MAX_NOTES = 1000;
/** Bytes of device bodies kept at most. */
const MAX_DEVICE_BYTES = 2 ** 30;

/** Options of {@link ImageBuilder}. */
export interface BuilderOptions {
	readonly store?: RamStore | undefined;
	readonly facts?: FactDetail | undefined;
	/** Bytes of guest RAM accepted. Default 16 TiB. */
	readonly ramLimit?: number | undefined;
}

/** Gathers an image from the events of its inputs. */
export class ImageBuilder {
	readonly blocks: BlockTable;
	readonly timeLine = new TimeLine();
	readonly devices: ImageDevice[] = [];
	readonly commands: ImageCommand[] = [];
	readonly notes: string[] = [];
	readonly inputs: InputInfo[] = [];
	readonly channels: MultifdChannelInfo[] = [];
	readonly tally = new Float64Array(PAGE_KIND_NAMES.length);
	configuration: Configuration | undefined;
	description: ImageDescription | undefined;
	session: SessionPrefix | undefined;
	pageStatus: PageStatus | undefined;
	detection: Detection | undefined;
	end: StreamEnd | undefined;
	/** Where connections broke in postcopy. */
	readonly cuts: { readonly error: StreamError; readonly input: number; readonly urgent: boolean }[] = [];
	/** The input that is read; of channels, none. */
	input = 0;
	postcopy = false;
	/** Whether what is read now comes after a gap. */
	recovering = false;
	/** Records of blocks that no list announced are taken. */
	unlisted = false;
	/** There are multifd channels: of two records of a page, the one behind the later barrier counts. */
	ordered = false;
	/** Barriers passed in the main stream. */
	barrier = 0;
	/** Only kinds are kept, unless the order of channels asks for more. */
	frugal = false;
	/** Puts more checks around the handler of an input. */
	wrap: (handler: StreamHandler, input: number) => StreamHandler = (handler) => handler;
	dialect: Dialect = 'qemu-7.2';
	#deviceBytes = 0;

	constructor(options: BuilderOptions) {
		this.blocks = new BlockTable(options.store, options.facts ?? 'full', options.ramLimit ?? DEFAULT_RAM_LIMIT);
	}

	note(text: string): void {
		if (this.notes.length < MAX_NOTES) this.notes.push(text);
	}

	addCommand(command: ImageCommand): void {
		if (this.commands.length < MAX_LIST) this.commands.push(command);
	}

	addDevice(device: ImageDevice): void {
		this.#deviceBytes += device.body.length;
		if (this.#deviceBytes > MAX_DEVICE_BYTES || this.devices.length >= MAX_LIST) {
			throw new ImageError('limit', `devices: expected at most ${MAX_LIST} with 1 GiB of state, got more`);
		}
		this.devices.push(device);
	}

	/** The block list. The same block again, as a second list has it, must have the same length. */
	listBlock(stream: StreamBlock, at: FaultPlace): void {
		const known = this.blocks.find(stream.idstr);
		if (known === undefined) {
			this.blocks.add(stream);
			return;
		}
		this.note(`offset ${at.offset}: block '${stream.idstr}' is listed again`);
		if (known.stream.usedLength === stream.usedLength) return;
		const message = `block '${stream.idstr}': expected ${known.stream.usedLength} bytes as before, got ${stream.usedLength}`;
		throw new StreamError({ code: 'block-list', message }, at);
	}

	/** The block of a page record. @throws StreamError if it is not listed or ends before the page */
	locate(name: string, address: number, at: FaultPlace): OpenBlock {
		const block = this.blocks.find(name) ?? (this.unlisted ? this.blocks.addUnlisted(name) : undefined);
		if (block === undefined) {
			const hex = address.toString(16);
			const message = `RAM record: expected a block of the block list, got '${name}'`;
			const qemu = [`Can't find block ${name}`, `Illegal RAM offset ${hex}`];
			throw new StreamError({ code: 'block', message, qemu }, at);
		}
		const page = address / PAGE_SIZE;
		if (address >= block.stream.usedLength || page !== Math.floor(page)) {
			const hex = address.toString(16);
			const length = block.stream.usedLength.toString(16);
			const message = `RAM record: expected an offset below 0x${length} in '${name}', got 0x${hex}`;
			throw new StreamError({ code: 'offset', message, qemu: [`Illegal RAM offset ${hex}`] }, at);
		}
		return block;
	}

	/**
	 * Notes a record of a page and returns the kind it had; -1 if what is there is newer and must stay. `barrier` is that of
	 * the record's own channel.
	 */
	notePage(block: OpenBlock, address: number, kind: PageKind, offset: number, barrier: number): PageKind | -1 {
		const page = address / PAGE_SIZE;
		this.tally[kind] = (this.tally[kind] ?? 0) + 1;
		if (address >= block.reached) block.reached = address + PAGE_SIZE;
		if (this.ordered) {
			if (block.facts.barrierAt(page) > barrier) return -1;
			block.facts.setBarrier(page, barrier);
		}
		const before = block.facts.note(page, kind, offset, this.recovering);
		if (block.facts.most > this.timeLine.passes) this.timeLine.passes = block.facts.most;
		return before;
	}

	/** A whole page of content. */
	putPage(block: OpenBlock, address: number, kind: PageKind, page: Uint8Array, offset: number, barrier: number): void {
		if (this.notePage(block, address, kind, offset, barrier) !== -1) this.blocks.write(block, address, page);
	}

	/** A page that the stream calls zero. */
	putZero(block: OpenBlock, address: number, kind: PageKind, offset: number, barrier: number): void {
		const before = this.notePage(block, address, kind, offset, barrier);
		if (before !== -1) this.blocks.clear(block, address, before);
	}

	/** As so many `putZero`, of records of `bytes` bytes one after the other. */
	putZeros(block: OpenBlock, address: number, count: number, offset: number, bytes: number): void {
		if (this.ordered || this.recovering || this.blocks.store !== undefined) {
			for (let i = 0; i < count; i++) {
				this.putZero(block, address + i * PAGE_SIZE, PageKind.zero, offset + i * bytes, this.barrier);
			}
			return;
		}
		const end = address + count * PAGE_SIZE;
		this.tally[PageKind.zero] = (this.tally[PageKind.zero] ?? 0) + count;
		if (end > block.reached) block.reached = end;
		block.facts.noteRun(address / PAGE_SIZE, count, PageKind.zero, offset, bytes);
		if (block.facts.most > this.timeLine.passes) this.timeLine.passes = block.facts.most;
	}

	/** Ranges that the target drops, since they will be sent again in postcopy. */
	discard(name: string, ranges: readonly ByteRange[], at: FaultPlace): void {
		const block = this.blocks.find(name);
		if (block === undefined) {
			this.note(`offset ${at.offset}: discard of '${name}', which is no block of the list`);
			return;
		}
		for (const { start, length } of ranges) {
			const end = Math.ceil(Math.min(Number(start + length), block.stream.usedLength) / PAGE_SIZE);
			for (const page of block.facts.touched(Math.floor(Number(start) / PAGE_SIZE), end)) {
				const before = block.facts.kindAt(page);
				if (isMissing(before)) continue;
				block.facts.mark(page, PageKind.discarded, false);
				this.blocks.clear(block, page * PAGE_SIZE, before);
			}
		}
	}

	/** The image as it is now. */
	finish(): StreamImage {
		const { configuration, description, session, pageStatus, detection, end, channels } = this;
		const ramSection = this.timeLine.section;
		return {
			dialect: this.dialect,
			...(detection === undefined ? {} : { detection }),
			...(configuration === undefined ? {} : { configuration }),
			capabilities: configuration === undefined ? [] : capabilitiesOf(configuration),
			blocks: this.blocks.finish(),
			devices: this.devices,
			commands: this.commands,
			...(session === undefined ? {} : { session }),
			...(pageStatus === undefined ? {} : { pageStatus }),
			...(description === undefined ? {} : { description }),
			...(ramSection === undefined ? {} : { ramSection }),
			sections: this.timeLine.entries(),
			passes: this.timeLine.passes,
			counts: namedCounts(this.tally),
			postcopy: this.postcopy,
			...(channels.length === 0 ? {} : { multifd: { channels, barriers: this.barrier } }),
			inputs: this.inputs,
			...(end === undefined ? {} : { end }),
			notes: this.notes,
			...(this.blocks.store === undefined ? {} : { store: this.blocks.store }),
		};
	}
}
