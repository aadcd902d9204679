import { PAGE_SIZE } from '@cvm/layout';
import type { RamBlock } from '../ports.js';
import type { PrecopyStatistics } from '../precopy/statistics.js';

/** Pages that the target's guest waits for, in the order they were asked for. QEMU 7.2 migration/ram.c `ram_save_queue_pages`. */
export class RequestQueue {
	readonly #blocks: readonly RamBlock[];
	readonly #statistics: PrecopyStatistics;
	#waiting: { readonly block: number; readonly page: number }[] = [];
	/** Of the last request that named one. */
	#block = -1;
	#arrived: () => void = () => {};

	constructor(blocks: readonly RamBlock[], statistics: PrecopyStatistics) {
		this.#blocks = blocks;
		this.#statistics = statistics;
	}

	get empty(): boolean {
		return this.#waiting.length === 0;
	}

	/** Queues bytes of a block, by default the one before. @returns what is wrong with the request, in QEMU's words */
	add(name: string | undefined, start: bigint, length: number): string | undefined {
		this.#statistics.postcopyRequests++;
		const index = name === undefined ? this.#block : this.#blocks.findIndex(({ idstr }) => idstr === name);
		const block = this.#blocks[index];
		if (block === undefined) {
			return name === undefined ? 'ram_save_queue_pages no previous block' : `ram_save_queue_pages no block '${name}'`;
		}
		this.#block = index;
		if (start % BigInt(PAGE_SIZE) !== 0n || length % PAGE_SIZE !== 0) {
			return `Misaligned page request, start: ${start.toString(16)} len: ${length}`;
		}
		if (start + BigInt(length) > BigInt(block.usedLength)) {
			const [from, size, used] = [start, length, block.usedLength].map((value) => value.toString(16));
			return `ram_save_queue_pages request overrun start=${from} len=${size} blocklen=${used}`;
		}
		const first = Number(start) / PAGE_SIZE;
		for (let i = 0; i < length / PAGE_SIZE; i++) this.#waiting.push({ block: index, page: first + i });
		this.#arrived();
		return undefined;
	}

	take(): { readonly block: number; readonly page: number } | undefined {
		return this.#waiting.shift();
	}

	/** The target repeats on another connection what it still waits for. */
	clear(): void {
		this.#waiting = [];
		this.#block = -1;
	}

	/** Resolves with the next request. */
	arrival(): Promise<void> {
		return new Promise((resolve) => {
			this.#arrived = resolve;
		});
	}
}
