import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { isStreamError, StreamReader } from '@cvm/qemu-mig';
import { DemoFailure } from '../exit.js';

/** One RAM block of a stream, whole. */
export interface CapturedBlock {
	readonly idstr: string;
	readonly memory: Uint8Array;
}

const LIMIT = 2 ** 31;

export const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

/**
 * Reads the RAM of a plain stream, block by block in the stream's order. Kept apart from what a host does with such a file,
 * so that a proof does not rest on the code that it proves.
 */
export async function readCapture(path: string): Promise<CapturedBlock[]> {
	const blocks: { idstr: string; memory: Uint8Array }[] = [];
	const at = (block: string, address: number) =>
		blocks.find((b) => b.idstr === block)?.memory.subarray(address, address + 4096);
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			blockList: (list, total) => {
				if (total > LIMIT) throw new DemoFailure(`'${path}': expected at most ${LIMIT} bytes of RAM, got ${total}`);
				for (const { idstr, usedLength } of list) blocks.push({ idstr, memory: new Uint8Array(usedLength) });
			},
			rawPage: (block, address, page) => at(block, address)?.set(page),
			zeroPage: (block, address, fill) => void at(block, address)?.fill(fill),
		},
	});
	try {
		for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) reader.push(chunk as Uint8Array);
		reader.end();
	} catch (error) {
		if (isStreamError(error)) throw new DemoFailure(`'${path}': ${error.message}`);
		if (error instanceof DemoFailure) throw error;
		throw new DemoFailure(`could not read '${path}': ${(error as Error).message}`);
	}
	if (blocks.length === 0) throw new DemoFailure(`'${path}': expected a stream with RAM, got none`);
	return blocks;
}
