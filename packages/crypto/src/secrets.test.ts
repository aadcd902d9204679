import { fc, test } from '@fast-check/vitest';
import { expect, it } from 'vitest';
import { constantTimeEqual, wipe } from './secrets.js';
import { flipped, hex, pattern } from './testing/hex.js';

test.prop([fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ maxLength: 40 })], { numRuns: 100 })(
	'constantTimeEqual is equality of bytes',
	(a, b) => {
		expect(constantTimeEqual(a, b)).toBe(hex(a) === hex(b));
		expect(constantTimeEqual(a, a.slice())).toBe(true);
	},
);

it('constantTimeEqual sees every single bit and every difference in length', () => {
	const mac = pattern(32);
	for (let bit = 0; bit < 256; bit++) expect(constantTimeEqual(mac, flipped(mac, bit))).toBe(false);
	for (let length = 0; length < 32; length++) {
		expect(constantTimeEqual(mac, mac.subarray(0, length))).toBe(false);
		expect(constantTimeEqual(mac.subarray(0, length), mac)).toBe(false);
	}
});

it('wipe clears every buffer it is given, a view without its surroundings', () => {
	const memory = pattern(48).fill(0xff);
	const other = pattern(5);
	wipe(memory.subarray(16, 32), other, new Uint8Array());
	expect(hex(memory)).toBe(`${'ff'.repeat(16)}${'00'.repeat(16)}${'ff'.repeat(16)}`);
	expect(hex(other)).toBe('00'.repeat(5));
});
