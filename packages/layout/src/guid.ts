import { LayoutError } from './error.js';

const FORM = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
/** Where byte i of the text form goes: the first three groups are little-endian, the rest in order (UEFI, Appendix A). */
const ORDER = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/** The 16 bytes of a GUID as EFI stores it. @throws LayoutError if the text is not `8-4-4-4-12` hex digits */
export function guidToBytes(text: string): Uint8Array {
	if (!FORM.test(text)) throw new LayoutError('range', 'GUID', '8-4-4-4-12 hex digits', JSON.stringify(text));
	const digits = text.replaceAll('-', '');
	const out = new Uint8Array(16);
	ORDER.forEach((to, from) => {
		out[to] = Number.parseInt(digits.slice(2 * from, 2 * from + 2), 16);
	});
	return out;
}

/** The lower-case text form of 16 bytes as EFI stores them. @throws LayoutError if there are not 16 */
export function guidFromBytes(data: Uint8Array): string {
	if (data.length !== 16) throw new LayoutError('length', 'GUID', '16 bytes', `${data.length}`);
	const digits = ORDER.map((at) => (data[at] ?? 0).toString(16).padStart(2, '0')).join('');
	return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
