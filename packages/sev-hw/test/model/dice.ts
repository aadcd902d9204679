import { seededRandom } from '@cvm/crypto';
import { Policy } from '../../src/abi/policy.js';
import { AT, PAGES } from './world.js';

/** Numbers from a seed, fast: splitmix32 over the seed's hash. */
export function dice(seed: string) {
	let state = new DataView(seededRandom(seed).bytes(4).buffer).getUint32(0);
	const next = (): number => {
		state = (state + 0x9e3779b9) | 0;
		let x = state ^ (state >>> 16);
		x = Math.imul(x, 0x21f0aaad);
		x ^= x >>> 15;
		x = Math.imul(x, 0x735a2d97);
		return (x ^ (x >>> 15)) >>> 0;
	};
	const below = (n: number): number => next() % n;
	return {
		below,
		/** True once in `n` times. */
		once: (n: number): boolean => below(n) === 0,
		oneOf: <T>(list: readonly T[]): T => list[below(list.length)] as T,
		bytes: (length: number): Uint8Array => Uint8Array.from({ length }, () => below(256)),
	};
}
export type Dice = ReturnType<typeof dice>;

const CBIT = 1n << 51n;
export const NOISE_ADDRESSES: readonly bigint[] = [
	0n,
	0x1000n,
	0x9fff8n,
	0xa0000n,
	0xbfff0n,
	...PAGES,
	0x110008n,
	0x110010n,
	0x111800n,
	CBIT | 0x112000n,
	AT.tmr,
	AT.tmr - 16n,
	AT.end - 16n,
	AT.end,
	1n << 47n,
	1n << 52n,
	1n << 63n,
	0xfffffffffffffff0n,
];
export const NOISE_NUMBERS: readonly number[] = [
	0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 47, 48, 51, 52, 53, 64, 100, 101, 127, 128, 208, 509, 510, 2084, 4096, 4104,
	6252, 0x4000, 0x4010, 0x8000, 0x100000, 0x7fffffff, 0xffffffff,
];
/** Policies of guests, the usual ones more often. */
export const POLICIES: readonly number[] = [
	Policy.ES,
	Policy.ES,
	Policy.ES | Policy.NODBG,
	0,
	0,
	0,
	0,
	Policy.NODBG,
	Policy.NODBG,
	Policy.ES,
	Policy.ES,
	Policy.ES | Policy.NODBG,
	Policy.NOKS,
	Policy.NOSEND,
	Policy.DOMAIN,
	24 << 24,
	25 << 24,
	0x40,
	1 << 16,
];
/** Policies that make SEND_START verify chains, which is slow. */
export const RARE_POLICIES: readonly number[] = [Policy.SEV, Policy.SEV | Policy.DOMAIN | Policy.NODBG];
