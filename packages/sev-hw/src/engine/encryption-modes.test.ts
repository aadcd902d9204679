import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { fc, it } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { GENERATIONS, type GenerationName } from '../generations.js';
import { openKeySlotWriter } from './key-slots.js';
import { openMemoryController } from './memory-controller.js';
import { createSilicon } from './silicon-state.js';
import { createTweak, TWEAK_CONSTANTS_SIZE } from './tweak.js';
import type { MemoryEncryption } from './tweak-constants.js';

const MIB = 1 << 20;
const KEY = new Uint8Array(16).fill(0x42);
const zeroBlock = () => new Uint8Array(16);

function setUp(encryption: MemoryEncryption, seed = 'modes') {
	const silicon = createSilicon({ dramBytes: MIB, maxAsid: 1, random: seededRandom(seed), encryption });
	openKeySlotWriter(silicon.keySlots).install(1, KEY);
	const dram = new Uint8Array(silicon.dram);
	const memory = openMemoryController(silicon, nodeProvider);
	const tweak = createTweak(silicon.tweakConstants);
	/** T of an address. */
	const t = (spa: number): Uint8Array => {
		const words = new Int32Array(4);
		tweak.whitenBlock(words, spa);
		return new Uint8Array(words.buffer);
	};
	const encrypt = (m: Uint8Array, spa: number): Uint8Array => {
		memory.write(1, spa, m);
		return dram.slice(spa, spa + m.length);
	};
	const decrypt = (c: Uint8Array, spa: number): Uint8Array => {
		dram.set(c, spa);
		const out = new Uint8Array(c.length);
		memory.read(1, spa, out);
		return out;
	};
	return { silicon, t, encrypt, decrypt };
}

const xor = (a: Uint8Array, b: Uint8Array): Uint8Array => a.map((byte, i) => byte ^ (b[i] ?? 0));
const aes = nodeProvider.blockCipher(KEY);
function aesOf(block: Uint8Array): Uint8Array {
	const out = zeroBlock();
	aes.encrypt(block, out);
	return out;
}

/** The constants of a set, 16 bytes each. */
const constantsOf = (set: Uint8Array): Uint8Array[] =>
	Array.from({ length: set.length / 16 }, (_, i) => set.slice(16 * i, 16 * i + 16));

/** Rank over GF(2). */
function rank(rows: readonly Uint8Array[]): number {
	let left = rows.map((row) => row.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n));
	let found = 0;
	for (let bit = 127n; bit >= 0n; bit--) {
		const pivot = left.find((row) => (row >> bit) & 1n);
		if (pivot === undefined) continue;
		found++;
		left = left.map((row) => ((row >> bit) & 1n ? row ^ pivot : row));
	}
	return found;
}

const address = fc.integer({ min: 0, max: MIB / 16 - 1 }).map((n) => n * 16);
const blockOf = fc.uint8Array({ minLength: 16, maxLength: 16 });

describe.each(Object.keys(GENERATIONS) as GenerationName[])('memory encryption of %s', (name) => {
	const { encryption } = GENERATIONS[name];
	const isXex = encryption.mode === 'XEX';
	const { t, encrypt, decrypt } = setUp(encryption);

	it.prop([address, blockOf])('is AES with the tweak before it, and after it in XEX', (p, m) => {
		const inner = aesOf(xor(m, t(p)));
		expect(encrypt(m, p)).toEqual(isXex ? xor(inner, t(p)) : inner);
	});

	it.prop([address, address, blockOf])('moves a block as SEVurity says', (p, q, m) => {
		const mask = t(p ^ q);
		const c = encrypt(m, p);
		expect(decrypt(isXex ? xor(c, mask) : c, q)).toEqual(xor(m, mask));
	});

	it.prop([address.map((p) => p % (MIB - 0x4000)), fc.integer({ min: 3, max: 600 }), blockOf])(
		'does to a run what it does to its blocks, in both directions',
		(p, blocks, seed) => {
			const data = Uint8Array.from({ length: 16 * blocks }, (_, i) => (seed[i % 16] ?? 0) + (i >> 4));
			const pieces = constantsOf(data).map((m, i) => encrypt(m, p + 16 * i));
			const whole = encrypt(data, p);
			expect(Buffer.compare(Buffer.concat(pieces), whole)).toBe(0);
			expect(Buffer.compare(decrypt(whole, p), data)).toBe(0);
		},
	);
});

