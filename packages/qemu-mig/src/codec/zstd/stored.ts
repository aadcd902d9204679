import { PAGE_SIZE } from '@cvm/layout';
import { joined } from '../deflate-stream.js';

/** Magic, no flags, a window of 128 KiB. RFC 8878 §3.1.1.1. */
const FRAME_HEADER = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38);

/** The three bytes before a block. RFC 8878 §3.1.1.2. */
const blockHeader = (size: number, type: 'raw' | 'run', last = false): Uint8Array => {
	const value = (size << 3) | (type === 'run' ? 2 : 0) | (last ? 1 : 0);
	return Uint8Array.of(value & 0xff, (value >> 8) & 0xff, value >> 16);
};

const isRun = (data: Uint8Array): boolean => {
	const first = data[0];
	for (let i = 1; i < data.length; i++) if (data[i] !== first) return false;
	return true;
};

/**
 * Writes a Zstandard frame that any decoder reads, without compressing: pages of one repeated byte become runs of 4 bytes,
 * others are stored. It is there so that streams can be converted to a form whose receiver insists on zstd.
 */
export class ZstdStoredEncoder {
	#begun = false;

	/** The bytes for `data`, complete in themselves: a decoder has all of `data` when it has read them. */
	encode(data: Uint8Array): Uint8Array {
		const pieces: Uint8Array[] = this.#begun ? [] : [FRAME_HEADER];
		this.#begun = true;
		for (let at = 0; at < data.length; at += PAGE_SIZE) {
			const piece = data.subarray(at, at + PAGE_SIZE);
			const run = isRun(piece);
			pieces.push(blockHeader(piece.length, run ? 'run' : 'raw'), run ? piece.subarray(0, 1) : piece);
		}
		return joined(pieces);
	}

	/** The bytes that end the frame. A multifd channel is never ended. */
	end(): Uint8Array {
		const head = this.#begun ? [] : [FRAME_HEADER];
		this.#begun = true;
		return joined([...head, blockHeader(0, 'raw', true)]);
	}
}
