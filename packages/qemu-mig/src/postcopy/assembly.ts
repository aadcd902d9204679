import { PAGE_SIZE } from '@cvm/layout';
import { StreamError } from '../error.js';
import type { Place } from '../events.js';
import type { RamBlock } from '../ports.js';
import { hostPageSize } from './host-page.js';

/** A host page of which every part arrived; without bytes it is zero. */
export interface WholeHostPage {
	readonly address: number;
	/** Valid until the next call. */
	readonly bytes: Uint8Array | undefined;
}

/** Gathers the pages of a host page, which come one after the other. QEMU 7.2 migration/ram.c `ram_load_postcopy`. */
export class HostPageAssembly {
	readonly #sizes: readonly number[];
	readonly #buffer: Uint8Array;
	#block = -1;
	#address = 0;
	#pages = 0;
	#zero = true;

	constructor(blocks: readonly RamBlock[]) {
		this.#sizes = blocks.map(hostPageSize);
		this.#buffer = new Uint8Array(Math.max(PAGE_SIZE, ...this.#sizes));
	}

	/** @param bytes undefined: zeros. @returns the host page if this was its last part. @throws StreamError if it belongs to another */
	add(block: number, address: number, bytes: Uint8Array | undefined, at: Place): WholeHostPage | undefined {
		const size = this.#sizes[block] ?? PAGE_SIZE;
		if (size === PAGE_SIZE && this.#pages === 0) return { address, bytes };
		const inside = address % size;
		if (this.#pages === 0) {
			this.#block = block;
			this.#address = address - inside;
			this.#zero = true;
		} else if (block !== this.#block || address - inside !== this.#address) {
			const [expected, got] = [this.#address, address - inside].map((value) => `0x${value.toString(16)}`);
			const message = `postcopy: expected the rest of host page ${expected}, got a page of ${got}`;
			// QEMU's text names pointers.
			throw new StreamError({ code: 'record', message }, at);
		}
		if (bytes === undefined) this.#buffer.fill(0, inside, inside + PAGE_SIZE);
		else {
			this.#buffer.set(bytes, inside);
			this.#zero = false;
		}
		if (++this.#pages < size / PAGE_SIZE) return undefined;
		this.#pages = 0;
		return { address: this.#address, bytes: this.#zero ? undefined : this.#buffer.subarray(0, size) };
	}

	reset(): void {
		this.#pages = 0;
	}
}
