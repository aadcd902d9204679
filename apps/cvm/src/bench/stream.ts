import { PAGE_SIZE } from '@cvm/layout';
import { SectionType, StreamReader, StreamWriter } from '@cvm/qemu-mig';
import { pagesPerSecond } from './layers.js';

const PAGES = 4096;
const CHUNK = 1 << 16;

/** Writing and reading raw pages of a plain stream, without any transport: pages per second each. */
export function measureStream(): { write: number; read: number } {
	const section = { type: SectionType.start, id: 2, idstr: 'ram', instanceId: 0, version: 4 } as const;
	const page = new Uint8Array(PAGE_SIZE).fill(0x5a);
	const produce = (take: (chunk: Uint8Array) => void) => {
		const writer = new StreamWriter({ write: take });
		writer.header();
		writer.configuration({ machineType: 'pc-q35-7.2', subsections: [] });
		writer.sectionBegin(section);
		writer.blockList([{ idstr: 'pc.ram', usedLength: PAGES * PAGE_SIZE }]);
		for (let i = 0; i < PAGES; i++) writer.rawPage('pc.ram', i * PAGE_SIZE, page, i > 0);
		writer.endOfRecords();
		writer.sectionEnd(section);
		writer.eof();
		void writer.flush();
	};
	const write = pagesPerSecond(PAGES, () => produce(() => undefined));
	const pieces: Uint8Array[] = [];
	produce((chunk) => {
		pieces.push(chunk.slice());
	});
	const stream = Buffer.concat(pieces);
	let seen = 0;
	const read = pagesPerSecond(PAGES, () => {
		const reader = new StreamReader({ dialect: 'qemu-7.2', handler: { rawPage: () => void seen++ } });
		for (let at = 0; at < stream.length; at += CHUNK) reader.push(stream.subarray(at, at + CHUNK));
		reader.end();
	});
	return { write, read };
}
