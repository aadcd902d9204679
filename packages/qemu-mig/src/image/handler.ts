import { PAGE_SIZE } from '@cvm/layout';
import { Command } from '../abi/stream.js';
import { isCodecError } from '../codec/error.js';
import { decodeXbzrle } from '../codec/xbzrle.js';
import { inflatePage } from '../codec/zlib.js';
import { parseVmDescription } from '../device/parse.js';
import { DIALECTS } from '../dialect.js';
import { StreamError } from '../error.js';
import type { PageEncoding, Place, SectionInfo, StreamHandler } from '../events.js';
import { ZERO_RECORD } from '../read/ram.js';
import type { ImageBuilder } from './builder.js';
import type { ImageDescription } from './content.js';
import { PageKind } from './page-kind.js';

/** What the handler of a damaged stream does differently. */
export interface HandlerOptions {
	/** Added to offsets: of a reader that did not begin at the magic. */
	readonly base?: number;
}

/** Puts what a reader tells into an image. `input`: number of the input that is read. */
export function createImageHandler(
	builder: ImageBuilder,
	input: number,
	{ base = 0 }: HandlerOptions = {},
): StreamHandler {
	const { blocks, timeLine } = builder;
	const page = new Uint8Array(PAGE_SIZE);
	const flushes = DIALECTS[builder.dialect].flag200 === 'multifd-flush';
	let sectionOffset = 0;

	/** A record of a page whose content is `content`, whole. */
	const put = (name: string, address: number, kind: PageKind, content: Uint8Array, at: Place): void => {
		const block = builder.locate(name, address, at);
		timeLine.page(kind);
		builder.putPage(block, address, kind, content, base + at.offset, builder.barrier);
	};

	const zero = (name: string, address: number, kind: PageKind, at: Place): void => {
		const block = builder.locate(name, address, at);
		timeLine.page(kind);
		builder.putZero(block, address, kind, base + at.offset, builder.barrier);
	};

	const sealed = (
		name: string,
		address: number,
		kind: PageKind,
		header: Uint8Array,
		payload: Uint8Array,
		at: Place,
	): void => {
		if (payload.length !== PAGE_SIZE) {
			const message = `encrypted page: expected ${PAGE_SIZE} bytes, got ${payload.length}`;
			throw new StreamError({ code: 'unsupported', message }, at);
		}
		put(name, address, kind, payload, at);
		blocks.writeHeader(builder.locate(name, address, at), address, header);
	};

	const decoded = (kind: PageEncoding, name: string, address: number, data: Uint8Array, at: Place): void => {
		const block = builder.locate(name, address, at);
		try {
			if (kind === 'xbzrle') {
				blocks.read(block, address, page);
				decodeXbzrle(data, page);
			} else inflatePage(data, page);
		} catch (cause) {
			if (!isCodecError(cause)) throw cause;
			if (builder.recovering) {
				// The base was lost in a gap: the page is known to be wrong, and what follows it is not.
				builder.notePage(block, address, kind === 'xbzrle' ? PageKind.xbzrle : PageKind.zlib, base + at.offset, 0);
				builder.note(
					`offset ${base + at.offset}: page 0x${address.toString(16)} of '${name}' has no base: ${cause.message}`,
				);
				return;
			}
			const where = kind === 'xbzrle' ? [`Failed to decompress XBZRLE page at ${address.toString(16)}`] : [];
			const message = `page 0x${address.toString(16)} of '${name}': ${cause.message}`;
			throw new StreamError({ code: 'record', message, qemu: [...cause.qemu, ...where], cause }, at);
		}
		put(name, address, kind === 'xbzrle' ? PageKind.xbzrle : PageKind.zlib, page, at);
	};

	return {
		configuration(configuration) {
			builder.configuration ??= configuration;
		},
		sectionBegin(section, at) {
			sectionOffset = base + at.offset;
			if (section.idstr === 'ram') timeLine.begin(section, sectionOffset, input);
		},
		sectionEnd(section, at) {
			if (section.idstr === 'ram') timeLine.finish(base + at.offset + at.length);
		},
		blockList(list, _total, at) {
			for (const block of list) builder.listBlock(block, at);
		},
		mappedBlock: (block, _bitmap, at) => builder.listBlock(block, at),
		rawPage: (name, address, content, at) => put(name, address, PageKind.raw, content, at),
		zeroPage(name, address, fill, at) {
			if (fill === 0) zero(name, address, PageKind.zero, at);
			else put(name, address, PageKind.filled, page.fill(fill), at);
		},
		zeroPages(name, address, count, at) {
			const block = builder.locate(name, address, at);
			builder.locate(name, address + (count - 1) * PAGE_SIZE, at);
			timeLine.page(PageKind.zero, count);
			builder.putZeros(block, address, count, base + at.offset, ZERO_RECORD);
		},
		encodedPage: decoded,
		mappedPage(name, address, content, present, at) {
			if (present) put(name, address, PageKind.mapped, content, at);
			else zero(name, address, PageKind.absent, at);
		},
		encryptedPage(name, address, header, payload, at, prefix) {
			builder.session ??= prefix && {
				policy: prefix.policy,
				pdh: prefix.pdh.slice(),
				session: prefix.session.slice(),
			};
			sealed(name, address, PageKind.encrypted, header, payload, at);
		},
		migrationHelperPage: (name, address, header, content, at) =>
			sealed(name, address, PageKind.helper, header, content, at),
		sharedRegions(_block, _address, regions, terminator, at) {
			builder.pageStatus = { kind: 'regions', regions: [...regions], terminator, offset: base + at.offset };
		},
		hostRegions(_block, _address, list, at) {
			builder.pageStatus = { kind: 'host-regions', list, offset: base + at.offset };
		},
		encryptedBitmap(_block, _address, slots, at) {
			const copies = slots.map((slot) => ({ ...slot, bitmap: slot.bitmap.slice() }));
			builder.pageStatus = { kind: 'bitmap', slots: copies, offset: base + at.offset };
		},
		multifdFlush() {
			builder.barrier += 1;
		},
		endOfRecords() {
			// QEMU up to 8.0 has a barrier at the end of each section, without a record of its own.
			if (!flushes) builder.barrier += 1;
		},
		opaqueBody: (section, body, at) => addBody(section, body, at),
		command(command, data, at) {
			builder.addCommand({ command, data: data.slice(), offset: base + at.offset, input });
			if (command === Command.postcopyRun) builder.postcopy = true;
		},
		ramDiscard: (block, ranges, at) => builder.discard(block, ranges, at),
		vmDescription(json, at) {
			builder.description = describedBy(json.slice(), base + at.offset);
		},
	};

	function addBody(section: SectionInfo, body: Uint8Array, at: Place): void {
		builder.addDevice({
			section,
			offset: sectionOffset,
			bodyOffset: base + at.offset,
			body: body.slice(),
			packaged: at.packaged,
			input,
			recovered: builder.recovering,
		});
	}
}

/** A description, parsed if it can be. */
function describedBy(json: Uint8Array, offset: number): ImageDescription {
	try {
		return { json, parsed: parseVmDescription(json), offset };
	} catch (error) {
		if (!(error instanceof Error) || error.name !== 'DescriptionError') throw error;
		return { json, problem: error.message, offset };
	}
}
