import type { RandomSource } from '@cvm/crypto';
import { TWEAK_BITS, TWEAK_CONSTANTS_SIZE } from './tweak.js';

/** How memory encryption uses the tweak T of an address: XE is AES(m ⊕ T), XEX is AES(m ⊕ T) ⊕ T. */
export type EncryptionMode = 'XE' | 'XEX';

/** The memory encryption of a processor generation. */
export interface MemoryEncryption {
	readonly mode: EncryptionMode;
	/**
	 * The tweak constants: 16 bytes for each of the address bits 4 … 51, in this order, the same at every boot; or
	 * `fresh`: drawn at every boot.
	 */
	readonly constants: Uint8Array | 'fresh';
}

/**
 * The constants of an EPYC 7251 that are published, for address bits 4, 5 and 6 (Wilke et al., "SEVurity", IEEE S&P 2020,
 * Table I): 4 bytes in the order of memory, which stand four times in the constant.
 */
const PUBLISHED = [
	[0x82, 0x25, 0x38, 0x38],
	[0xec, 0x09, 0x07, 0x9c],
	[0x40, 0x00, 0x00, 0x18],
] as const;

/** Each constant of Zen 1 is a pattern of 32 bits four times. The first byte in memory is the lowest of the number. */
function repeated(patterns: readonly number[]): Uint8Array {
	const view = new DataView(new ArrayBuffer(TWEAK_CONSTANTS_SIZE));
	for (let at = 0; at < TWEAK_CONSTANTS_SIZE; at += 4) view.setUint32(at, patterns[at >> 4] ?? 0, true);
	return new Uint8Array(view.buffer);
}

/** `count` numbers of 32 bits, none of them 0, by Marsaglia's xorshift (13, 17, 5) from 1 on. */
function xorshift(count: number): number[] {
	let x = 1;
	return Array.from({ length: count }, () => {
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		return x >>> 0;
	});
}

/**
 * Early Zen 1 (EPYC 7251): the published constants, then generated ones.
 *
 * UNCERTAIN(Wilke et al., SEVurity, Table I): the constants of address bits 7 and up were not at hand (Du et al. have
 * them for the Ryzen 7 1700X). Those here are the numbers of a generator and only have the published form.
 */
export const zen1EarlyConstants = (): Uint8Array => {
	const published = PUBLISHED.map((bytes) => new DataView(Uint8Array.from(bytes).buffer).getUint32(0, true));
	return repeated([...published, ...xorshift(TWEAK_BITS - published.length)]);
};

/** Bits in which patterns of later Zen 1 parts differ: so no more than 28 of them are linearly independent. */
const LATER_BITS = 0x0fffffff;

/**
 * Later Zen 1 (EPYC 7401P, Embedded 3151): generated constants, of which 28 are linearly independent, as on the parts
 * that were tested.
 *
 * UNCERTAIN(Wilke et al., SEVurity): neither the constants nor the space that they span are published; only its
 * dimension is.
 */
export const zen1LaterConstants = (): Uint8Array => repeated(xorshift(TWEAK_BITS).map((n) => n & LATER_BITS));

/**
 * The constants of one boot. A set is drawn even where it is fixed: so a seed gives the same keys on every generation.
 *
 * @throws RangeError for constants of another size
 */
export function bootConstants({ constants }: MemoryEncryption, random: RandomSource): Uint8Array {
	const drawn = random.bytes(TWEAK_CONSTANTS_SIZE);
	if (constants === 'fresh') return drawn;
	if (constants.length !== TWEAK_CONSTANTS_SIZE) {
		throw new RangeError(`tweak constants: expected ${TWEAK_CONSTANTS_SIZE} bytes, got ${constants.length}`);
	}
	return constants.slice();
}
