import { PAGE_SIZE } from '@cvm/layout';
import { commandBlock } from '../mailbox/abi.js';

/** The mailbox as a VMM reaches it: shared memory, in which the guest writes at any time. Offsets are from the command block on. */
export interface MailboxMemory {
	/** A u32 at a multiple of 4; what the guest stored before it is seen as well (acquire). */
	load(offset: number): number;
	/** A u32 at a multiple of 4; the guest that sees it sees what was stored before (release). */
	store(offset: number, value: number): void;
	/** Copies out. @throws RangeError for what is not mapped */
	read(offset: number, out: Uint8Array): void;
	/** Copies in. @throws RangeError for what is not mapped */
	write(offset: number, data: Uint8Array): void;
	/** Lets the other side run: waits for at most so many milliseconds. */
	pause(ms: number): void;
}

/** Command block, header and body: two pages. */
const MAPPED = 2 * PAGE_SIZE;

/**
 * A mailbox in a mapping of guest RAM.
 *
 * @param mapping from the mailbox page on, at least two pages, at an address that is a multiple of 4; `pause` sleeps only if it is shared
 * @throws RangeError if it is too small or not aligned
 */
export function mailboxMemory(mapping: Uint8Array): MailboxMemory {
	if (mapping.length < MAPPED || mapping.byteOffset % 4 !== 0) {
		throw new RangeError(`mailbox: expected ${MAPPED} bytes at a multiple of 4, got ${mapping.length}`);
	}
	const words = new Int32Array(mapping.buffer, mapping.byteOffset, MAPPED / 4);
	const check = (offset: number, length: number): void => {
		if (offset + length > mapping.length) {
			throw new RangeError(`mailbox: expected an access in ${mapping.length} bytes, got one to ${offset + length}`);
		}
	};
	const isShared = typeof SharedArrayBuffer !== 'undefined' && mapping.buffer instanceof SharedArrayBuffer;
	const done = commandBlock.offsetOf('done') / 4;
	return {
		load: (offset) => Atomics.load(words, offset / 4) >>> 0,
		store: (offset, value) => {
			Atomics.store(words, offset / 4, value);
		},
		read: (offset, out) => {
			check(offset, out.length);
			out.set(mapping.subarray(offset, offset + out.length));
		},
		write: (offset, data) => {
			check(offset, data.length);
			mapping.set(data, offset);
		},
		// Nobody wakes it: a guest's store does not. It is a sleep that a thread of this process can share a processor with.
		pause: (ms) => {
			if (isShared) Atomics.wait(words, done, 0, ms);
		},
	};
}
