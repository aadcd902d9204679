import { LayoutError } from './error.js';

/** Lower-case hex of some bytes. */
export const toHex = (data: Uint8Array): string => Array.from(data, (b) => b.toString(16).padStart(2, '0')).join('');

/** Bytes of a hex text; white space is allowed anywhere. @throws LayoutError on another character or an odd count */
export function fromHex(text: string): Uint8Array {
	const digits = text.replace(/\s+/g, '');
	if (digits.length % 2 !== 0 || /[^0-9a-f]/i.test(digits)) {
		throw new LayoutError('range', 'hex', 'pairs of hex digits', `${digits.length} characters`);
	}
	return Uint8Array.from({ length: digits.length / 2 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}
