import { fc, it as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { isCodecError } from './error.js';
import { decodeXbzrle, encodeXbzrle, XBZRLE_OVERFLOW, XbzrleCache } from './xbzrle.js';

const zero = new Uint8Array(4096);
/** Every n-th byte set. */
const every = (n: number, value: number): Uint8Array =>
	Uint8Array.from({ length: 4096 }, (_, i) => (i % n ? 0 : value));
const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');
function encode(old: Uint8Array, page: Uint8Array, limit = 4096): Uint8Array | 'overflow' {
	const out = new Uint8Array(limit);
	const length = encodeXbzrle(old, page, out);
	return length === XBZRLE_OVERFLOW ? 'overflow' : out.slice(0, length);
}
/** Changes to an empty page: places and bytes. */
const edits = fc.array(fc.tuple(fc.nat(4095), fc.nat(255), fc.nat(60)), { maxLength: 40 });
const edited = (changes: readonly (readonly [number, number, number])[], from: Uint8Array = zero): Uint8Array => {
	const page = from.slice();
	for (const [at, value, length] of changes) page.fill(value, at, at + length);
	return page;
};
function codeOf(data: Uint8Array, page = new Uint8Array(4096)): unknown {
	try {
		decodeXbzrle(data, page);
		return 'ok';
	} catch (error) {
		return isCodecError(error) ? error.code : error;
	}
}

describe('encodeXbzrle', () => {
	const ones = (count: number) => edited([[0, 1, count]]);
	it.each([
		['nothing', zero, ''],
		['byte 0', edited([[0, 1, 1]]), '000101'],
		['byte 127', edited([[127, 1, 1]]), '7f0101'],
		['byte 128', edited([[128, 1, 1]]), '80010101'],
		['byte 4095', edited([[4095, 0xff, 1]]), 'ff1f01ff'],
		[
			'bytes 5 and 7',
			edited([
				[5, 1, 1],
				[7, 2, 1],
			]),
			'050101010102',
		],
		['bytes 100 to 299', edited([[100, 0xaa, 200]]), `64c801${'aa'.repeat(200)}`],
		['every fourth byte', every(4, 7), `000107${'030107'.repeat(1023)}`],
		['all but six', ones(4090), `00fa1f${'01'.repeat(4090)}`],
	])('writes what QEMU writes for: %s', (_, page, expected) => {
		const encoded = encode(zero, page);
		expect(encoded).not.toBe('overflow');
		expect(hex(encoded as Uint8Array)).toBe(expected);
	});

	it.each([
		['all but three', ones(4093)],
		['everything', ones(4096)],
		['every second byte', every(2, 1)],
		['every third byte', every(3, 1)],
	])('overflows as QEMU does for: %s', (_, page) => expect(encode(zero, page)).toBe('overflow'));

	it('leaves the bytes behind its output alone', () => {
		const out = new Uint8Array(4096).fill(0xee);
		expect(encodeXbzrle(zero, edited([[0, 1, 1]]), out)).toBe(3);
		expect(out.subarray(3).every((byte) => byte === 0xee)).toBe(true);
	});

	it('overflows below the length that fits, but for the check of the next pair', () => {
		const page = edited([
			[5, 1, 1],
			[7, 2, 1],
		]);
		expect(hex(encode(zero, page, 8) as Uint8Array)).toBe('050101010102');
		expect(encode(zero, page, 7)).toBe('overflow');
	});

	it('refuses pages of two sizes', () => {
		expect(() => encodeXbzrle(zero, new Uint8Array(4095), new Uint8Array(4096))).toThrow(/one size, got 4096 and 4095/);
	});

	property.prop([edits, edits], { numRuns: 300 })('is undone by decodeXbzrle', (before, after) => {
		const [old, page] = [edited(before), edited(after, edited(before))];
		const encoded = encode(old, page);
		if (encoded === 'overflow') return;
		const target = old.slice();
		decodeXbzrle(encoded, target);
		expect(Buffer.compare(target, page)).toBe(0);
	});
});

describe('decodeXbzrle', () => {
	it('applies the record of a real stream', () => {
		const page = new Uint8Array(4096).fill(9);
		decodeXbzrle(Uint8Array.of(0x00, 0x02, 0x58, 0x3a), page);
		expect([...page.subarray(0, 3)]).toEqual([0x58, 0x3a, 9]);
	});

	it.each([
		['a lone byte', [0x00], 'truncated', 0],
		['no changed run', [0x05, 0x80], 'truncated', 1],
		['a changed run cut short', [0x00, 0x03, 1, 2], 'truncated', 2],
		['a third length byte', [0x80, 0x80, 0x01, 1], 'malformed', 1],
		['an empty changed run', [0x05, 0x00, 1], 'malformed', 1],
		['a later equal run of 0', [0x00, 0x01, 7, 0x00, 0x01, 8], 'malformed', 3],
		['a later equal run of 0 in two bytes', [0x00, 0x01, 7, 0x80, 0x00, 0x01, 8], 'malformed', 3],
		['an equal run beyond the page', [0x81, 0x20, 0x01, 1], 'too-long', 0],
		['a changed run beyond the page', [0xff, 0x1f, 0x02, 1, 2], 'too-long', 2],
	])('refuses %s and leaves the page alone', (_, data, code, offset) => {
		const page = new Uint8Array(4096);
		expect(() => decodeXbzrle(Uint8Array.from(data), page)).toThrow(
			expect.objectContaining({ code, offset, qemu: ['Failed to load XBZRLE page - decode error!'] }),
		);
		expect(page).toEqual(zero);
	});

	it('accepts an equal run of 0 first, also in two bytes, and nothing at all', () => {
		expect(codeOf(Uint8Array.of(0x80, 0x00, 0x01, 1))).toBe('ok');
		expect(codeOf(new Uint8Array(0))).toBe('ok');
	});

	it('names every truncation', () => {
		const whole = encode(
			zero,
			edited([
				[0, 1, 3],
				[200, 2, 130],
				[4000, 3, 96],
			]),
		) as Uint8Array;
		const ends = new Set([0, 5, 5 + 4 + 130, whole.length]);
		for (let length = 0; length <= whole.length; length++) {
			expect(codeOf(whole.subarray(0, length))).toBe(ends.has(length) ? 'ok' : 'truncated');
		}
	});

	property.prop([fc.uint8Array({ maxLength: 200 })], { numRuns: 500 })('ends typed on any bytes', (data) => {
		expect(['ok', 'truncated', 'malformed', 'too-long']).toContain(codeOf(data));
	});
});

describe('XbzrleCache', () => {
	const page = (value: number) => new Uint8Array(4096).fill(value);

	it('takes powers of two of at least a page', () => {
		expect(new XbzrleCache(4096).pages).toBe(1);
		expect(new XbzrleCache(64 * 1024 * 1024).pages).toBe(16384);
		for (const size of [0, 2048, 3 * 4096, -4096, Number.NaN, 4097]) {
			expect(() => new XbzrleCache(size)).toThrow(expect.objectContaining({ code: 'argument' }));
		}
	});

	it('replaces another address only when two passes have gone by since its use', () => {
		const cache = new XbzrleCache(2 * 4096);
		expect(cache.insert(0x1000, page(1), 5)).toBeDefined();
		expect(cache.insert(0x3000, page(2), 6)).toBeUndefined();
		expect(cache.lookup(0x3000, 6)).toBeUndefined();
		expect(cache.insert(0x0000, page(3), 6)).toBeDefined();
		expect(cache.insert(0x3000, page(2), 7)).toBeDefined();
		expect(cache.lookup(0x1000, 7)).toBeUndefined();
	});

	it('counts a hit as use', () => {
		const cache = new XbzrleCache(4096);
		cache.insert(0, page(1), 1);
		cache.lookup(0, 2);
		expect(cache.insert(0x1000, page(2), 3)).toBeUndefined();
		expect(cache.insert(0x1000, page(2), 4)).toBeDefined();
	});

	it('replaces the same address at any age', () => {
		const cache = new XbzrleCache(4096);
		cache.insert(0, page(1), 1);
		cache.insert(0, page(2), 1);
		expect(cache.lookup(0, 1)).toEqual(page(2));
	});

	it('sends raw, then nothing, then the difference', () => {
		const [cache, out] = [new XbzrleCache(4096), new Uint8Array(4096)];
		expect(cache.send(0, page(1), 1, false, out)).toEqual({ kind: 'raw', overflow: false, data: page(1) });
		expect(cache.send(0, page(1), 2, false, out)).toEqual({ kind: 'unchanged' });
		const changed = page(1);
		changed[9] = 7;
		expect(cache.send(0, changed, 2, false, out)).toEqual({ kind: 'encoded', length: 3 });
		expect(hex(out.subarray(0, 3))).toBe('090107');
		expect(cache.send(0, changed, 3, false, out)).toEqual({ kind: 'unchanged' });
	});

	it('sends an overflow raw and remembers it', () => {
		const [cache, out] = [new XbzrleCache(4096), new Uint8Array(4096)];
		cache.send(0, page(1), 1, false, out);
		expect(cache.send(0, page(2), 2, false, out)).toEqual({ kind: 'raw', overflow: true, data: page(2) });
		expect(cache.send(0, page(2), 2, false, out)).toEqual({ kind: 'unchanged' });
	});

	it('keeps nothing in the last stage', () => {
		const [cache, out] = [new XbzrleCache(4096), new Uint8Array(4096)];
		cache.send(0, page(1), 1, true, out);
		expect(cache.lookup(0, 1)).toBeUndefined();
		cache.insert(0, page(1), 1);
		expect(cache.send(0, page(2), 1, true, out)).toMatchObject({ kind: 'raw', overflow: true });
		expect(cache.lookup(0, 1)).toEqual(page(1));
	});

	it('sends a copy that the guest cannot change', () => {
		const [cache, out, live] = [new XbzrleCache(4096), new Uint8Array(4096), page(1)];
		const first = cache.send(0, live, 1, false, out);
		live.fill(2);
		expect(first).toEqual({ kind: 'raw', overflow: false, data: page(1) });
	});
});
