import { fromHex, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { thrown } from '../../test/streams.js';
import type { DecodedReturn, ReturnPathOptions } from '../index.js';
import { decodeReturn, encodeReturn, ReturnPathReader } from '../index.js';

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const block = fc.constantFrom('pc.ram', '', '\u00ff'.repeat(255));
const any: fc.Arbitrary<DecodedReturn> = fc.oneof(
	fc.tuple(fc.constantFrom(1 as const, 2 as const, 6 as const), u32).map(([type, value]) => ({ type, value })),
	fc.tuple(u64, u32, block).map(([start, length, name]): DecodedReturn => ({ type: 3, start, length, block: name })),
	fc.tuple(u64, u32).map(([start, length]): DecodedReturn => ({ type: 4, start, length })),
	fc.tuple(block, fc.uint8Array({ maxLength: 300 })).map(
		([name, bitmap]): DecodedReturn => ({
			type: 5,
			block: name,
			bitmap,
		}),
	),
	fc.constant<DecodedReturn>({ type: 7 }),
	fc.uint8Array({ maxLength: 300 }).map((message): DecodedReturn => ({ type: 0x4357, message })),
);

const BOTH: ReturnPathOptions = { bitmaps: true, helperMessages: true };

function decoded(data: Uint8Array, size: number, options: ReturnPathOptions = BOTH): unknown[] {
	const out: unknown[] = [];
	const reader = new ReturnPathReader((type, payload, bitmap) => {
		out.push(decodeReturn(type, payload.slice(), bitmap?.slice()));
	}, options);
	const chunk = new Uint8Array(Math.min(size, data.length));
	for (let at = 0; at < data.length; at += size) {
		const part = data.subarray(at, at + size);
		chunk.set(part);
		reader.push(chunk.subarray(0, part.length));
		chunk.fill(0xcc);
	}
	reader.end();
	return out;
}

describe('messages of the return path', () => {
	test.prop([fc.array(any, { maxLength: 8 }), fc.integer({ min: 1, max: 400 })])(
		'are read as they were encoded, in any chunks',
		(messages, size) => {
			const data = Uint8Array.from(messages.flatMap((message) => [...encodeReturn(message)]));
			expect(decoded(data, size)).toEqual(messages);
		},
	);

	it('are those QEMU 7.2 sends in postcopy', () => {
		const requests = [
			encodeReturn({ type: 3, start: 0x100000n, length: 0x1000, block: 'pc.ram' }),
			encodeReturn({ type: 4, start: 0x103000n, length: 0x1000 }),
			encodeReturn({ type: 6, value: 1 }),
		];
		expect(requests.map(toHex)).toEqual([
			'00030013000000000010000000001000' + '0670632e72616d',
			'0004000c000000000010300000001000',
			'0006000400000001',
		]);
		const bitmap = encodeReturn({ type: 5, block: 'a', bitmap: Uint8Array.of(0xff, 0, 0, 0, 0, 0, 0, 1) });
		expect(toHex(bitmap)).toBe('000500020161' + '0000000000000008' + 'ff00000000000001' + '0123456789abcdef');
	});

	it.each<[string, string, string, ReturnPathOptions]>([
		['length', 'a bitmap above the cap', '0005 0002 0161 0000000000000009', { bitmaps: true, bitmapLimit: 8 }],
		['bitmap', 'a bitmap without its mark', '0005 0002 0161 0000000000000000 0123456789abcdee', { bitmaps: true }],
		['truncated', 'a bitmap that is cut', '0005 0002 0161 0000000000000008 00', { bitmaps: true }],
		['type', 'a bitmap that nobody asked for', '0005 0002', {}],
		['type', 'a message of a helper that nobody expects', '4357 0001 00', { bitmaps: true }],
		['length', 'a message of a helper above the cap', '4357 ea61', BOTH],
	])('are refused (%s): %s', (code, _name, hex, options) => {
		expect(thrown(() => decoded(fromHex(hex), 100, options))).toMatchObject({ name: 'ReturnPathError', code });
	});

	it('of another form are not decoded', () => {
		for (const [type, hex] of [
			[0, ''],
			[1, '00'],
			[3, '0000000000000000 00000000'],
			[3, '0000000000000000 00000000 02 61'],
			[4, '00'],
			[5, '0161'],
			[7, '00'],
		] as const) {
			expect(decodeReturn(type, fromHex(hex)), `${type}: ${hex}`).toBeUndefined();
		}
		expect(decodeReturn(0x4357, new Uint8Array(60_001))).toBeUndefined();
		expect(() => encodeReturn({ type: 0x4357, message: new Uint8Array(60_001) })).toThrow('at most 60000 bytes');
		expect(() => encodeReturn({ type: 3, start: 0n, length: 0, block: 'x'.repeat(256) })).toThrow('at most 255 bytes');
	});
});
