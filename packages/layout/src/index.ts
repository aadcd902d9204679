/**
 * Byte-exact C structures and branded addresses: the bottom layer, which knows no protocol.
 *
 * ```ts
 * const guestStatus = layout('sev_data_guest_status', 13, { handle: u32(0), policy: u32(4), asid: u32(8), state: u8(12) });
 * guestStatus.encode({ handle: 1 });
 * ```
 *
 * @packageDocumentation
 */
export type { Asid, Gfn, Gpa, Hva, Spa } from './address.js';
export {
	asid,
	gfn,
	gfnToGpa,
	gpa,
	gpaToGfn,
	hva,
	isAligned,
	PAGE_SHIFT,
	PAGE_SIZE,
	pagesIn,
	spa,
} from './address.js';
export { LayoutError } from './error.js';
export type { Field } from './field.js';
export { bytes, ignored, reserved, u8, u16, u16be, u32, u32be, u64, u64be } from './field.js';
export { guidFromBytes, guidToBytes } from './guid.js';
export { fromHex, toHex } from './hex.js';
export type { Infer, Layout } from './layout.js';
export { layout } from './layout.js';
