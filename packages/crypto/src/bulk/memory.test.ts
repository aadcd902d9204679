import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { hex, pattern, unhex } from '../testing/hex.js';
import { type BulkMemory, openScriptMemory } from './memory.js';
import { reserveBulk } from './shared.js';
import { openWasmMemory } from './wasm-memory.js';

const SIZE = 8192;
const wasm = openWasmMemory(SIZE);

/** One of the 16-byte places in a quarter of the memory. */
const place = (quarter: number) => fc.integer({ min: 0, max: 63 }).map((n) => quarter * 2048 + n * 16);
const length = fc.integer({ min: 0, max: 64 }).map((n) => n * 16);

/** The bytes after `run`, which begins with a pattern in all of the memory. */
function after(memory: BulkMemory, run: (memory: BulkMemory) => void): string {
	memory.bytes.set(pattern(SIZE));
	run(memory);
	return hex(memory.bytes);
}

/** Every memory there is here, by name. */
const memories: [string, BulkMemory][] = [['JavaScript', openScriptMemory(SIZE)]];
if (wasm !== undefined) memories.push(['WebAssembly', wasm]);

it('has WebAssembly with SIMD in Node', () => {
	expect(wasm).toBeDefined();
});

describe.each(memories)('bulk memory in %s', (_, memory) => {
	test.prop([fc.boolean(), place(0), place(1), place(2), place(3), length])(
		'masks what it is told to, and nothing else',
		(inPlace, from, elsewhere, pad, block, bytes) => {
			const to = inPlace ? from : elsewhere;
			const before = pattern(SIZE);
			const expected = pattern(SIZE);
			for (let i = 0; i < bytes; i++) {
				expected[to + i] = (before[from + i] ?? 0) ^ (before[pad + i] ?? 0) ^ (before[block + (i % 16)] ?? 0);
			}
			expect(after(memory, (m) => m.mask(to, from, pad, block, bytes))).toBe(hex(expected));
		},
	);

	const numbers = fc.oneof(
		fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }),
		// Carries within a few blocks, over each word.
		fc.tuple(fc.constantFrom(32n, 64n, 96n, 128n), fc.bigInt({ min: 1n, max: 80n })).map(([bits, n]) => 2n ** bits - n),
	);
	test.prop([numbers, place(1), fc.integer({ min: 0, max: 80 })])(
		'counts 128 bits up, big-endian',
		(start, at, count) => {
			const bytesOf = (n: bigint) => unhex(BigInt.asUintN(128, n).toString(16).padStart(32, '0'));
			const expected = pattern(SIZE);
			expected.set(bytesOf(start), at);
			for (let i = 0; i < count; i++) expected.set(bytesOf(start + BigInt(i)), at + 16 * i);
			const run = (m: BulkMemory): void => {
				m.bytes.set(bytesOf(start), at);
				m.countUp(at, count);
			};
			expect(after(memory, run)).toBe(hex(expected));
		},
	);
});

describe('without WebAssembly', () => {
	const without = (replacement: unknown): BulkMemory | undefined => {
		const own = Object.getOwnPropertyDescriptor(globalThis, 'WebAssembly');
		Object.defineProperty(globalThis, 'WebAssembly', { value: replacement, configurable: true });
		try {
			return openWasmMemory(SIZE);
		} finally {
			if (own) Object.defineProperty(globalThis, 'WebAssembly', own);
		}
	};
	it.each([
		['there is none', undefined],
		[
			'a policy forbids it',
			{
				Module: () => {
					throw new Error('CSP');
				},
			},
		],
	])('there is no such memory, where %s', (_, replacement) => {
		expect(without(replacement)).toBeUndefined();
	});
});

it('takes no more from the memory of the thread than there is', () => {
	expect(() => reserveBulk(2 ** 21)).toThrow(RangeError);
	expect(() => reserveBulk(-1)).toThrow(RangeError);
	expect(reserveBulk(0) % 64).toBe(0);
});
