import type { BodyType } from '../abi/stream.js';
import {
	HANDOVER_CAPABILITY,
	IGNORE_SHARED_CAPABILITY,
	MAPPED_RAM_CAPABILITY,
	RAM_SECTION_VERSION,
	SectionType,
	STREAM_MAGIC,
	STREAM_VERSION,
} from '../abi/stream.js';
import { DIALECTS } from '../dialect.js';
import { StreamError } from '../error.js';
import type { SectionInfo, StreamEnd, StreamHandler } from '../events.js';
import { CommandReader } from './commands.js';
import { capabilitiesOf, readConfiguration } from './configuration.js';
import type { Parse } from './cursor.js';
import { StreamCursor } from './cursor.js';
import { DeviceReader } from './device.js';
import {
	BAD_MAGIC,
	BAD_VERSION,
	NO_CONFIGURATION,
	NO_FOOTER,
	NO_PART_ID,
	NO_VERSION,
	noIdstr,
	OBSOLETE_VERSION,
	wrongFooterId,
} from './faults.js';
import type { ReaderOptions, ResumeState } from './options.js';
import { DEFAULT_LIMITS } from './options.js';
import { RamReader } from './ram.js';

/**
 * Reads a migration stream pushed in chunks of any size and tells a handler what it holds. Nothing is lost: the events
 * are enough to write the same bytes again. Malformed input ends in a {@link StreamError} at the first fault; memory is
 * bounded by the limits. Postcopy's PACKAGED contents are read in place, as the elements they are, with their places marked.
 */
export class StreamReader {
	readonly #cursor: StreamCursor;
	readonly #handler: StreamHandler;
	readonly #ram: RamReader;
	readonly #commands: CommandReader;
	readonly #devices: DeviceReader;
	readonly #options: ReaderOptions;
	readonly #sections = new Map<number, SectionInfo>();
	readonly #parse: Parse<StreamEnd>;
	#handover = false;
	#trailing = 0;
	#failed = false;

	constructor(options: ReaderOptions) {
		this.#cursor = new StreamCursor({ ...DEFAULT_LIMITS, ...options.limits });
		this.#handler = options.handler;
		this.#ram = new RamReader(this.#cursor, DIALECTS[options.dialect], options);
		this.#commands = new CommandReader(this.#cursor, this.#ram, options);
		this.#devices = new DeviceReader(this.#cursor, this.#sections, options);
		this.#options = options;
		for (const section of options.resume?.sections ?? []) this.#sections.set(section.id, section);
		this.#parse = options.stream === 'preempt' ? this.#preempt() : this.#stream();
	}

	/** Bytes consumed so far. */
	get offset(): number {
		return this.#cursor.window.offset;
	}

	/** What the reader of the connection that follows this one needs; also after a failure. */
	get resumeState(): ResumeState {
		const { postcopy } = this.#commands;
		return { sections: [...this.#sections.values()], ...this.#ram.state, postcopy };
	}

	/**
	 * Set it, also in a callback, to make the reader keep what arrives instead of reading on after the present section or
	 * MULTIFD_FLUSH record; after it is cleared, the next `push`, perhaps of nothing, reads what was kept.
	 */
	get paused(): boolean {
		return this.#cursor.paused;
	}

	set paused(paused: boolean) {
		this.#cursor.paused = paused;
	}

	/** Reads a chunk; it may be reused afterwards. @throws StreamError, or what the handler threw */
	push(chunk: Uint8Array): void {
		this.#checkOpen();
		this.#cursor.window.feed(chunk);
		this.#step();
	}

	/** No more bytes come. @throws StreamError unless the stream reached EOF and no element is cut */
	end(): StreamEnd {
		this.#checkOpen();
		this.#cursor.ended = true;
		const result = this.#step();
		return result ?? { description: false, trailing: 0 };
	}

	#checkOpen(): void {
		if (!this.#failed && !this.#cursor.ended) return;
		this.#cursor.mark();
		throw new StreamError(
			{ code: 'closed', message: 'reader: expected no more input after its end or failure, got some' },
			{ offset: this.offset, section: undefined, inBody: false },
		);
	}

	#step(): StreamEnd | undefined {
		try {
			const step = this.#parse.next();
			return step.done === true ? step.value : undefined;
		} catch (error) {
			this.#failed = true;
			throw error;
		}
	}

	*#stream(): Parse<StreamEnd> {
		if (this.#options.stream !== 'recovery') {
			yield* this.#header();
			if (this.#options.configurationSection !== false) yield* this.#configuration();
		}
		for (let more = true; more; this.#commands.leavePackage()) {
			more = yield* this.#element();
			if (this.#cursor.paused) yield* this.#cursor.hold();
		}
		return yield* this.#tail();
	}

	/** The second channel of postcopy: records without a section around them. */
	*#preempt(): Parse<StreamEnd> {
		yield* this.#ram.body();
		return yield* this.#rest(false);
	}

	*#configuration(): Parse {
		const cursor = this.#cursor;
		cursor.mark();
		cursor.onTruncation = NO_CONFIGURATION;
		const first = yield* cursor.takeU8();
		if (first !== SectionType.configuration) {
			const message = `configuration: expected type byte 7, got ${first}`;
			throw cursor.fail({ code: 'configuration', message, ...NO_CONFIGURATION });
		}
		cursor.onTruncation = {};
		const configuration = yield* readConfiguration(cursor);
		const capabilities = capabilitiesOf(configuration);
		this.#handover = capabilities.includes(HANDOVER_CAPABILITY);
		this.#commands.announceHandover(this.#handover);
		this.#ram.listForm.addresses = capabilities.includes(IGNORE_SHARED_CAPABILITY);
		this.#ram.listForm.mapped = capabilities.includes(MAPPED_RAM_CAPABILITY);
		this.#handler.configuration?.(configuration, cursor.place);
	}

