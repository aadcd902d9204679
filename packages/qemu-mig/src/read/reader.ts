import type { BodyType } from '../abi/stream.js';
import { RAM_SECTION_VERSION, SectionType, STREAM_MAGIC, STREAM_VERSION } from '../abi/stream.js';
import { DIALECTS } from '../dialect.js';
import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { SectionInfo, StreamEnd, StreamHandler } from '../events.js';
import { announcesHandover, announcesIgnoreShared, readConfiguration } from './configuration.js';
import type { Parse } from './cursor.js';
import { StreamCursor } from './cursor.js';
import { findFooter } from './footer-scan.js';
import type { DeviceLength, ReaderOptions } from './options.js';
import { DEFAULT_LIMITS } from './options.js';
import { RamReader } from './ram.js';

const BAD_MAGIC = { qemu: ['Not a migration stream'], strerror: 'Invalid argument' } as const;
const BAD_VERSION = { qemu: ['Unsupported migration stream version'], strerror: 'Operation not supported' } as const;
const NO_CONFIGURATION = { qemu: ['Configuration section missing'], strerror: 'Invalid argument' } as const;
const NO_FOOTER = {
	qemu: ['check_section_footer: Read section footer failed: -5'],
	strerror: 'Invalid argument',
} as const;
const NO_VERSION = { qemu: ['qemu_loadvm_section_start_full: Failed to read instance/version ID: -5'] };
const NO_PART_ID = { qemu: ['qemu_loadvm_section_part_end: Failed to read section ID: -5'] };

/**
 * Reads a migration stream pushed in chunks of any size and tells a handler what it holds. Nothing is lost: the events
 * are enough to write the same bytes again. Malformed input ends in a {@link StreamError} at the first fault; memory is
 * bounded by the limits. Postcopy's PACKAGED contents are read in place, as the sections they are.
 */
export class StreamReader {
	readonly #cursor: StreamCursor;
	readonly #handler: StreamHandler;
	readonly #ram: RamReader;
	readonly #deviceLength: DeviceLength | undefined;
	readonly #sections = new Map<number, SectionInfo>();
	readonly #parse: Parse<StreamEnd>;
	#handover = false;
	#trailing = 0;
	#failed = false;

	constructor(options: ReaderOptions) {
		this.#cursor = new StreamCursor({ ...DEFAULT_LIMITS, ...options.limits });
		this.#handler = options.handler;
		this.#ram = new RamReader(this.#cursor, DIALECTS[options.dialect], options.handler);
		this.#deviceLength = options.deviceLength;
		this.#parse = this.#stream();
	}

	/** Bytes consumed so far. */
	get offset(): number {
		return this.#cursor.window.offset;
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
		const cursor = this.#cursor;
		yield* this.#header();
		cursor.mark();
		cursor.onTruncation = NO_CONFIGURATION;
		const first = yield* cursor.takeU8();
		if (first !== SectionType.configuration) {
			const message = `configuration: expected type byte 7, got ${first}`;
			throw cursor.fail({ code: 'configuration', message, ...NO_CONFIGURATION });
		}
		cursor.onTruncation = {};
		const configuration = yield* readConfiguration(cursor);
		this.#handover = announcesHandover(configuration);
		this.#ram.addressesListed = announcesIgnoreShared(configuration);
		this.#handler.configuration?.(configuration, cursor.place);
		while (yield* this.#element());
		return yield* this.#tail();
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
			const qemu = version === 2 ? ["SaveVM v2 format is obsolete and don't work anymore"] : BAD_VERSION.qemu;
			throw cursor.fail({ code: 'version', message, ...BAD_VERSION, qemu });
		}
		this.#handler.header?.(version, cursor.place);
	}

