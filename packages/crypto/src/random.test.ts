import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { nodeProvider } from './node/index.js';
import { seededRandom, systemRandom } from './random.js';
import { codeOf } from './testing/framework.js';
import { hex } from './testing/hex.js';

describe('seededRandom', () => {
	it('gives the streams that its description defines', () => {
		// Own computation: SHA-256 and AES-128-CTR of node:crypto put together as the documentation comment says.
		const source = seededRandom('a seed é');
		expect(hex(source.bytes(32))).toBe('963e871f092ed9eb82cec83174575d2b34cc69e7c3e383978dd15b83800fc3a8');
		expect(hex(source.fork('a fork').bytes(32))).toBe(
			'9cde24214c4c09eb9d5c9539916b98e11faf801b5fa28a8e929015e455146f7a',
		);
		expect(hex(seededRandom(Uint8Array.of(1, 2, 3)).bytes(32))).toBe(
			'2bae1b0021bc4cf5e7d8affa2d85e7cc4f1f2ab05d887c600a49f5634a5e496f',
		);
	});

	it('gives the same bytes in 64 draws of 16 as in one of 1024', () => {
		const [single, many] = [seededRandom('s'), seededRandom('s')];
		const drawn = Array.from({ length: 64 }, () => hex(many.bytes(16))).join('');
		expect(drawn).toBe(hex(single.bytes(1024)));
	});

	test.prop([fc.array(fc.nat(6000), { maxLength: 6 })], { numRuns: 20 })(
		'is one sequence however it is cut, under either provider',
		(lengths) => {
			const total = lengths.reduce((sum, length) => sum + length, 0);
			const pieces = seededRandom('cut', nodeProvider);
			const drawn = lengths.map((length) => hex(pieces.bytes(length))).join('');
			expect(drawn).toBe(hex(seededRandom('cut').bytes(total)));
		},
	);

	it('forks by label alone: position matters neither to the fork nor to its parent', () => {
		const [moved, still] = [seededRandom('s'), seededRandom('s')];
		moved.bytes(5000);
		const before = hex(moved.fork('a').bytes(48));
		expect(hex(still.fork('a').bytes(48))).toBe(before);
		const untouched = seededRandom('s');
		untouched.bytes(5000);
		expect(hex(moved.bytes(48))).toBe(hex(untouched.bytes(48)));
	});

	it('gives different streams to different seeds, labels and depths', () => {
		const source = seededRandom('s');
		const streams = [
			source,
			seededRandom('t'),
			seededRandom(''),
			seededRandom(new Uint8Array(32)),
			seededRandom(new Uint8Array(33)),
			source.fork(''),
			source.fork('a'),
			source.fork('b'),
			source.fork('ab'),
			source.fork('a').fork('b'),
			source.fork('b').fork('a'),
		].map((one) => hex(one.bytes(32)));
		expect(new Set(streams).size).toBe(streams.length);
	});

	it('fills a view and nothing around it', () => {
		const memory = new Uint8Array(64);
		seededRandom('s').fill(memory.subarray(16, 48));
		expect(hex(memory.subarray(16, 48))).toBe(hex(seededRandom('s').bytes(32)));
		expect(hex(memory.subarray(0, 16)) + hex(memory.subarray(48))).toBe('00'.repeat(32));
	});
});

describe('systemRandom', () => {
	it('fills every part of draws of any size', () => {
		const source = systemRandom();
		for (const length of [16, 256, 257, 4096, 65536, 65537, 200_000]) {
			const data = source.bytes(length);
			expect(data.length).toBe(length);
			// 16 zero bytes in a row at a given place have probability 2^-128.
			for (let at = 0; at + 16 <= length; at += 16) {
				if (data.subarray(at, at + 16).every((byte) => byte === 0)) expect.fail(`zeros at ${at} of ${length}`);
			}
			expect(data.subarray(-16).every((byte) => byte === 0)).toBe(false);
		}
	});

	it('fills to the end draws that do not divide its buffer', () => {
		const source = systemRandom();
		for (let i = 0; i < 50; i++) {
			expect(
				source
					.bytes(250)
					.subarray(-16)
					.every((byte) => byte === 0),
			).toBe(false);
		}
	});

	it('never gives the same 16 bytes twice, within and across sources and refills', () => {
		const [a, b] = [systemRandom(), systemRandom()];
		const draws = Array.from({ length: 1000 }, (_, i) => hex((i % 2 === 0 ? a : b).bytes(16)));
		expect(new Set(draws).size).toBe(draws.length);
	});

	it('fills shared memory', () => {
		const shared = new Uint8Array(new SharedArrayBuffer(1000));
		systemRandom().fill(shared);
		expect(new Set(shared).size).toBeGreaterThan(100);
	});
});

for (const [name, source] of [
	['seededRandom', seededRandom('s')],
	['systemRandom', systemRandom()],
] as const) {
	it(`${name} gives no bytes for zero and refuses what is no length`, () => {
		expect(source.bytes(0).length).toBe(0);
		for (const bad of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
			expect(codeOf(() => source.bytes(bad))).toBe('length');
	});
}
