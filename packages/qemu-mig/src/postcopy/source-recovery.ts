import { PAGE_SIZE } from '@cvm/layout';
import { ReturnMessage } from '../abi/return-path.js';
import { Command } from '../abi/stream.js';
import { encodeCommand } from '../command.js';
import type { DecodedReturn } from '../handover/return-message.js';
import type { RamBlock } from '../ports.js';
import type { DirtyPages } from '../precopy/dirty-pages.js';
import { PrecopyError } from '../precopy/failure.js';
import type { Output } from '../precopy/output.js';

/** What RESUME_ACK must say. QEMU 7.2 migration/migration.h `MIGRATION_RESUME_ACK_VALUE`. */
const RESUME_VALUE = 1;

/**
 * The beginning of a new connection after postcopy paused: asks which pages arrived, and agrees to go on. QEMU 7.2
 * migration/migration.c `postcopy_do_resume`, migration/ram.c `ram_dirty_bitmap_reload`.
 */
export class SourceRecovery {
	readonly #blocks: readonly RamBlock[];
	readonly #dirty: DirtyPages;
	readonly #output: Output;
	readonly #missing: Set<string>;
	#acknowledged = false;
	#changed: () => void = () => {};

	constructor(blocks: readonly RamBlock[], dirty: DirtyPages, output: Output) {
		this.#blocks = blocks;
		this.#dirty = dirty;
		this.#output = output;
		this.#missing = new Set(blocks.map(({ idstr }) => idstr));
	}

	async run(): Promise<void> {
		const { writer } = this.#output;
		for (const { idstr } of this.#blocks) {
			writer.command(Command.recvBitmap, encodeCommand({ command: Command.recvBitmap, block: idstr }));
		}
		await this.#output.flush();
		await this.#until(() => this.#missing.size === 0);
		writer.command(Command.postcopyResume, new Uint8Array(0));
		await this.#output.flush();
		await this.#until(() => this.#acknowledged);
	}

	/** @returns what is wrong with it; `isGone` tells of pages that were given back */
	message(message: DecodedReturn, isGone: (block: number, page: number) => boolean): string | undefined {
		switch (message.type) {
			case ReturnMessage.recvBitmap: {
				const fault = this.#reload(message.block, message.bitmap, isGone);
				if (fault === undefined) this.#changed();
				return fault;
			}
			case ReturnMessage.resumeAck:
				if (message.value !== RESUME_VALUE) return `RESUME_ACK: expected ${RESUME_VALUE}, got ${message.value}`;
				this.#acknowledged = true;
				this.#changed();
				return undefined;
			default:
				return `message type ${message.type}`;
		}
	}

	/** What the target lacks is dirty, what it has is clean. */
	#reload(name: string, bitmap: Uint8Array, isGone: (block: number, page: number) => boolean): string | undefined {
		const index = this.#blocks.findIndex(({ idstr }) => idstr === name);
		const block = this.#blocks[index];
		if (block === undefined || !this.#missing.has(name))
			return `RECV_BITMAP: expected a block asked for, got '${name}'`;
		const pages = block.usedLength / PAGE_SIZE;
		const size = Math.ceil(pages / 64) * 8;
		if (bitmap.length !== size) return `ramblock '${name}' bitmap size mismatch (${bitmap.length} != ${size})`;
		for (let page = 0; page < pages; page++) {
			const received = ((bitmap[page >>> 3] ?? 0) & (1 << (page & 7))) !== 0;
			if (!received && isGone(index, page)) this.#lost(name, page);
			this.#dirty.mark(index, page, !received);
		}
		this.#missing.delete(name);
		return undefined;
	}

	#lost(name: string, page: number): void {
		const where = `page 0x${(page * PAGE_SIZE).toString(16)} of '${name}'`;
		const message = `release-ram: expected the target to have every page given back here, got one without ${where}`;
		this.#output.waiter.interrupt(new PrecopyError('target', message));
	}

	async #until(condition: () => boolean): Promise<void> {
		while (!condition()) {
			await this.#output.wait(
				new Promise<void>((resolve) => {
					this.#changed = resolve;
				}),
			);
		}
	}
}