	*#header(): Parse {
		const cursor = this.#cursor;
		cursor.onTruncation = BAD_MAGIC;
		const magic = yield* cursor.takeU32();
		if (magic !== STREAM_MAGIC) {
			const message = `magic: expected 0x5145564d, got 0x${magic.toString(16)}`;
			throw cursor.fail({ code: 'not-a-stream', message, ...BAD_MAGIC });
		}
		cursor.onTruncation = BAD_VERSION;
		const version = yield* cursor.takeU32();
		if (version !== STREAM_VERSION) {
			const message = `version: expected ${STREAM_VERSION}, got ${version}`;
			throw cursor.fail({ code: 'version', message, ...(version === 2 ? OBSOLETE_VERSION : BAD_VERSION) });
		}
		this.#handler.header?.(version, cursor.place);
	}

	/** One element before and including EOF; false after the EOF that is not a package's own. */
	*#element(): Parse<boolean> {
		const cursor = this.#cursor;
		cursor.place.section = undefined;
		cursor.mark();
		const type = yield* cursor.takeU8();
		switch (type) {
			case SectionType.eof:
				this.#handler.eof?.(cursor.place);
				return cursor.package !== undefined;
			case SectionType.start:
			case SectionType.full:
				yield* this.#introduced(type);
				return true;
			case SectionType.part:
			case SectionType.end:
				yield* this.#continued(type);
				return true;
			case SectionType.command:
				yield* this.#commands.read();
				return true;
			default:
				throw cursor.fail({
					code: 'section',
					message: `section type: expected 0 to 4 or 8, got ${type}`,
					qemu: [`Unknown savevm section type ${type}`],
				});
		}
	}

	*#introduced(type: BodyType): Parse {
		const cursor = this.#cursor;
		if (!(yield* cursor.reach(4))) cursor.onTruncation = noIdstr(cursor.window.paddedU32());
		const id = yield* cursor.takeU32();
		cursor.onTruncation = noIdstr(id);
		const idstr = yield* cursor.takeName();
		cursor.onTruncation = NO_VERSION;
		const instanceId = yield* cursor.takeU32();
		const version = yield* cursor.takeU32();
		cursor.onTruncation = {};
		const section: SectionInfo = { type, id, idstr, instanceId, version };
		if (idstr === 'ram' && version !== RAM_SECTION_VERSION) {
			// A newer version is refused by name, an older one by ram's own load function.
			cursor.place.section = section;
			cursor.place.inBody = version < RAM_SECTION_VERSION;
			throw cursor.fail({
				code: 'version',
				message: `ram: expected version ${RAM_SECTION_VERSION}, got ${version}`,
				qemu: version > RAM_SECTION_VERSION ? [`savevm: unsupported version ${version} for 'ram' v4`] : [],
			});
		}
		this.#sections.set(id, section);
		yield* this.#section(section);
	}

	*#continued(type: BodyType): Parse {
		this.#cursor.onTruncation = NO_PART_ID;
		const id = yield* this.#cursor.takeU32();
		this.#cursor.onTruncation = {};
		const introduced = this.#sections.get(id) ?? this.#assumed(id);
		if (introduced === undefined) {
			throw this.#cursor.fail({
				code: 'section',
				message: `section id: expected one introduced by START, got ${id}`,
				qemu: [`Unknown savevm section ${id}`],
			});
		}
		yield* this.#section({ ...introduced, type });
	}

	/** A recovery stream goes on with sections that the first one introduced; alone, only `ram` is likely. */
	#assumed(id: number): SectionInfo | undefined {
		const { stream, resume } = this.#options;
		if (stream !== 'recovery' || resume !== undefined || this.#sections.size > 0) return undefined;
		const version = RAM_SECTION_VERSION;
		const section: SectionInfo = { type: SectionType.start, id, idstr: 'ram', instanceId: 0, version };
		this.#sections.set(id, section);
		return section;
	}

	*#section(section: SectionInfo): Parse {
		const cursor = this.#cursor;
		const { place } = cursor;
		place.section = section;
		this.#handler.sectionBegin?.(section, place);
		place.inBody = true;
		if (section.idstr === 'ram') yield* this.#ram.body();
		else yield* this.#devices.body(section);
		place.inBody = false;
		if (this.#options.sectionFooters !== false) yield* this.#footer(section);
		else cursor.mark();
		this.#handler.sectionEnd?.(section, place);
		place.section = undefined;
	}

	*#footer(section: SectionInfo): Parse {
		const cursor = this.#cursor;
		cursor.mark();
		cursor.onTruncation = NO_FOOTER;
		const mark = yield* cursor.takeU8();
		if (mark !== SectionType.footer) {
			throw cursor.fail({
				code: 'footer',
				message: `section footer: expected 0x7e, got 0x${mark.toString(16)}`,
				qemu: [`Missing section footer for ${section.idstr}`],
			});
		}
		// QEMU takes missing bytes for zeroes and compares.
		if (!(yield* cursor.reach(4))) cursor.onTruncation = wrongFooterId(section, cursor.window.paddedU32());
		const id = yield* cursor.takeU32();
		cursor.onTruncation = {};
		if (id === section.id) return;
		const message = `section footer: expected id ${section.id}, got ${id}`;
		throw cursor.fail({ code: 'footer', message, ...wrongFooterId(section, id) });
	}

	/** What follows EOF: a description, the hand-over's commands, and anything, which QEMU ignores. */
	*#tail(): Parse<StreamEnd> {
		const cursor = this.#cursor;
		const { window } = cursor;
		let description = false;
		for (cursor.mark(); yield* cursor.reach(1); cursor.mark()) {
			const type = window.view.getUint8(window.at);
			if (type === SectionType.vmDescription && !description) {
				window.at += 1;
				yield* this.#description();
				description = true;
			} else if (type === SectionType.command && this.#handover) {
				window.at += 1;
				yield* this.#commands.read();
			} else break;
		}
		return yield* this.#rest(description);
	}

	*#rest(description: boolean): Parse<StreamEnd> {
		const cursor = this.#cursor;
		let instead: number | undefined;
		for (cursor.mark(); yield* cursor.reach(1); cursor.mark()) {
			const rest = yield* cursor.takePiece(Number.MAX_SAFE_INTEGER);
			if (!description) instead ??= rest[0];
			this.#trailing += rest.length;
			this.#handler.trailing?.(rest, cursor.place);
		}
		return { description, trailing: this.#trailing, ...(instead === undefined ? {} : { instead }) };
	}

	*#description(): Parse {
		const cursor = this.#cursor;
		const length = yield* cursor.takeU32();
		if (length > cursor.limits.vmDescription) {
			throw cursor.fail({
				code: 'too-large',
				message: `VMDESCRIPTION: expected at most ${cursor.limits.vmDescription} bytes, got ${length}`,
			});
		}
		const json = yield* cursor.take(length);
		this.#handler.vmDescription?.(json, cursor.place);
	}
}
