import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
	bytes,
	fromHex,
	guidFromBytes,
	guidToBytes,
	layout,
	reserved,
	spa,
	toHex,
	u8,
	u16,
	u32,
	u64,
	u64be,
} from './index.js';

const sample = layout('sample', 32, {
	a: u32(0),
	b: u16(4),
	c: u8(6),
	pad: reserved(7, 1),
	d: u64(8),
	e: bytes(16, 8),
	f: u64be(24),
});

describe('layout', () => {
	it('writes each field at its offset in its byte order', () => {
		const out = sample.encode({
			a: 0x01020304,
			b: 0x0506,
			c: 7,
			d: 0x0102030405060708n,
			e: new Uint8Array(8).fill(9),
			f: 1n,
		});
		expect(toHex(out)).toBe(
			'04030201 0605 07 00 0807060504030201 0909090909090909 0000000000000001'.replaceAll(' ', ''),
		);
	});

	it('refuses overlapping fields and fields past the end', () => {
		expect(() => layout('x', 8, { a: u32(0), b: u32(3) })).toThrow('x.b: overlaps');
		expect(() => layout('x', 8, { a: u64(1) })).toThrow("x.a: ends at 9, after the structure's 8 bytes");
	});

	it('names the field whose value does not fit, and writes nothing', () => {
		const out = new Uint8Array(32).fill(0xee);
		expect(() => sample.encodeInto(out, { a: 1, b: 0x10000 })).toThrow(
			'sample.b: expected an integer from 0 to 65535, got 65536',
		);
		expect(out.every((b) => b === 0xee)).toBe(true);
	});

	it('refuses non-zero reserved bytes and other lengths', () => {
		const out = sample.encode({});
		out[7] = 1;
		expect(() => sample.decode(out)).toThrow('sample.pad: expected zero, got 0x1');
		expect(() => sample.decode(new Uint8Array(33))).toThrow('sample: expected 32 bytes, got 33');
	});

	it('patches only the fields named', () => {
		const out = sample.encode({ a: 1, d: 2n });
		sample.patch(out, { d: 3n });
		expect(sample.decode(out)).toMatchObject({ a: 1, d: 3n });
	});

	test.prop([fc.uint8Array({ minLength: 32, maxLength: 32 })])(
		'decodes and encodes any bytes identically, or says why not',
		(data) => {
			if (data[7] !== 0) expect(() => sample.decode(data)).toThrow('sample.pad');
			else expect(sample.encode(sample.decode(data))).toEqual(data);
		},
	);
});

describe('GUIDs', () => {
	it('stores the first three groups little-endian (kvm-visible bytes of the memory-encryption GUID)', () => {
		expect(toHex(guidToBytes('0cf29b71-9e51-433a-a3b7-81f3ab16b875'))).toBe('719bf20c519e3a43a3b781f3ab16b875');
	});

	test.prop([fc.uint8Array({ minLength: 16, maxLength: 16 })])('survive both conversions', (data) => {
		expect(guidToBytes(guidFromBytes(data))).toEqual(data);
	});

	it('refuse other text', () => {
		expect(() => guidToBytes('not-a-guid')).toThrow('expected 8-4-4-4-12 hex digits');
	});
});

describe('addresses and hex', () => {
	it('holds 52-bit addresses exactly and refuses more', () => {
		expect(spa(2n ** 52n - 1n)).toBe(2 ** 52 - 1);
		expect(() => spa(2n ** 52n)).toThrow('SPA: expected an address of at most 52 bits');
		expect(() => spa(-1)).toThrow(RangeError);
	});

	it('reads hex with white space and refuses half bytes', () => {
		expect(fromHex('00 ff\n10')).toEqual(Uint8Array.of(0, 255, 16));
		expect(() => fromHex('0')).toThrow('pairs of hex digits');
	});
});
