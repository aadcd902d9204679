import { PAGE_SIZE } from '@cvm/layout';
import { MAX_IO_HEADER } from './abi.js';

/** `RAM_SAVE_FLAG_GUEST_ENCRYPTED_PAGE` of March, `RAM_SAVE_FLAG_ENCRYPTED_DATA` of August 2021: one number, two layouts. */
const RAM_SAVE_FLAG_ENCRYPTED = 0x200;
/** The page is of the block of the record before: no name follows. */
const RAM_SAVE_FLAG_CONTINUE = 0x20;
/** RAM_SAVE_GUEST_MH_ENCRYPTED_PAGE, the subtype of August 2021. */
const MH_ENCRYPTED_PAGE = 4;

/** A page as the helper gave it to the host. */
export interface HelperPageRecord {
	/** Of the page in its RAM block, a multiple of 4096. */
	readonly offset: number;
	/** Name of the block, at most 255 characters of ASCII; without one the record says that the block is the one before. */
	readonly block?: string;
	/** Opaque, at most 1024 bytes. */
	readonly header: Uint8Array;
	/** 4096 bytes. */
	readonly body: Uint8Array;
}

/**
 * The bytes of one page in the `ram` section, all prefixes big-endian: u64 offset with flags, block name, u32 subtype (August only),
 * u32 header length, header, u32 4096, body (QEMU patch 12/26 of March, patches 1/12 and 4/12 of August 2021).
 *
 * @param version `v1`: March 2021. `v2`: August 2021.
 * @throws RangeError for an offset, name, header or body of another size
 */
export function helperPageBytes(
	version: 'v1' | 'v2',
	{ offset, block, header, body }: HelperPageRecord,
): Uint8Array<ArrayBuffer> {
	if (!Number.isSafeInteger(offset) || offset < 0 || offset % PAGE_SIZE !== 0) {
		throw new RangeError(`offset: expected a multiple of ${PAGE_SIZE}, got ${offset}`);
	}
	if (block !== undefined && !/^[\x21-\x7e]{1,255}$/.test(block)) {
		throw new RangeError(`block: expected 1 to 255 characters of ASCII, got ${block.length}`);
	}
	if (header.length > MAX_IO_HEADER) throw new RangeError(`header: expected at most 1024 bytes, got ${header.length}`);
	if (body.length !== PAGE_SIZE) throw new RangeError(`body: expected ${PAGE_SIZE} bytes, got ${body.length}`);
	const name = block === undefined ? [] : [block.length, ...Array.from(block, (c) => c.charCodeAt(0))];
	const subtype = version === 'v1' ? 0 : 4;
	const out = new Uint8Array(8 + name.length + subtype + 8 + header.length + PAGE_SIZE);
	const view = new DataView(out.buffer);
	const flags = RAM_SAVE_FLAG_ENCRYPTED | (block === undefined ? RAM_SAVE_FLAG_CONTINUE : 0);
	view.setBigUint64(0, BigInt(offset) | BigInt(flags));
	out.set(name, 8);
	let at = 8 + name.length;
	if (version === 'v2') view.setUint32(at, MH_ENCRYPTED_PAGE);
	at += subtype;
	view.setUint32(at, header.length);
	out.set(header, at + 4);
	view.setUint32(at + 4 + header.length, PAGE_SIZE);
	out.set(body, at + 8 + header.length);
	return out;
}