	/** One element before and including EOF; false after EOF. */
	*#element(): Parse<boolean> {
		const cursor = this.#cursor;
		cursor.place.section = undefined;
		cursor.mark();
		const type = yield* cursor.takeU8();
		switch (type) {
			case SectionType.eof:
				this.#handler.eof?.(cursor.place);
				return false;
			case SectionType.start:
			case SectionType.full:
				yield* this.#introduced(type);
				return true;
			case SectionType.part:
			case SectionType.end:
				yield* this.#continued(type);
				return true;
			case SectionType.command:
				yield* this.#command();
				return true;
			default:
				throw cursor.fail({
					code: 'section',
					message: `section type: expected 0 to 4 or 8, got ${type}`,
					qemu: [`Unknown savevm section type ${type}`],
				});
		}
	}

	*#command(): Parse {
		const command = yield* this.#cursor.takeU16();
		const length = yield* this.#cursor.takeU16();
		const data = yield* this.#cursor.take(length);
		this.#handler.command?.(command, data, this.#cursor.place);
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
		const introduced = this.#sections.get(id);
		if (introduced === undefined) {
			throw this.#cursor.fail({
				code: 'section',
				message: `section id: expected one introduced by START, got ${id}`,
				qemu: [`Unknown savevm section ${id}`],
			});
		}
		yield* this.#section({ ...introduced, type });
	}

	*#section(section: SectionInfo): Parse {
		const { place } = this.#cursor;
		place.section = section;
		this.#handler.sectionBegin?.(section, place);
		place.inBody = true;
		if (section.idstr === 'ram') yield* this.#ram.body();
		else yield* this.#opaque(section);
		place.inBody = false;
		yield* this.#footer(section);
		this.#handler.sectionEnd?.(section, place);
		place.section = undefined;
	}

	*#opaque(section: SectionInfo): Parse {
		const cursor = this.#cursor;
		cursor.mark();
		const told = this.#deviceLength?.(section.idstr, section.instanceId, section.version);
		const length = told ?? (yield* this.#lengthToFooter(section.id));
		this.#checkDeviceLength(length);
		const body = yield* cursor.take(length);
		this.#handler.opaqueBody?.(section, body, cursor.place);
	}

	*#lengthToFooter(id: number): Parse<number> {
		const cursor = this.#cursor;
		const { window } = cursor;
		const isKnown = (other: number): boolean => this.#sections.has(other);
		const descriptionLimit = cursor.limits.vmDescription;
		let scanned = 0;
		for (let more = true; ; ) {
			const context = { id, isKnown, descriptionLimit, ended: !more };
			const result = findFooter(window.view, window.at + scanned, window.end, context);
			scanned = result.at - window.at;
			if (result.found) return scanned;
			this.#checkDeviceLength(scanned);
			// Without a footer the body has no end: wait for one byte more than there can be.
			if (!more) yield* cursor.need(window.end - window.at + 1);
			more = yield* this.#anyMore();
		}
	}

	/** Takes the whole next chunk into the window; false when there is none. */
	*#anyMore(): Parse<boolean> {
		while (!this.#cursor.window.pull(Number.MAX_SAFE_INTEGER)) {
			if (this.#cursor.ended) return false;
			yield;
		}
		return true;
	}

	#checkDeviceLength(length: number): void {
		const limit = this.#cursor.limits.deviceBody;
		if (length <= limit) return;
		throw this.#cursor.fail({
			code: 'too-large',
			message: `device section: expected at most ${limit} bytes, got ${length} without a footer`,
		});
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
				yield* this.#command();
			} else break;
		}
		for (; yield* cursor.reach(1); cursor.mark()) {
			const rest = window.bytes.subarray(window.at, window.end);
			window.at = window.end;
			this.#trailing += rest.length;
			this.#handler.trailing?.(rest, cursor.place);
		}
		return { description, trailing: this.#trailing };
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

/** QEMU 7.2 migration/savevm.c `qemu_loadvm_section_start_full`. */
const noIdstr = (id: number): Pick<StreamFault, 'qemu' | 'strerror'> => ({
	qemu: [`Unable to read ID string for section ${id}`],
	strerror: 'Invalid argument',
});

/** QEMU 7.2 migration/savevm.c `check_section_footer`. */
const wrongFooterId = ({ id, idstr }: SectionInfo, got: number): Pick<StreamFault, 'qemu' | 'strerror'> => ({
	qemu: [`Mismatched section id in footer for ${idstr} - read 0x${got.toString(16)} expected 0x${id.toString(16)}`],
	strerror: 'Invalid argument',
});
