import { PAGE_SIZE } from '@cvm/layout';
import type { Dialect, ReaderOptions, SectionInfo, StreamEnd } from '../src/index.js';
import { createRelay, SectionType, StreamReader, StreamWriter } from '../src/index.js';
import { createCollectingSink, TOY_PREFIX } from '../src/testing.js';

export const ramStart: SectionInfo = { type: SectionType.start, id: 2, idstr: 'ram', instanceId: 0, version: 4 };
export const ramPart: SectionInfo = { ...ramStart, type: SectionType.part };
export const ramEnd: SectionInfo = { ...ramStart, type: SectionType.end };
export const device = (id: number, idstr: string, instanceId = 0, version = 1): SectionInfo => ({
	type: SectionType.full,
	id,
	idstr,
	instanceId,
	version,
});
export const page = (fill: number): Uint8Array => new Uint8Array(PAGE_SIZE).fill(fill);

/** Bytes of what `write` writes. */
export async function written(write: (writer: StreamWriter) => void): Promise<Uint8Array> {
	const sink = createCollectingSink();
	const writer = new StreamWriter(sink);
	write(writer);
	await writer.flush();
	return sink.bytes();
}

/** Header, configuration and a START section of one block `pc.ram`. */
export function beginStream(writer: StreamWriter, pages = 4): void {
	writer.header();
	writer.configuration({ machineType: 'none', subsections: [] });
	writer.sectionBegin(ramStart);
	writer.blockList([{ idstr: 'pc.ram', usedLength: pages * PAGE_SIZE }]);
	writer.endOfRecords();
	writer.sectionEnd(ramStart);
}

/** A stream with every kind of element of dialect `sev-v4`. */
export const smallStream = (): Promise<Uint8Array> =>
	written((writer) => {
		beginStream(writer);
		writer.command(1, new Uint8Array(0));
		writer.command(2, Uint8Array.of(0, 0, 0, 1));
		writer.sectionBegin(ramPart);
		writer.zeroPage('pc.ram', 0, 0);
		writer.rawPage('pc.ram', PAGE_SIZE, page(0x11));
		writer.endOfRecords();
		writer.sectionEnd(ramPart);
		writer.sectionBegin(ramEnd);
		writer.encryptedPage('pc.ram', 2 * PAGE_SIZE, new Uint8Array(52), page(0x22), TOY_PREFIX);
		writer.sharedRegions('pc.ram', 0, [{ gfnStart: 0, gfnEnd: 2 }]);
		writer.endOfRecords();
		writer.sectionEnd(ramEnd);
		writer.sectionBegin(device(3, 'timer'));
		writer.opaqueBody(Uint8Array.of(1, 2, 0x7e, 0, 0, 0, 3, 9, 5));
		writer.sectionEnd(device(3, 'timer'));
		writer.eof();
		writer.vmDescription(new TextEncoder().encode('{"page_size": 4096, "devices": []}'));
	});

/** Reads a stream in chunks of `size` bytes and writes its events again. The chunk's memory is overwritten after each push. */
export async function relayed(
	data: Uint8Array,
	size: number,
	dialect: Dialect,
	options: Partial<ReaderOptions> = {},
): Promise<[Uint8Array, StreamEnd]> {
	const sink = createCollectingSink();
	const writer = new StreamWriter(sink);
	const reader = new StreamReader({ ...options, dialect, handler: createRelay(writer) });
	const chunk = new Uint8Array(Math.min(size, data.length));
	for (let at = 0; at < data.length; at += size) {
		const part = data.subarray(at, at + size);
		chunk.set(part);
		reader.push(chunk.subarray(0, part.length));
		chunk.fill(0xcc);
	}
	const end = reader.end();
	await writer.flush();
	return [sink.bytes(), end];
}

/** Reads a whole stream, for its errors, as a target without capability `compress`. */
export function read(data: Uint8Array, dialect: Dialect = 'qemu-7.2', options: Partial<ReaderOptions> = {}): StreamEnd {
	const reader = new StreamReader({ handler: {}, compress: false, ...options, dialect });
	reader.push(data);
	return reader.end();
}

/** What `work` throws, or undefined. */
export function thrown(work: () => unknown): unknown {
	try {
		work();
		return undefined;
	} catch (error) {
		return error;
	}
}

/** Copies and changes bytes. */
export function patched(data: Uint8Array, at: number, ...bytes: number[]): Uint8Array {
	const out = data.slice();
	out.set(bytes, at);
	return out;
}
