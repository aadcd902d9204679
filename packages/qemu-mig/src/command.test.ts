import { fromHex, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { DecodedCommand } from './command.js';
import { decodeCommand, encodeCommand } from './command.js';

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const block = fc.constantFrom('pc.ram', 'x'.repeat(255), '\u00ff');
const range = fc.record({ start: u64, length: u64 });
const any: fc.Arbitrary<DecodedCommand> = fc.oneof(
	fc
		.constantFrom(1 as const, 4 as const, 5 as const, 8 as const, 9 as const, 11 as const, 0x4356 as const)
		.map((command): DecodedCommand => ({ command })),
	u32.map((value): DecodedCommand => ({ command: 2, value })),
	fc.constant<DecodedCommand>({ command: 3 }),
	fc.tuple(u64, u64).map(([pageSizes, targetPageSize]): DecodedCommand => ({ command: 3, pageSizes, targetPageSize })),
	fc
		.tuple(block, fc.array(range, { minLength: 1, maxLength: 12 }))
		.map(([name, ranges]): DecodedCommand => ({ command: 6, block: name, ranges })),
	u32.map((length): DecodedCommand => ({ command: 7, length })),
	block.map((name): DecodedCommand => ({ command: 10, block: name })),
	fc.uint8Array({ maxLength: 300 }).map((message): DecodedCommand => ({ command: 0x4357, message })),
);

describe('commands', () => {
	test.prop([any])('are decoded to what was encoded', (decoded) => {
		expect(decodeCommand(decoded.command, encodeCommand(decoded))).toEqual(decoded);
	});

	test.prop([fc.constantFrom(1, 2, 3, 6, 7, 10, 0x4357), fc.uint8Array({ maxLength: 60 })])(
		'are encoded to what was decoded, if it was of their form',
		(command, data) => {
			const decoded = decodeCommand(command, data);
			if (decoded !== undefined) expect(encodeCommand(decoded)).toEqual(data);
		},
	);

	it('are those QEMU 7.2 sends', () => {
		const discard = `00 06 70632e72616d 00 0000000000008000 0000000000001000 0000000000100000 0000000000100000`;
		const data = fromHex(discard);
		expect(decodeCommand(6, data)).toEqual({
			command: 6,
			block: 'pc.ram',
			ranges: [
				{ start: 0x8000n, length: 0x1000n },
				{ start: 0x100000n, length: 0x100000n },
			],
		});
		expect(toHex(encodeCommand({ command: 10, block: 'pc.ram' }))).toBe('0670632e72616d');
		expect(decodeCommand(3, fromHex('0000000000001000 0000000000001000'))).toEqual({
			command: 3,
			pageSizes: 0x1000n,
			targetPageSize: 0x1000n,
		});
	});

	it('of another form are not decoded', () => {
		for (const [command, length] of [
			[0, 0],
			[1, 1],
			[2, 3],
			[3, 8],
			[7, 5],
			[10, 1],
			[12, 0],
			[0x4357, 60_001],
		] as const) {
			expect(decodeCommand(command, new Uint8Array(length)), `${command} of ${length}`).toBeUndefined();
		}
		const long = { command: 0x4357, message: new Uint8Array(60_001) } as const;
		expect(() => encodeCommand(long)).toThrow('helper message: expected at most 60000 bytes');
		expect(() => encodeCommand({ command: 10, block: 'x'.repeat(256) })).toThrow('name: expected at most 255 bytes');
		const ranges = Array.from({ length: 4096 }, () => ({ start: 0n, length: 0n }));
		expect(() => encodeCommand({ command: 6, block: 'a', ranges })).toThrow('discard: expected at most 65535 bytes');
	});
});
