import { OwnerError } from '../error.js';

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const FORM = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** Base64 with padding, in one line (RFC 4648 §4). */
export function toBase64(data: Uint8Array): string {
	let text = '';
	for (let i = 0; i < data.length; i += 3) {
		const word = ((data[i] ?? 0) << 16) | ((data[i + 1] ?? 0) << 8) | (data[i + 2] ?? 0);
		const digits = [18, 12, 6, 0].map((shift) => ALPHABET[(word >> shift) & 63] ?? '');
		text += digits.map((digit, at) => (i + at > data.length ? '=' : digit)).join('');
	}
	return text;
}

/** Bytes of a base64 text with padding; white space is allowed anywhere. @throws OwnerError `file` on another form */
export function fromBase64(text: string, what: string): Uint8Array {
	const digits = text.replace(/\s+/g, '');
	if (!FORM.test(digits)) throw new OwnerError('file', `${what}: expected base64, got other characters`);
	const padding = digits.endsWith('==') ? 2 : digits.endsWith('=') ? 1 : 0;
	const out = new Uint8Array((digits.length / 4) * 3 - padding);
	for (let i = 0; i < digits.length; i += 4) {
		let word = 0;
		for (let at = i; at < i + 4; at++) word = (word << 6) | Math.max(0, ALPHABET.indexOf(digits[at] ?? 'A'));
		const from = (i / 4) * 3;
		out.set(Uint8Array.of(word >> 16, word >> 8, word).subarray(0, out.length - from), from);
	}
	return out;
}
