import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { openEngine } from './engine.js';
import { openKeySlotWriter } from './key-slots.js';
import { openMemoryController } from './memory-controller.js';
import { createSilicon } from './silicon-state.js';

function setUp() {
	const silicon = createSilicon({ dramBytes: 1 << 20, maxAsid: 1, random: seededRandom('engine') });
	openKeySlotWriter(silicon.keySlots).install(1, new Uint8Array(16).fill(0x42));
	return { engine: openEngine(silicon, nodeProvider), memory: openMemoryController(silicon, nodeProvider) };
}

const SPAS = [0x3000, 0x10ff0, 0x8010];
const LENGTHS = [4096, 8192, 16];
const pattern = Uint8Array.from({ length: 4096 + 8192 + 16 }, (_, i) => (i * 7) ^ (i >> 8));

describe('an engine', () => {
	it.each(['scratch', 'other'] as const)(
		'loads and stores ranges one after the other, by way of %s memory',
		(which) => {
			const { engine, memory } = setUp();
			const data = which === 'scratch' ? engine.scratch : pattern.slice();
			data.set(pattern);
			engine.store(1, SPAS, LENGTHS, 3, data);
			let at = 0;
			for (const [i, spa] of SPAS.entries()) {
				const out = new Uint8Array(LENGTHS[i] ?? 0);
				memory.read(1, spa, out);
				expect(Buffer.compare(out, pattern.subarray(at, at + out.length))).toBe(0);
				at += out.length;
			}
			data.fill(0);
			engine.load(1, SPAS, LENGTHS, 3, data);
			expect(Buffer.compare(data.subarray(0, pattern.length), pattern)).toBe(0);
		},
	);

	it('leaves data alone that is not its scratch memory', () => {
		const { engine } = setUp();
		const data = pattern.slice();
		engine.store(1, SPAS, LENGTHS, 3, data);
		expect(Buffer.compare(data, pattern)).toBe(0);
	});

	it('takes as much at once as its scratch memory holds', () => {
		const { engine } = setUp();
		const out = new Uint8Array(engine.scratch.length);
		engine.load(1, [0], [out.length], 1, out);
		const more = new Uint8Array(out.length + 16);
		const message = 'bulk: expected at most 131072 bytes, got 131088';
		expect(() => engine.load(1, [0, 0x40000], [out.length, 16], 2, more)).toThrow(message);
		expect(() => engine.store(1, [0, 0x40000], [out.length, 16], 2, more)).toThrow(message);
	});
});
