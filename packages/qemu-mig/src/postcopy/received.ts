import { PAGE_SIZE } from '@cvm/layout';
import type { RamBlock } from '../ports.js';

/** Which pages of each block arrived: bit i of byte i>>3, as RECV_BITMAP has it. QEMU 7.2 `RAMBlock.receivedmap`. */
export class ReceivedPages {
	readonly #bitmaps: readonly Uint8Array[];

	constructor(blocks: readonly RamBlock[]) {
		this.#bitmaps = blocks.map(({ usedLength }) => new Uint8Array(Math.ceil(usedLength / PAGE_SIZE / 64) * 8));
	}

	has(block: number, page: number): boolean {
		return ((this.#bitmaps[block]?.[page >>> 3] ?? 0) & (1 << (page & 7))) !== 0;
	}

	/** Bytes, all of them whole pages. */
	set(block: number, address: number, length: number): void {
		this.#change(block, address, length, true);
	}

	clear(block: number, address: number, length: number): void {
		this.#change(block, address, length, false);
	}

	/** The live bitmap. */
	bitmap(block: number): Uint8Array {
		return this.#bitmaps[block] ?? new Uint8Array(0);
	}

	#change(block: number, address: number, length: number, received: boolean): void {
		const bitmap = this.bitmap(block);
		const end = (address + length) / PAGE_SIZE;
		for (let page = address / PAGE_SIZE; page < end; page++) {
			const byte = bitmap[page >>> 3] ?? 0;
			bitmap[page >>> 3] = received ? byte | (1 << (page & 7)) : byte & ~(1 << (page & 7));
		}
	}
}
