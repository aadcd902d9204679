import { describe, expect, it } from 'vitest';
import { kdf } from './kdf.js';
import { nobleProvider } from './noble/provider.js';
import { codeOf } from './testing/framework.js';
import { ascii, hex, pattern } from './testing/hex.js';

const KEY = pattern(32);
const CONTEXT = pattern(16);

describe('kdf', () => {
	it('chains blocks whose counter and length are little-endian', () => {
		const block = (i: number) =>
			nobleProvider.hmacSha256(
				KEY,
				Uint8Array.of(i, 0, 0, 0),
				ascii('label'),
				Uint8Array.of(0),
				CONTEXT,
				Uint8Array.of(0x20, 2, 0, 0),
			);
		const expected = hex(new Uint8Array([...block(1), ...block(2), ...block(3)])).slice(0, 2 * 68);
		expect(hex(kdf(nobleProvider, KEY, 'label', CONTEXT, 0x220))).toBe(expected);
	});

	it('gives as many bytes as asked, and other ones for another length, label, context or key', () => {
		const outputs = [
			kdf(nobleProvider, KEY, 'label', CONTEXT, 128),
			kdf(nobleProvider, KEY, 'label', CONTEXT, 256),
			kdf(nobleProvider, KEY, 'labem', CONTEXT, 128),
			kdf(nobleProvider, KEY, '', CONTEXT, 128),
			kdf(nobleProvider, KEY, 'label', new Uint8Array(), 128),
			kdf(nobleProvider, CONTEXT, 'label', CONTEXT, 128),
		];
		expect(outputs.map((output) => output.length)).toEqual([16, 32, 16, 16, 16, 16]);
		expect(new Set(outputs.map((output) => hex(output.subarray(0, 16)))).size).toBe(outputs.length);
	});

	it('refuses a length that is no positive multiple of 8 bits below 2^32', () => {
		for (const bits of [0, -8, 1, 127, 8.5, Number.NaN, 2 ** 32, Number.POSITIVE_INFINITY]) {
			expect(codeOf(() => kdf(nobleProvider, KEY, 'label', CONTEXT, bits))).toBe('length');
		}
	});

	it('refuses a label that is not ASCII or holds a terminator', () => {
		for (const label of ['sev-kek\0', 'clé', '鍵', '\u{1f511}']) {
			expect(codeOf(() => kdf(nobleProvider, KEY, label, CONTEXT, 128))).toBe('text');
		}
	});
});
