import { nobleProvider, seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { toHex } from '@cvm/layout';
import { fc, it } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { openKeySlotWriter } from './key-slots.js';
import { openMemoryController } from './memory-controller.js';
import { openPageLocks } from './page-locks.js';
import { createSilicon } from './silicon-state.js';
import { createTweak } from './tweak.js';

const MIB = 1 << 20;
const KEY = new Uint8Array(16).fill(0x42);

function setUp(provider = nodeProvider) {
	const silicon = createSilicon({ dramBytes: MIB, maxAsid: 3, random: seededRandom('silicon') });
	const slots = openKeySlotWriter(silicon.keySlots);
	slots.install(1, KEY);
	slots.install(2, new Uint8Array(16).fill(0x43));
	const dram = new Uint8Array(silicon.dram);
	return { silicon, slots, dram, memory: openMemoryController(silicon, provider) };
}

const shared = setUp();
const model = new Uint8Array(MIB);
shared.memory.write(1, 0, model);
const base = fc.integer({ min: 0, max: MIB - 0x12000 });
const length = fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 9000 }), fc.constant(0x11001));

describe('a memory controller', () => {
	it.prop([base, length, base, length, fc.integer()])(
		'reads what it wrote, at any address and length',
		(at, n, from, m, seed) => {
			const { memory } = shared;
			const data = Uint8Array.from({ length: n }, (_, i) => Math.imul(i + seed, 31) >>> 3);
			memory.write(1, at, data);
			model.set(data, at);
			const out = new Uint8Array(m);
			memory.read(1, from, out);
			expect(Buffer.compare(out, model.subarray(from, from + m))).toBe(0);
			const around = new Uint8Array(n + 2);
			const start = Math.max(0, at - 1);
			memory.read(1, start, around);
			expect(Buffer.compare(around, model.subarray(start, start + n + 2))).toBe(0);
		},
	);

	it.prop([
		fc.integer({ min: 0, max: 64 }),
		fc.integer({ min: 0, max: 9 }),
		fc.uint8Array({ minLength: 9, maxLength: 9 }),
	])('stores and loads raw DRAM as it is, words too', (at, n, data) => {
		const { memory, dram } = setUp();
		dram.fill(0xee, 0, 128);
		memory.write(0, at, data.subarray(0, n));
		const expected = new Uint8Array(128).fill(0xee);
		expected.set(data.subarray(0, n), at);
		expect(dram.slice(0, 128)).toEqual(expected);
		const out = new Uint8Array(n);
		memory.read(0, at, out);
		expect(out).toEqual(data.subarray(0, n));
	});

	it.prop([
		fc.integer({ min: 0, max: 0xfff }),
		fc.integer({ min: 0, max: 0xfff }),
		fc.uint8Array({ minLength: 16, maxLength: 16 }),
	])('is XEX: D(E(m, p) ⊕ T(p ⊕ q), q) = m ⊕ T(p ⊕ q)', (p, q, m) => {
		const { silicon, memory, dram } = shared;
		const t = new Int32Array(4);
		createTweak(silicon.tweakConstants).whitenBlock(t, (p ^ q) * 16);
		const mask = new Uint8Array(t.buffer);
		const masked = (block: Uint8Array) => block.map((b, i) => b ^ (mask[i] ?? 0));
		memory.write(1, p * 16, m);
		dram.set(masked(dram.slice(p * 16, p * 16 + 16)), q * 16);
		const out = new Uint8Array(16);
		memory.read(1, q * 16, out);
		expect(out).toEqual(masked(m));
		memory.write(1, 0, model.subarray(0, 0x10000));
	});

	it('gives the same ciphertext for the same key, address and plaintext, and another one if any differs', () => {
		const { memory, dram } = setUp();
		const at = (asid: number, spa: number, byte: number) => {
			memory.write(asid, spa, new Uint8Array(16).fill(byte));
			return toHex(dram.subarray(spa, spa + 16));
		};
		const first = at(1, 0x2000, 7);
		at(1, 0x2000, 8);
		expect(at(1, 0x2000, 7)).toBe(first);
		expect(new Set([first, at(1, 0x2000, 8), at(1, 0x2010, 7), at(1, 0x3000, 7), at(2, 0x2000, 7)]).size).toBe(5);
	});

	it('leaves plaintext nowhere in DRAM', () => {
		const { memory, dram } = setUp();
		const page = Uint8Array.from({ length: 4096 }, (_, i) => 0x80 | i);
		memory.write(1, 0x4000, page);
		memory.write(1, 0x8003, page.subarray(0, 100));
		for (let i = 0; i < 4096; i += 16) {
			expect(Buffer.from(dram).includes(Buffer.from(page.subarray(i, i + 8)))).toBe(false);
		}
	});

	it('reads raw DRAM for ASID 0', () => {
		const { memory, dram } = setUp();
		memory.write(0, 0x5001, Uint8Array.of(1, 2, 3));
		expect([...dram.subarray(0x5000, 0x5005)]).toEqual([0, 1, 2, 3, 0]);
		const out = new Uint8Array(3);
		memory.read(0, 0x5001, out);
		expect([...out]).toEqual([1, 2, 3]);
	});

	it('gives the same bytes with every provider', () => {
		const [a, b] = [setUp(nodeProvider), setUp(nobleProvider)];
		for (const { memory } of [a, b]) memory.write(1, 0x6005, new Uint8Array(5000).fill(9));
		expect(Buffer.compare(a.dram, b.dram)).toBe(0);
	});

	it('draws other constants at each start', () => {
		const random = seededRandom('boots');
		const [a, b] = [0, 1].map(() => createSilicon({ dramBytes: MIB, maxAsid: 1, random }));
		expect(a?.tweakConstants).not.toEqual(b?.tweakConstants);
	});

	it('sees at once that a slot was given another key', () => {
		const { slots, memory } = setUp();
		const before = new Uint8Array(16).fill(5);
		memory.write(1, 0x7000, before);
		const out = new Uint8Array(16);
		slots.clear(1);
		expect(() => memory.read(1, 0x7000, out)).toThrow('ASID 1: expected a key in its slot, got none');
		slots.install(1, new Uint8Array(16).fill(0x77));
		memory.read(1, 0x7000, out);
		expect(out).not.toEqual(before);
		slots.install(1, KEY);
		memory.read(1, 0x7000, out);
		expect(out).toEqual(before);
	});

	it('knows which ASIDs may run', () => {
		const { slots, memory } = setUp();
		expect(memory.isRunnable(1)).toBe(false);
		slots.enable(1);
		expect([0, 1, 2, 4, -1].map((asid) => memory.isRunnable(asid))).toEqual([false, true, false, false, false]);
		slots.clear(1);
		expect(memory.isRunnable(1)).toBe(false);
	});

	it.each([
		['range', 1, MIB - 8, 16],
		['range', 0, MIB, 1],
		['range', 1, -16, 16],
		['asid', 4, 0, 16],
		['asid', -1, 0, 16],
		['asid', 1.5, 0, 16],
		['key', 3, 0, 16],
	])('faults with code %s for ASID %d at %d', (code, asid, spa, n) => {
		const { memory } = setUp();
		expect(() => memory.read(asid, spa, new Uint8Array(n))).toThrow(
			expect.objectContaining({ name: 'SiliconError', code }),
		);
		expect(() => memory.write(asid, spa, new Uint8Array(n))).toThrow(
			expect.objectContaining({ name: 'SiliconError', code }),
		);
	});

	it('opens in another thread: its handle can be cloned', () => {
		const { silicon, memory } = setUp();
		memory.write(1, 0x123, Uint8Array.of(1, 2, 3));
		const out = new Uint8Array(3);
		openMemoryController(structuredClone({ dram: silicon }).dram, nobleProvider).read(1, 0x123, out);
		expect([...out]).toEqual([1, 2, 3]);
	});

	it('takes no handle that is not one', () => {
		expect(() => openMemoryController({ kind: 'cvm-silicon' }, nodeProvider)).toThrow(TypeError);
	});
});

describe('page locks', () => {
	it('tell a reader that somebody wrote in between, to that page only', () => {
		const { silicon } = setUp();
		const locks = openPageLocks(silicon.pageLocks);
		const [mine, other] = [locks.ticket(0x1000), locks.ticket(0x2000)];
		const lock = locks.acquire(0x1ff0);
		expect(locks.isUnchanged(0x1000, mine)).toBe(false);
		locks.release(lock);
		expect(locks.isUnchanged(0x1000, mine)).toBe(false);
		expect(locks.isUnchanged(0x2000, other)).toBe(true);
	});
	it('survive a writer that died with the lock', () => {
		const { silicon, memory } = setUp();
		openPageLocks(silicon.pageLocks).acquire(0x1000);
		memory.write(1, 0x1000, Uint8Array.of(9));
		const out = new Uint8Array(1);
		memory.read(1, 0x1000, out);
		expect(out[0]).toBe(9);
	});
});