describe('tweak constants', () => {
	const boot = (name: GenerationName, seed: string) => setUp(GENERATIONS[name].encryption, seed).silicon.tweakConstants;

	it.each(['naples-early', 'naples'] as const)('of %s are 32-bit patterns, the same at every boot', (name) => {
		expect(boot(name, 'a')).toEqual(boot(name, 'b'));
		for (const constant of constantsOf(boot(name, 'a'))) {
			const pattern = [...constant.subarray(0, 4)];
			expect([...constant]).toEqual([...pattern, ...pattern, ...pattern, ...pattern]);
		}
	});

	it.each(['rome', 'milan', 'genoa', 'turin'] as const)('of %s are new at every boot, and all independent', (name) => {
		expect(boot(name, 'a')).not.toEqual(boot(name, 'b'));
		expect(rank(constantsOf(boot(name, 'a')))).toBe(48);
	});

	it('of an EPYC 7251 begin with the published ones', () => {
		const patterns = constantsOf(boot('naples-early', 'a')).map((c) => [...c.subarray(0, 4)]);
		expect(patterns.slice(0, 3)).toEqual([
			[0x82, 0x25, 0x38, 0x38],
			[0xec, 0x09, 0x07, 0x9c],
			[0x40, 0x00, 0x00, 0x18],
		]);
	});

	it('of Zen 1 span 32 dimensions, on later parts 28', () => {
		expect(rank(constantsOf(boot('naples-early', 'a')))).toBe(32);
		expect(rank(constantsOf(boot('naples', 'a')))).toBe(28);
	});

	it('of later Zen 1 let different addresses have one tweak', () => {
		const { t } = setUp(GENERATIONS.naples.encryption);
		// 40 constants in 28 dimensions: the first 29 of them already depend on each other.
		const rows = constantsOf(boot('naples', 'a')).slice(0, 29);
		const subset = dependency(rows);
		expect(subset).toBeGreaterThan(0);
		expect(t(subset * 16)).toEqual(zeroBlock());
	});

	it('can be given, and are copied', () => {
		const constants = seededRandom('own').bytes(TWEAK_CONSTANTS_SIZE);
		const expected = constants.slice();
		const { silicon } = setUp({ mode: 'XE', constants });
		constants.fill(0);
		expect(silicon.tweakConstants).toEqual(expected);
		expect(() => setUp({ mode: 'XE', constants: new Uint8Array(767) })).toThrow(
			'tweak constants: expected 768 bytes, got 767',
		);
	});

	it('leave the rest of a seeded stream where it was', () => {
		const next = (name: GenerationName) => {
			const random = seededRandom('stream');
			createSilicon({ dramBytes: MIB, maxAsid: 1, random, encryption: GENERATIONS[name].encryption });
			return random.bytes(16);
		};
		expect(next('naples')).toEqual(next('milan'));
	});
});

/** Which of the rows, as bits of a number, add up to zero; 0 if they are independent. */
function dependency(rows: readonly Uint8Array[]): number {
	const basis: { value: bigint; from: number }[] = [];
	for (const [i, row] of rows.entries()) {
		let value = row.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
		let from = 2 ** i;
		for (const b of basis) {
			if ((value ^ b.value) < value) {
				value ^= b.value;
				from = (from ^ b.from) >>> 0;
			}
		}
		if (value === 0n) return from;
		basis.push({ value, from });
		basis.sort((a, b) => (a.value > b.value ? -1 : 1));
	}
	return 0;
}
