import { describe, expect, it } from 'vitest';
import { checkExtension, enableCap } from './capabilities.js';
import { VmWord } from './vm-state.js';

const words = () => new Int32Array(256);

describe('KVM_CHECK_EXTENSION', () => {
	it('reports what there is', () => {
		expect([10, 188, 189, 201].map((cap) => checkExtension('upstream', cap))).toEqual([32764, 1, 1, 0x1000]);
		expect([10, 188, 189, 201].map((cap) => checkExtension('v12', cap))).toEqual([32764, 1, 1, 0]);
	});

	it.each([0, 197, 206, 9999])('does not know %d', (cap) => {
		expect(checkExtension('upstream', cap)).toBe(0);
	});
});

describe('KVM_ENABLE_CAP', () => {
	const bits = Array.from({ length: 64 }, (_, i) => BigInt(i));

	// Linux tools/testing/selftests/kvm/x86_64/userspace_msr_exit_test.c test_user_exit_msr_flags.
	it('takes bits 0 to 2 of the MSR exit reasons and no other', () => {
		for (const bit of bits) {
			const w = words();
			expect(enableCap(w, 'upstream', 188, [1n << bit])).toBe(bit < 3n ? 0 : -22);
			expect(w[VmWord.msrExitMask]).toBe(bit < 3n ? 1 << Number(bit) : 0);
		}
	});

	it('takes bit 12 of the exiting hypercalls and no other; the last call wins', () => {
		const w = words();
		for (const bit of bits) expect(enableCap(w, 'upstream', 201, [1n << bit])).toBe(bit === 12n ? 0 : -22);
		expect(w[VmWord.exitHypercallMask]).toBe(0x1000);
		expect(enableCap(w, 'upstream', 201, [0n])).toBe(0);
		expect(w[VmWord.exitHypercallMask]).toBe(0);
	});

	it.each([
		['v12', 201],
		['upstream', 189],
		['upstream', 10],
		['upstream', 0],
	] as const)('of %s refuses %d', (abi, cap) => {
		expect(enableCap(words(), abi, cap, [0n])).toBe(-22);
	});
});
