import { Register } from '../vm/vcpu-state.js';

/** Bit 1 of RFLAGS is always set. */
export const RFLAGS_ONE = 2n;

/** Attributes of a 64-bit code segment (present, code, readable, accessed, L, G) and a limit of 4 GiB, above a selector. */
const FLAT_CODE = (0xffffffffn << 32n) | (0xa9bn << 16n);

/**
 * Loads CS with a flat 64-bit code segment. PROJECT: guest code has no descriptor tables, and a jump that leaves its
 * segment or an interrupt loads this.
 */
export function loadFlatCode(registers: BigUint64Array, selector: bigint): void {
	registers[Register.csBase] = 0n;
	registers[Register.cs] = FLAT_CODE | (selector & 0xffffn);
}
