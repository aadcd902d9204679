import type { GuestCpu } from '@cvm/kvm/vcpu';
import { IO_HEADER_OFFSET, MAX_IO_HEADER } from '../../mailbox/abi.js';

/**
 * What the handler does to a page on its way, for the encryption that the first series announced ("MH page encryption POC").
 *
 * UNCERTAIN(edk2-devel, March 2021, patch 14 of 14): cipher, key and header were never readable, so that there is no default but none:
 * pages go as they are, and nobody touches the header. Both functions must depend on nothing but their arguments.
 */
export interface PageTransport {
	/** Turns a page, in place, into what goes into the shared page. Returns the header, at most 1024 bytes. */
	seal(gpa: bigint, page: Uint8Array): Uint8Array;
	/** Turns it back, in place; `false` if it is not authentic: then the page is not placed, and the result is MH_AUTH_ERR. */
	open(gpa: bigint, header: Uint8Array, page: Uint8Array): boolean;
}

/**
 * Stores a header at the mailbox's address in guest memory.
 *
 * @throws RangeError if it is longer than a VMM takes
 */
export function storeHeader(cpu: GuestCpu, mailbox: number, header: Uint8Array): void {
	if (header.length > MAX_IO_HEADER) {
		throw new RangeError(`page header: expected at most ${MAX_IO_HEADER} bytes, got ${header.length}`);
	}
	cpu.store(mailbox + IO_HEADER_OFFSET + 4, header);
	cpu.storeU32(mailbox + IO_HEADER_OFFSET, header.length);
}

/** A copy of the header there, of the length that was read once; `undefined` if that is none. */
export function loadHeader(cpu: GuestCpu, mailbox: number): Uint8Array | undefined {
	const length = cpu.loadU32(mailbox + IO_HEADER_OFFSET);
	if (length > MAX_IO_HEADER) return undefined;
	const header = new Uint8Array(length);
	cpu.load(mailbox + IO_HEADER_OFFSET + 4, header);
	return header;
}
