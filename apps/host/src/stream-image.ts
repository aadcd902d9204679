import { createReadStream } from 'node:fs';
import { PAGE_SIZE } from '@cvm/layout';
import { isStreamError, StreamReader } from '@cvm/qemu-mig';
import { strerror } from './migration/uri.js';
import { UsageError } from './options.js';

/** The RAM of a machine that a real QEMU wrote: block names and sizes, and what each held. */
export interface StreamImage {
	readonly machineType: string;
	readonly blocks: readonly {
		readonly idstr: string;
		readonly size: number;
		/** Writes the block's contents into memory of its size, zeroed before. */
		readonly fill: (memory: Uint8Array) => void;
	}[];
}

/** A file that is there, but is no stream that a launch can take. */
class StreamImageError extends Error {
	override readonly name = 'StreamImageError';
	readonly code = 'stream-image';
}

/** More RAM than this in a capture is refused before anything is allocated for it. */
const LIMIT = 2 ** 31;

/** Reads the RAM of a plain QEMU stream, whatever devices it has. Only pages that are not zero are kept. @throws UsageError, StreamImageError */
export async function readStreamImage(path: string): Promise<StreamImage> {
	const blocks: { idstr: string; size: number; pages: Map<number, Uint8Array> }[] = [];
	let machineType = '';
	const pagesOf = (idstr: string) => blocks.find((b) => b.idstr === idstr)?.pages;
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			configuration: (configuration) => {
				machineType = configuration.machineType;
			},
			blockList: (list, total) => {
				if (total > LIMIT)
					throw new StreamImageError(`-from-stream: '${path}': expected at most ${LIMIT} bytes of RAM, got ${total}`);
				for (const { idstr, usedLength } of list) blocks.push({ idstr, size: usedLength, pages: new Map() });
			},
			rawPage: (block, address, page) => void pagesOf(block)?.set(address, page.slice()),
			zeroPage: (block, address, fill) => {
				if (fill === 0) pagesOf(block)?.delete(address);
				else pagesOf(block)?.set(address, new Uint8Array(PAGE_SIZE).fill(fill));
			},
		},
	});
	try {
		for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) reader.push(chunk as Uint8Array);
		reader.end();
	} catch (error) {
		if (isStreamError(error)) throw new StreamImageError(`-from-stream: '${path}': ${error.message}`);
		if (error instanceof StreamImageError) throw error;
		throw new UsageError(`-from-stream: could not open '${path}': ${strerror(error)}`);
	}
	if (blocks.length === 0) throw new StreamImageError(`-from-stream: '${path}': expected a stream with RAM, got none`);
	return {
		machineType,
		blocks: blocks.map(({ idstr, size, pages }) => ({
			idstr,
			size,
			fill: (memory) => {
				for (const [address, page] of pages) memory.set(page, address);
			},
		})),
	};
}
